"""A tree that looks as a built checkout of tflite-micro does, with a network of its own arithmetic.

Its interpreter answers an image with the image's first ten pixels, whatever the model is, so that
each output is known by hand. It says nothing of the real kernels: those answer in
`test_tflm.py`, through the package tflite-micro.
"""

import platform
import subprocess
from pathlib import Path

DOWNLOADS = "tensorflow/lite/micro/tools/make/downloads"
INCLUDED = ("flatbuffers/include", "gemmlowp", "ruy")
LIBRARY = f"gen/linux_{platform.machine()}_default_gcc/lib/libtensorflow-microlite.a"
NEEDED = (
    "tensorflow/lite/micro/micro_interpreter.h",
    *(f"{DOWNLOADS}/{name}" for name in INCLUDED),
    LIBRARY,
)
"""Files and folders that the bundle's Makefile looks for."""

_HEADERS = {
    f"{DOWNLOADS}/flatbuffers/include/flatbuffers/flatbuffers.h": "",
    f"{DOWNLOADS}/gemmlowp/fixedpoint/fixedpoint.h": "",
    f"{DOWNLOADS}/ruy/ruy/profiler/instrumentation.h": "",
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": """
        #pragma once
        constexpr int kTfLiteOk = 0;
        namespace tflite {
        template <int N> struct MicroMutableOpResolver {
          int added = 0;
          int add() { return ++added > N; }
          int AddConv2D() { return add(); }
          int AddFullyConnected() { return add(); }
          int AddMaxPool2D() { return add(); }
          int AddResizeBilinear() { return add(); }
          int AddSoftmax() { return add(); }
        };
        }
    """,
    "tensorflow/lite/schema/schema_generated.h": """
        #pragma once
        #include "flatbuffers/flatbuffers.h"
        namespace tflite { inline const void* GetModel(const void* data) { return data; } }
    """,
    "tensorflow/lite/micro/micro_interpreter.h": """
        #pragma once
        #include "fixedpoint/fixedpoint.h"
        #include "ruy/profiler/instrumentation.h"
        #ifndef TF_LITE_STATIC_MEMORY
        #error the library was built with TF_LITE_STATIC_MEMORY
        #endif
        namespace tflite {
        struct Tensor { struct { signed char* int8; } data; };
        struct MicroInterpreter {
          signed char image[784];
          Tensor in{{image}}, out{{image}};
          template <class R> MicroInterpreter(const void*, R&, unsigned char*, int) {}
          int AllocateTensors() { return 0; }
          Tensor* input(int) { return &in; }
          Tensor* output(int) { return &out; }
          int Invoke();
        };
        }
    """,
}
_LIBRARY = """
    #include "tensorflow/lite/micro/micro_interpreter.h"
    int tflite::MicroInterpreter::Invoke() { return 0; }
"""


def write(folder: Path) -> None:
    """Write the tree and build its library."""
    for name, text in _HEADERS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    library = folder / LIBRARY
    library.parent.mkdir(parents=True)
    (folder / "library.cc").write_text(_LIBRARY)
    command = [
        "g++", "-c", "-DTF_LITE_STATIC_MEMORY", "-I.", f"-I{DOWNLOADS}/gemmlowp",
        f"-I{DOWNLOADS}/ruy", "library.cc", "-o", "library.o",
    ]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True)
    subprocess.run(["ar", "rc", str(library), "library.o"], cwd=folder, check=True)
