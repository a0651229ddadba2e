"""An int8 model as a C++ bundle for TensorFlow Lite Micro, with vectors that prove it on the board.

Plain files to drop into a firmware's source tree: the model as an aligned array, a resolver with
exactly the ops it uses, its contract as constants, golden vectors, and a self-test over them.
Beside them the .tflite itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keras_lenet.artifacts import digest, write_bytes
from keras_lenet.edge import inspection, metadata_writer, parity
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error

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
"""What registers each op, in TensorFlow Lite Micro's micro_mutable_op_resolver.h."""


def golden_images(
    images: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], list[str]]:
    """The first image of each class, and edge cases that saturate or excite every pixel.

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

    Args:
        model: an int8 digit classifier.
        images: uint8, (M, 28, 28): what the golden vectors are made of.
        names: one for each image.
        folder: for the files.

    Raises:
        Error: the file isn't an int8 digit classifier, or uses an op that the resolver table lacks.
    """
    classifier = Classifier(model, kernels="reference")
    if classifier.input.dtype != np.int8 or classifier.output.dtype != np.int8:
        raise Error(f"{model}: the microcontroller bundle takes an int8 file")
    stem = model.stem.removesuffix("_int8")
    content = model.read_bytes()
    inputs, outputs = classifier.quantize(images), classifier.raw(images, batch_size=1)
    used, how = parity.arena(model)
    arena = -(-used // 1024) * 1024
    files = {
        f"{stem}_model.h": _model_header(stem, content),
        f"{stem}_model.cc": _model_source(stem, content),
        f"{stem}_ops.h": _resolver(stem, inspection.inspect(model)),
        f"{stem}_contract.h": _contract(stem, classifier, _labels(content), arena, how),
        f"{stem}_golden.h": _golden(stem, inputs, outputs, names),
        "self_test.cc": SELF_TEST.replace("@stem@", stem).replace("@STEM@", stem.upper()),
        "Makefile": MAKEFILE.replace("@stem@", stem),
        "README.md": _page(stem, model.name, content, arena, how),
    }
    for name, text in files.items():
        write_bytes(folder / name, text.encode())
    write_bytes(folder / model.name, content)


def fnv1a(content: bytes) -> int:
    """The 32-bit FNV-1a hash (Fowler, Noll, Vo): a few instructions on any board."""
    value = 0x811C9DC5
    for byte in content:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


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
    """What a file calls its classes; their numbers where it doesn't say."""
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
// A lower probability than this means that the image shows none of them.
constexpr float {stem}_threshold = {classifier.threshold!r}f;

// {how}.
constexpr int {stem}_arena_size = {arena};
""",
    )


def _golden(
    stem: str, inputs: NDArray[np.int8], outputs: NDArray[np.int8], names: list[str]
) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    images = "\n".join(f"  {{\n{_rows(image.ravel(), 28)}\n  }}," for image in inputs)
    answers = "\n".join(f"  {{{', '.join(map(str, row))}}}," for row in outputs)
    return _guarded(
        f"{stem}_golden",
        f"""// Images and what TensorFlow Lite's reference kernels answer to them, bit for bit.

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
// Prints PASS, or the first thing that differs. Call self_test() from a firmware's main, or build
// it here: make

#include <cstdio>

#include "@stem@_contract.h"
#include "@stem@_golden.h"
#include "@stem@_model.h"

#if __has_include("tensorflow/lite/micro/micro_interpreter.h")
#define HAVE_INTERPRETER 1
#include "@stem@_ops.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/schema/schema_generated.h"
#else
#define HAVE_INTERPRETER 0
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

#if HAVE_INTERPRETER
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
bool check_answers() { return true; }
#endif

}  // namespace

int self_test() {
  if (!check_model() || !check_vectors() || !check_answers()) return 1;
  std::printf("PASS: the model array and %d golden vectors%s\\n", @stem@_golden_count,
              HAVE_INTERPRETER ? ", answered bit for bit" : "; no interpreter to answer them");
  return 0;
}

#ifndef @STEM@_NO_MAIN
int main() { return self_test(); }
#endif
"""

MAKEFILE = """\
# The self-test on this machine. With TensorFlow Lite Micro: make TFLM=/path/to/tflite-micro,
# built there first as its own documentation says; LIBS names the library that this made.

CXX ?= g++
CXXFLAGS ?= -std=c++17 -O2 -Wall -Wextra -Werror
LIBS ?=
ifdef TFLM
CPPFLAGS += -isystem $(TFLM)
endif

test: self_test
\t./self_test

self_test: self_test.cc @stem@_model.cc $(wildcard *.h)
\t$(CXX) $(CPPFLAGS) $(CXXFLAGS) -o $@ self_test.cc @stem@_model.cc $(LIBS)

clean:
\trm -f self_test

.PHONY: test clean
"""


def _page(stem: str, file: str, content: bytes, arena: int, how: str) -> str:
    return f"""# {stem} on a microcontroller

| file | what it is |
|---|---|
| `{stem}_model.h`, `.cc` | the int8 .tflite as an array, {len(content):,} bytes of flash |
| `{stem}_ops.h` | an op resolver with exactly the ops it uses |
| `{stem}_contract.h` | shapes, scales, zero points, labels, and the arena: {arena:,} bytes of RAM |
| `{stem}_golden.h` | images and the outputs that belong to them, bit for bit |
| `self_test.cc` | prints PASS, or the first output that differs |
| `{file}` | the .tflite itself, for compilers such as Arm's Vela, and for `keras-lenet export-c` |

The arena: {how}.

## Build

1. Copy the folder into a project that has TensorFlow Lite Micro, such as one made from
   tflite-micro's own project generator, or the board vendor's package of it.
2. Add `{stem}_model.cc` and `self_test.cc` to the sources, define `{stem.upper()}_NO_MAIN`, and
   call `int self_test()` once at start-up. C++17.
3. When it prints PASS, the board computes what the host computes. Classify:

```cpp
{stem}_resolver resolver;
{stem}_register_ops(resolver);
tflite::MicroInterpreter interpreter(tflite::GetModel({stem}_model), resolver, arena,
                                     {stem}_arena_size);
interpreter.AllocateTensors();
for (int i = 0; i < {stem}_input_size; ++i)
  interpreter.input(0)->data.int8[i] = pixels[i] - 128;  // 0 = background, 255 = ink
interpreter.Invoke();
const signed char* scores = interpreter.output(0)->data.int8;
```

On a desktop, `make` builds the self-test and runs it: without TensorFlow Lite Micro's headers it
checks the array and the vectors alone, and says so.
"""
