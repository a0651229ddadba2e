"""The folder of a generated network: its C, a test with vectors, a Makefile, an example, a page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keras_lenet.artifacts import digest, write_bytes
from keras_lenet.deploy import bare_name
from keras_lenet.deploy.c import graph, measure, source
from keras_lenet.deploy.tflm import ATTRIBUTION
from keras_lenet.edge.classifier import Classifier
from keras_lenet.tflite import inspection


def write(model: Path, images: NDArray[np.uint8], names: list[str], folder: Path) -> None:
    """Generate C from an int8 .tflite into `folder`.

    Args:
        model: an int8 digit classifier.
        images: uint8, (N, 28, 28): what the test's vectors are made of.
        names: one for each image.
        folder: for the files.

    Raises:
        Error: the file can't be read, or holds what no C is generated for; nothing is written.
    """
    network = graph.read(model)
    name = identifier(model)
    title = f"{model.name}, SHA-256 {digest(model.read_bytes())}"
    classifier = Classifier(model, kernels="reference")
    answers = classifier.raw(images, batch_size=1)
    files = {
        f"{name}.h": source.header(name, title, network, classifier.threshold),
        f"{name}.c": source.source(name, title, network),
        f"{name}_test.c": _test(name, images, answers, names),
        f"{name}_example/{name}_example.ino": _filled(EXAMPLE, name),
        "Makefile": _filled(MAKEFILE, name),
    }
    measured = measure.measure(name, files[f"{name}.h"], files[f"{name}.c"])
    files["README.md"] = _page(name, model, network, len(images), measured)
    for path, text in files.items():
        write_bytes(folder / path, text.encode())


def identifier(model: Path) -> str:
    """What a model's functions and files are called: its file's name, as C can have it."""
    stem = re.sub(r"\W", "_", bare_name(model), flags=re.ASCII).lower()
    return stem if stem[:1].isalpha() else f"model_{stem}"


def _filled(template: str, name: str) -> str:
    return template.replace("@name@", name).replace("@NAME@", name.upper())


def _test(name: str, images: NDArray[np.uint8], answers: NDArray[np.int8], names: list[str]) -> str:
    quoted = ",\n".join(f'    "{text}"' for text in names)
    pictures = ",\n".join(f"    {{\n{_rows(image.ravel())}\n    }}" for image in images)
    rows = ",\n".join(f"    {{{', '.join(map(str, row))}}}" for row in answers.tolist())
    text = TEST.replace("@count@", str(len(images))).replace("@names@", quoted)
    text = text.replace("@attribution@", ATTRIBUTION.rstrip().replace("\n", "\n   "))
    return _filled(text.replace("@images@", pictures).replace("@answers@", rows), name)


def _rows(pixels: NDArray[np.uint8]) -> str:
    rows = (", ".join(map(str, row)) for row in pixels.reshape(-1, 28).tolist())
    return ",\n".join(f"        {row}" for row in rows)


TEST = """\
/* Without arguments: prints PASS, or the first output that differs from TensorFlow Lite's.
   With two: reads images of 784 bytes from the first file, and writes to the second, for each,
   ten logits and ten probabilities.

   @attribution@ */

#include "@name@.h"

#include <stdio.h>

#define COUNT @count@

static const char *const names[COUNT] = {
@names@
};

static const uint8_t images[COUNT][784] = {
@images@
};

/* What TensorFlow Lite's reference kernels answer. */
static const int8_t answers[COUNT][10] = {
@answers@
};

static int self_test(void)
{
    for (int i = 0; i < COUNT; ++i) {
        int8_t found[10];
        int best = 0;
        @name@_probabilities(images[i], found);
        for (int k = 0; k < 10; ++k) {
            if (found[k] != answers[i][k]) {
                printf("FAIL: %s: output %d is %d, expected %d\\n", names[i], k, found[k],
                       answers[i][k]);
                return 1;
            }
            best = answers[i][k] > answers[i][best] ? k : best;
        }
        const int greatest = answers[i][best];
        const int accepted = greatest < @NAME@_THRESHOLD ? -1 : best;
        if (@name@_classify(images[i]) != accepted) {
            printf("FAIL: %s: expected the class %d\\n", names[i], accepted);
            return 1;
        }
    }
    printf("PASS: %d images, every output as TensorFlow Lite has it\\n", COUNT);
    return 0;
}

static int answer(const char *from, const char *to)
{
    static uint8_t image[784];
    int8_t found[20];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    if (in == NULL || out == NULL) {
        printf("cannot open %s or %s\\n", from, to);
        return 1;
    }
    while (fread(image, sizeof image, 1, in) == 1) {
        @name@_logits(image, found);
        @name@_probabilities(image, found + 10);
        if (fwrite(found, sizeof found, 1, out) != 1) {
            printf("cannot write %s\\n", to);
            return 1;
        }
    }
    fclose(in);
    return fclose(out) != 0;
}

int main(int count, char **arguments)
{
    return count == 3 ? answer(arguments[1], arguments[2]) : self_test();
}
"""

MAKEFILE = """\
# make: the test on this machine. make sanitize: the same, watched for undefined behaviour.
# make arm: what it takes of a Cortex-M4, by the linker's map.

CC ?= cc
CFLAGS ?= -O3
STRICT = -std=c99 -Wall -Wextra -Wconversion -Werror -pedantic
ARM ?= arm-none-eabi-
ARMFLAGS ?= -mcpu=cortex-m4 -mthumb -O2

test: @name@_test
\t./@name@_test

@name@_test: @name@_test.c @name@.c @name@.h
\t$(CC) $(STRICT) $(CFLAGS) -o $@ @name@_test.c @name@.c

sanitize: @name@_test.c @name@.c @name@.h
\t$(CC) $(STRICT) -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all \\
\t    -o @name@_sanitized @name@_test.c @name@.c
\t./@name@_sanitized

arm: @name@.c @name@.h
\t$(ARM)gcc $(STRICT) $(ARMFLAGS) -nostartfiles -Wl,--gc-sections -Wl,-e,@name@_classify \\
\t    -ffunction-sections -fdata-sections -Wl,-Map=@name@.map -o @name@.elf @name@.c
\t$(ARM)size @name@.elf

clean:
\trm -f @name@_test @name@_sanitized @name@.elf @name@.map

.PHONY: test sanitize arm clean
"""

EXAMPLE = """\
// Send 784 bytes, 28 rows of 28 pixels, 0 = background, 255 = ink: the class comes back, or -1 if
// the image shows none of the classes.
// Copy @name@.c and @name@.h into this folder first.

#include "@name@.h"

static uint8_t image[784];

void setup() {
  Serial.begin(115200);
}

void loop() {
  if (Serial.readBytes((char *)image, sizeof image) == sizeof image) {
    Serial.println(@name@_classify(image));
  }
}
"""


def _page(name: str, model: Path, network: graph.Network, vectors: int, measured: str) -> str:
    report = inspection.inspect(model)
    ops = ", ".join(op.name for op in report.ops)
    return f"""# {model.name} in C

The network as C99 that needs nothing but a compiler: no interpreter, no floating point, no malloc,
no library. Generated from {report.bytes:,} bytes of .tflite: {ops}.

| file | what it is |
|---|---|
| `{name}.h` | three functions: the class, the probabilities, the logits; the threshold |
| `{name}.c` | weights and code |
| `{name}_test.c` | {vectors} images, and every output that belongs to them |
| `{name}_example/` | a sketch for the Arduino environment |
| `Makefile` | `make` builds and runs the test; `make sanitize`, `make arm` |

```c
#include "{name}.h"

uint8_t image[784];                     /* 28 rows of 28: 0 = background, 255 = ink */
int digit = {name}_classify(image);     /* -1: no digit */
```

`{name}_classify` returns -1 where no probability reaches `{name.upper()}_THRESHOLD`, the
threshold that the .tflite carries.

Static memory is {source.plan(network).bytes:,} bytes, shared by all calls: one at a time.

## What it takes

{measured}

The answers are those of LiteRT's reference kernels, bit for bit: convolutions round twice, fully
connected layers once. Other kernel sets, TensorFlow Lite Micro's among them, round differently by
one unit in the last place here and there.

{ATTRIBUTION}"""
