"""An int8 model as a C++ bundle for TensorFlow Lite Micro, with vectors that prove it on the board.

Plain files for a firmware's source tree: the model as an aligned array, a resolver with exactly the
ops that it uses, its contract as constants, golden vectors, and a self-test that compares them.
Beside these files lies the .tflite itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keras_lenet import console
from keras_lenet.artifacts import digest, write_bytes
from keras_lenet.deploy import bare_name
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error
from keras_lenet.tflite import inspection, metadata_writer, parity

RESOLVER = {
    "AVERAGE_POOL_2D": "AddAveragePool2D",
    "CONV_2D": "AddConv2D",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "FULLY_CONNECTED": "AddFullyConnected",
    "MAX_POOL_2D": "AddMaxPool2D",
    "MEAN": "AddMean",
    "PAD": "AddPad",
    "QUANTIZE": "AddQuantize",
    "RELU": "AddRelu",
    "RESHAPE": "AddReshape",
    "RESIZE_BILINEAR": "AddResizeBilinear",
    "SOFTMAX": "AddSoftmax",
    "TANH": "AddTanh",
}
"""The method that registers each op, in TensorFlow Lite Micro's micro_mutable_op_resolver.h."""

ATTRIBUTION = """\
The images named after a digit are from "Optical Recognition of Handwritten Digits" by E. Alpaydin
and C. Kaynak, UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, scaled to 28x28.
Licence: CC BY 4.0, https://creativecommons.org/licenses/by/4.0/
"""
"""Credit that the licence of these images asks for, in every file that shows them."""


def golden_images(
    images: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], list[str]]:
    """Return the first image of each class, and edge cases that saturate or excite every pixel.

    Args:
        images: uint8, (N, 28, 28).
        labels: uint8, (N,).

    Returns:
        uint8, (M, 28, 28), and a name for each.
    """
    chosen = [images[np.flatnonzero(labels == label)[0]] for label in np.unique(labels)]
    names = [f"a {label}" for label in np.unique(labels)]
    rows, columns = np.indices((28, 28))
    edges = {
        "blank": np.zeros((28, 28)),
        "full ink": np.full((28, 28), 255),
        "checkerboard": (rows + columns) % 2 * 255,
        "gradient": (rows * 28 + columns) * 255 // 783,
        "one pixel in each corner": np.isin(rows, (0, 27)) * np.isin(columns, (0, 27)) * 255,
        "noise": np.random.default_rng(0).integers(0, 256, (28, 28)),
    }
    edge_images = [edge.astype(np.uint8) for edge in edges.values()]
    return np.stack(chosen + edge_images), names + list(edges)


def write(model: Path, images: NDArray[np.uint8], names: list[str], folder: Path) -> None:
    """Write the bundle of an int8 .tflite into `folder`.

    The golden vectors are answers of TensorFlow Lite Micro's own interpreter: its kernels round
    otherwise than those of TensorFlow Lite. Where tflite-micro isn't installed, the bundle has
    neither golden vectors nor the self-test, and a message says so.

    Args:
        model: an int8 digit classifier.
        images: uint8, (M, 28, 28): inputs of the golden vectors.
        names: one for each image.
        folder: for the files.

    Raises:
        Error: the file isn't an int8 digit classifier, or uses an op that the resolver table lacks.
    """
    classifier = Classifier(model)
    if classifier.input.dtype != np.int8 or classifier.output.dtype != np.int8:
        raise Error(f"{model}: the microcontroller bundle takes an int8 file")
    stem = bare_name(model)
    content = model.read_bytes()
    used, how = parity.arena(model)
    arena = -(-used // 1024) * 1024
    files = {
        f"{stem}_model.h": _model_header(stem, content),
        f"{stem}_model.cc": _model_source(stem, content),
        f"{stem}_ops.h": _resolver(stem, inspection.inspect(model)),
        f"{stem}_contract.h": _contract(stem, classifier, _labels(content), arena, how),
    }
    tested = parity.has_micro()
    if tested:
        inputs = classifier.quantize(images)
        outputs, _ = parity.run_micro(model, inputs)
        files[f"{stem}_golden.h"] = _golden(stem, inputs, outputs, names)
        files["self_test.cc"] = _filled(SELF_TEST, stem)
        files["Makefile"] = _filled(MAKEFILE, stem)
    else:
        console.say(
            f"no golden vectors for {model.name}: they need TensorFlow Lite Micro's interpreter "
            f"({parity.INSTALL}, x86-64 Linux only)"
        )
    files["README.md"] = _page(stem, model.name, content, arena, how, tested)
    for name, text in files.items():
        write_bytes(folder / name, text.encode())
    write_bytes(folder / model.name, content)


def fnv1a(content: bytes) -> int:
    """Compute the 32-bit FNV-1a hash (Fowler, Noll, Vo): a few instructions on any board."""
    value = 0x811C9DC5
    for byte in content:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def _filled(template: str, stem: str) -> str:
    return template.replace("@stem@", stem).replace("@STEM@", stem.upper())


def _rows(values: Iterable[int], width: int = 16) -> str:
    numbers = [f"{value}," for value in values]
    rows = (" ".join(numbers[i : i + width]) for i in range(0, len(numbers), width))
    return "\n".join(f"    {row}" for row in rows)


def _guarded(name: str, body: str) -> str:
    guard = f"{name.upper()}_H_"
    return f"#ifndef {guard}\n#define {guard}\n\n{body}\n#endif  // {guard}\n"


def _model_header(stem: str, content: bytes) -> str:
    return _guarded(
        f"{stem}_model",
        f"""// {stem}, int8: a .tflite of {len(content)} bytes, SHA-256
// {digest(content)}.

constexpr unsigned {stem}_model_size = {len(content)};
constexpr unsigned {stem}_model_fnv1a = {fnv1a(content):#010x};

// In flash; aligned, since weights are read where they lie.
extern const unsigned char {stem}_model[{stem}_model_size];
""",
    )


def _model_source(stem: str, content: bytes) -> str:
    return f"""#include "{stem}_model.h"

alignas(16) const unsigned char {stem}_model[{stem}_model_size] = {{
{_rows(content)}
}};
"""


def _resolver(stem: str, report: inspection.Report) -> str:
    ops = sorted({op.name for op in report.ops})
    unknown = [op for op in ops if op not in RESOLVER]
    if unknown:
        raise Error(f"{unknown[0]} is not among the ops that the resolver table knows")
    calls = "\n".join(f"  if (resolver.{RESOLVER[op]}() != kTfLiteOk) return false;" for op in ops)
    return _guarded(
        f"{stem}_ops",
        f"""#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

// Exactly the ops that the model uses; nothing else is linked.
using {stem}_resolver = tflite::MicroMutableOpResolver<{len(ops)}>;

inline bool {stem}_register_ops({stem}_resolver& resolver) {{
{calls}
  return true;
}}
""",
    )


def _labels(content: bytes) -> list[str]:
    """Return the names of a file's classes; their numbers where the file has no names."""
    return metadata_writer.labels(content) or [str(number) for number in range(10)]


def _contract(stem: str, classifier: Classifier, labels: list[str], arena: int, how: str) -> str:
    image, scores = classifier.input, classifier.output
    return _guarded(
        f"{stem}_contract",
        f"""// Input: one image, 28 rows of 28 pixels, int8: the pixel less 128, where pixel 0 is
// background and 255 is ink. Output: int8: probability = (value + 128) / 256, class = index.

constexpr int {stem}_side = 28;
constexpr int {stem}_input_size = 784;
constexpr float {stem}_input_scale = {image.scale!r}f;
constexpr int {stem}_input_zero_point = {image.zero_point};
constexpr int {stem}_classes = 10;
constexpr float {stem}_output_scale = {scores.scale!r}f;
constexpr int {stem}_output_zero_point = {scores.zero_point};
constexpr const char* {stem}_labels[{stem}_classes] = {{
    {", ".join(map(json.dumps, labels))}}};
// Below this probability, the image shows none of them.
constexpr float {stem}_threshold = {classifier.threshold!r}f;

// {how}.
constexpr int {stem}_arena_size = {arena};
""",
    )


def _golden(
    stem: str, inputs: NDArray[np.int8], outputs: NDArray[np.int8], names: list[str]
) -> str:
    credit = ATTRIBUTION.replace("\n", "\n// ").rstrip("/ \n")
    quoted = ", ".join(f'"{name}"' for name in names)
    images = "\n".join(f"  {{\n{_rows(image.ravel(), 28)}\n  }}," for image in inputs)
    answers = "\n".join(f"  {{{', '.join(map(str, row))}}}," for row in outputs)
    return _guarded(
        f"{stem}_golden",
        f"""// Images and the outputs of TensorFlow Lite Micro's interpreter for them, bit for bit.
//
// {credit}

constexpr int {stem}_golden_count = {len(inputs)};

constexpr const char* {stem}_golden_names[{stem}_golden_count] = {{{quoted}}};

constexpr signed char {stem}_golden_images[{stem}_golden_count][784] = {{
{images}
}};

constexpr signed char {stem}_golden_outputs[{stem}_golden_count][10] = {{
{answers}
}};
""",
    )


SELF_TEST = """\
// Prints PASS, or the first difference. Call self_test() from a firmware's main with
// @STEM@_NO_MAIN defined, or build and run it on this machine: make

#include <cstdio>

#include "@stem@_contract.h"
#include "@stem@_golden.h"
#include "@stem@_model.h"

// Defined by the Makefile where no TensorFlow Lite Micro is named: the interpreter isn't tested.
#ifndef @STEM@_NO_INTERPRETER
#include "@stem@_ops.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/schema/schema_generated.h"
#endif

namespace {

// The array reached the flash whole, and aligned.
bool check_model() {
  unsigned hash = 0x811c9dc5u;
  for (unsigned i = 0; i < @stem@_model_size; ++i) {
    hash = (hash ^ @stem@_model[i]) * 0x01000193u;
  }
  if (hash != @stem@_model_fnv1a) {
    std::printf("FAIL: the model's hash is %08x, expected %08x\\n", hash, @stem@_model_fnv1a);
    return false;
  }
  if (reinterpret_cast<__UINTPTR_TYPE__>(@stem@_model) % 16 != 0) {
    std::printf("FAIL: the model is not aligned to 16 bytes\\n");
    return false;
  }
  return true;
}

// The expected outputs are probabilities: rounding apart, they add up to 1.
bool check_vectors() {
  for (int i = 0; i < @stem@_golden_count; ++i) {
    int sum = 0;
    for (int k = 0; k < @stem@_classes; ++k) {
      sum += @stem@_golden_outputs[i][k] - @stem@_output_zero_point;
    }
    if (sum < 246 || sum > 266) {
      std::printf("FAIL: golden outputs of %s add up to %d/256\\n", @stem@_golden_names[i], sum);
      return false;
    }
  }
  return true;
}

#ifndef @STEM@_NO_INTERPRETER
const char* const answered = ", answered bit for bit";
alignas(16) unsigned char arena[@stem@_arena_size];

bool check_answers() {
  @stem@_resolver resolver;
  if (!@stem@_register_ops(resolver)) return false;
  tflite::MicroInterpreter interpreter(tflite::GetModel(@stem@_model), resolver, arena,
                                       @stem@_arena_size);
  if (interpreter.AllocateTensors() != kTfLiteOk) {
    std::printf("FAIL: the arena of %d bytes is too small\\n", @stem@_arena_size);
    return false;
  }
  for (int i = 0; i < @stem@_golden_count; ++i) {
    for (int k = 0; k < @stem@_input_size; ++k) {
      interpreter.input(0)->data.int8[k] = @stem@_golden_images[i][k];
    }
    if (interpreter.Invoke() != kTfLiteOk) {
      std::printf("FAIL: %s: the interpreter stopped\\n", @stem@_golden_names[i]);
      return false;
    }
    for (int k = 0; k < @stem@_classes; ++k) {
      const int found = interpreter.output(0)->data.int8[k];
      if (found != @stem@_golden_outputs[i][k]) {
        std::printf("FAIL: %s: output %d is %d, expected %d\\n", @stem@_golden_names[i], k, found,
                    @stem@_golden_outputs[i][k]);
        return false;
      }
    }
  }
  return true;
}
#else
const char* const answered = "; no interpreter to answer them";
bool check_answers() { return true; }
#endif

}  // namespace

int self_test() {
  if (!check_model() || !check_vectors() || !check_answers()) return 1;
  std::printf("PASS: the model array and %d golden vectors%s\\n", @stem@_golden_count,
              answered);
  return 0;
}

#ifndef @STEM@_NO_MAIN
int main() { return self_test(); }
#endif
"""

MAKEFILE = """\
# make: check the model array and the golden vectors, without an interpreter.
# make TFLM=/path/to/tflite-micro: run the interpreter of a checkout that was built there first by
#     make -f tensorflow/lite/micro/tools/make/Makefile microlite
# LIBRARY=/path/to/libtensorflow-microlite.a names another library than the one for this machine.

CXX ?= g++
CXXFLAGS ?= -O2 -Wall -Wextra -Werror

# Not CPPFLAGS, which anyone may set: these have to reach the compiler.
ifeq ($(origin TFLM),undefined)
OPTIONS := -D@STEM@_NO_INTERPRETER
else
DOWNLOADS := $(TFLM)/tensorflow/lite/micro/tools/make/downloads
FOLDERS := $(TFLM) $(DOWNLOADS)/flatbuffers/include $(DOWNLOADS)/gemmlowp $(DOWNLOADS)/ruy
LIBRARY ?= $(TFLM)/gen/linux_$(shell uname -m)_default_gcc/lib/libtensorflow-microlite.a
NEEDED := $(TFLM)/tensorflow/lite/micro/micro_interpreter.h $(wordlist 2,4,$(FOLDERS)) $(LIBRARY)
MISSING := $(filter-out $(wildcard $(NEEDED)),$(NEEDED))
ifneq ($(MISSING),)
$(error TFLM=$(TFLM) is no tflite-micro that was built: $(firstword $(MISSING)) is missing)
endif
# The library is built with this definition, which changes its structs.
OPTIONS := -DTF_LITE_STATIC_MEMORY $(addprefix -isystem ,$(FOLDERS))
endif

test: self_test
\t./self_test

# Built anew each time: whether TFLM is given changes the program.
self_test: self_test.cc @stem@_model.cc $(wildcard *.h) always
\t$(CXX) -std=c++17 $(OPTIONS) $(CPPFLAGS) $(CXXFLAGS) $(LDFLAGS) -o $@ self_test.cc \\
\t    @stem@_model.cc $(LIBRARY) $(LDLIBS)

clean:
\trm -f self_test

.PHONY: test clean always
"""


def _page(stem: str, file: str, content: bytes, arena: int, how: str, tested: bool) -> str:
    vectors = _filled(_VECTORS, stem) if tested else ""
    return f"""# {stem} on a microcontroller

| file | content |
|---|---|
| `{stem}_model.h`, `.cc` | the int8 .tflite as an array, {len(content):,} bytes of flash |
| `{stem}_ops.h` | an op resolver with exactly the ops that the model uses |
| `{stem}_contract.h` | shapes, scales, labels, threshold, and the arena: {arena:,} bytes of RAM |
{vectors}| `{file}` | the .tflite itself, for Arm's Vela and `keras-lenet export-c` |

The arena: {how}.

{_filled(_TESTED, stem) + chr(10) + ATTRIBUTION if tested else _UNTESTED}
## Classify

```cpp
#include "{stem}_contract.h"
#include "{stem}_model.h"
#include "{stem}_ops.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/schema/schema_generated.h"

alignas(16) static unsigned char arena[{stem}_arena_size];

// The class of an image of 28 rows of 28 pixels, 0 = background, 255 = ink.
// -1: the greatest probability is below {stem}_threshold, so the image shows none of the classes.
int classify(const unsigned char* pixels) {{
  static {stem}_resolver resolver;
  static tflite::MicroInterpreter interpreter(tflite::GetModel({stem}_model), resolver, arena,
                                              {stem}_arena_size);
  static const bool ready =
      {stem}_register_ops(resolver) && interpreter.AllocateTensors() == kTfLiteOk;
  if (!ready) return -1;
  for (int i = 0; i < {stem}_input_size; ++i) interpreter.input(0)->data.int8[i] = pixels[i] - 128;
  if (interpreter.Invoke() != kTfLiteOk) return -1;
  const signed char* scores = interpreter.output(0)->data.int8;
  int best = 0;
  for (int k = 1; k < {stem}_classes; ++k) best = scores[k] > scores[best] ? k : best;
  return (scores[best] + 128) / 256.0f >= {stem}_threshold ? best : -1;
}}
```
"""


_VECTORS = """\
| `@stem@_golden.h` | images, and the outputs of TensorFlow Lite Micro's interpreter for them |
| `self_test.cc` | prints PASS, or the first output that differs |
| `Makefile` | builds and runs the self-test |
"""

_UNTESTED = f"""\
There are no golden vectors and no self-test: where this bundle was made, TensorFlow Lite Micro's
interpreter was not installed ({parity.INSTALL}; there are packages for x86-64 Linux alone).
"""

_TESTED = """\
## Self-test on this machine

`make` checks the array and the vectors, without an interpreter. With a checkout of
[tflite-micro](https://github.com/tensorflow/tflite-micro), its library comes first:

```sh
make -C /path/to/tflite-micro -f tensorflow/lite/micro/tools/make/Makefile microlite
make TFLM=/path/to/tflite-micro
```

prints `PASS: the model array and … golden vectors, answered bit for bit`. Without the checkout's
headers or its library `make TFLM=…` fails.

For a Cortex-M4 (add the linker script and the start-up code of the board to `LDFLAGS`):

```sh
make -C /path/to/tflite-micro -f tensorflow/lite/micro/tools/make/Makefile \\
    TARGET=cortex_m_generic TARGET_ARCH=cortex-m4 microlite
make self_test TFLM=/path/to/tflite-micro CXX=arm-none-eabi-g++ \\
    CXXFLAGS="-mcpu=cortex-m4 -mthumb -Os" LDFLAGS=--specs=rdimon.specs \\
    LIBRARY="$(echo /path/to/tflite-micro/gen/cortex_m_generic_cortex-m4_*/lib/*.a)"
```

## Self-test on the board

1. Copy the folder into a project that has TensorFlow Lite Micro, such as one made from
   tflite-micro's own project generator, or the board vendor's package of it.
2. Add `@stem@_model.cc` and `self_test.cc` to the sources, define `@STEM@_NO_MAIN`, and
   call `int self_test()` once at start-up. C++17.
3. `PASS` means that the board computes bit for bit what TensorFlow Lite Micro's reference kernels
   compute. Kernels of a vendor may round otherwise.
"""
