"""Runtimes other than our own on the published files, each in its own virtual environment.

    KERAS_LENET_DATA=… python tests/benchmarks/clients.py [CLIENT ...]

Every client classifies MNIST's 10,000 test images with the files of `exported/`. Its outputs are
compared with those of LiteRT's reference kernels, of the newest version and for the same file.
`clients.json` keeps a row for each client and file; a client that is named replaces its rows. The
environments stay below `runs/clients`: some 3 GB. The test images measure compatibility here;
nothing is chosen by them. Nothing of this project can be imported in a client's environment.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
EXPORTED = ROOT / "exported"
RECORD = Path(__file__).with_name("clients.json")
FOLDER = ROOT / "runs" / "clients"
PATIENCE = 1200  # seconds that a client has for all images
TFLITE = (
    "lenet5_int8.tflite",
    "lenet5_uint8.tflite",
    "lenet5_int8_ptq.tflite",
    "lenet5_float32.tflite",
    "microcontroller/lenet5_int8_plain.tflite",
)
SAVED_MODEL = "saved_model"
NEWEST, STANDARD = "LiteRT, newest", "reference kernels"
LITERT = {STANDARD: "litert_reference", "XNNPACK": "litert_xnnpack"}
CLIENTS = {
    NEWEST: ("ai-edge-litert", LITERT),
    "LiteRT, 1.4": ("ai-edge-litert==1.4.*", LITERT),
    "LiteRT, oldest": ("ai-edge-litert==1.0.0 numpy<2", LITERT),
    "tflite-runtime": ("tflite-runtime==2.14.* numpy<2", LITERT),
    "OpenVINO": ("openvino", {"CPU": "openvino"}),
    "ONNX Runtime": ("tf2onnx onnxruntime tensorflow tf_keras", {"by tf2onnx": "onnx"}),
    "TVM": ("apache-tvm tflite psutil", {"Relax, LLVM": "tvm"}),
}
"""The packages that pip installs, and the function of this module for each way of running them. The
standard comes first."""
NOT_RUN = ("MediaPipe ImageClassifier", "TensorFlow Lite Task Library")
"""Clients whose rows were written by hand: they refuse models with one channel."""


def main() -> None:
    """Install each client, run it, compare, record."""
    if sys.argv[1:2] == ["--run"]:
        run(*sys.argv[2:])
        return
    import measure

    FOLDER.mkdir(parents=True, exist_ok=True)
    np.save(FOLDER / "images.npy", measure.mnist("test").images[:])
    names = sys.argv[1:] or list(CLIENTS)
    rows = [row for row in json.loads(RECORD.read_text())["rows"] if row["client"] not in names]
    for name in names:
        rows += client_rows(name, *CLIENTS[name])
    rows = [row for client in (*CLIENTS, *NOT_RUN) for row in rows if row["client"] == client]
    machine = {"cpu": measure.machine()["cpu"], "python": platform.python_version()}
    RECORD.write_text(json.dumps({"rows": rows, **machine}, indent=1) + "\n")


def client_rows(name: str, packages: str, functions: dict[str, str]) -> list[dict[str, Any]]:
    """Return a row for each file and way of running it."""
    print(f"{name} …", file=sys.stderr, flush=True)
    environment = FOLDER / name.replace(", ", "-").replace(" ", "-")
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    installed = quietly(python, "-m", "pip", "install", "--quiet", *packages.split())
    if installed.returncode:
        return [{"client": name, "note": f"does not install: {last_line(installed.stderr)}"}]
    versions = json.loads(quietly(python, "-m", "pip", "list", "--format=json").stdout)
    wanted = {re.split("[=<]", requirement)[0] for requirement in packages.split()}
    versions = {each["name"]: each["version"] for each in versions if each["name"] in wanted}
    rows = []
    for how, function in functions.items():
        for file in (*TFLITE, SAVED_MODEL) if function == "onnx" else TFLITE:
            found = compared(python, name, how, function, file)
            rows.append({"client": name, "how": how, "versions": versions, "file": file, **found})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def compared(python: Path, name: str, how: str, function: str, file: str) -> dict[str, Any]:
    """Run a file in a client's environment; return what differs from the standard, or why not."""
    same = "lenet5_float32.tflite" if file == SAVED_MODEL else file  # both are float
    out = outputs(name, how, file)
    out.unlink(missing_ok=True)
    result = quietly(python, __file__, "--run", function, EXPORTED / file, out)
    if result.returncode or not out.exists():
        cause = f"signal {-result.returncode}" if result.returncode < 0 else ""
        return {"note": f"does not run: {cause or last_line(result.stderr)}"}
    found = np.load(out)
    standard = np.load(outputs(NEWEST, STANDARD, same))
    distance = np.abs(found - standard)  # in units of 1/256; float ones count from half a unit
    return {
        "images": len(found),
        "other_classes": int((found.argmax(axis=1) != standard.argmax(axis=1)).sum()),
        "images_that_differ": int((distance >= 0.5).any(axis=1).sum()),
        "largest_difference": float(f"{distance.max():.2g}"),
    }


def outputs(name: str, how: str, file: str) -> Path:
    return FOLDER / f"{name}-{how}-{file}.npy".replace("/", "-")


def quietly(*command: Any) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it prints."""
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    clean["CUDA_VISIBLE_DEVICES"] = ""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=clean, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no end after {PATIENCE} s")


def last_line(text: str) -> str:
    """Return the line of an error that names it, or else the last one, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no word"]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|NotImplemented)\b", line)]
    return (named or lines)[-1][:140]


# What follows runs in the environment of a client.


def run(function: str, path: str, out: str) -> None:
    """Write a client's outputs for all images, in units of 1/256: (N, 10)."""
    images = np.load(FOLDER / "images.npy")[..., np.newaxis]
    np.save(out, globals()[function](path, images))


def batches(images: Any, dtype: Any, answer: Callable[[Any], Any], size: int = 1) -> Any:
    """Return the outputs of all images, uint8 (N, 28, 28, 1), in units of 1/256.

    `answer` returns the outputs, of any type, of a batch of the input's type.
    """
    if dtype == np.int8:
        images = (images.astype(np.int16) - 128).astype(np.int8)
    elif dtype != np.uint8:
        images = images.astype(np.float32) / 255
    starts = range(0, len(images), size)
    found = np.concatenate([np.array(answer(images[i : i + size])) for i in starts])
    found = found.reshape(-1, 10)
    if found.dtype == np.int8:
        return found.astype(np.int16) + 128.0
    return found * (1.0 if found.dtype == np.uint8 else 256.0)


def litert(path: str, images: Any, resolver: str) -> Any:
    """Run LiteRT or its predecessor, whichever is installed."""
    try:
        from ai_edge_litert import interpreter as runtime
    except ImportError:
        from tflite_runtime import interpreter as runtime
    kernels = runtime.OpResolverType[resolver]
    opened = runtime.Interpreter(path, num_threads=1, experimental_op_resolver_type=kernels)
    image, scores = opened.get_input_details()[0], opened.get_output_details()[0]
    opened.resize_tensor_input(image["index"], (100, 28, 28, 1))
    opened.allocate_tensors()

    def answer(batch: Any) -> Any:
        opened.set_tensor(image["index"], batch)
        opened.invoke()
        return opened.get_tensor(scores["index"])

    return batches(images, image["dtype"], answer, 100)


litert_reference = functools.partial(litert, resolver="BUILTIN_REF")
litert_xnnpack = functools.partial(litert, resolver="AUTO")


def openvino(path: str, images: Any) -> Any:
    """Run OpenVINO's own reader of .tflite files."""
    import openvino as runtime

    model = runtime.Core().compile_model(path, "CPU")
    dtype = np.dtype(model.input(0).element_type.to_dtype())
    return batches(images, dtype, lambda batch: model(batch)[0])


def onnx(path: str, images: Any) -> Any:
    """Run ONNX Runtime on what tf2onnx makes of a .tflite or a SavedModel."""
    import onnxruntime

    model = FOLDER / "model.onnx"
    kind = "--saved-model" if Path(path).is_dir() else "--tflite"
    command = [sys.executable, "-m", "tf2onnx.convert", kind, path, "--output", str(model)]
    subprocess.run(command, check=True)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    names = [output.name for output in session.get_outputs()]
    output = next((name for name in names if "prob" in name), names[0])
    kind = image.type.removeprefix("tensor(").removesuffix(")")
    dtype = np.dtype({"float": "float32"}.get(kind, kind))
    return batches(images, dtype, lambda batch: session.run([output], {image.name: batch})[0])


def tvm(path: str, images: Any) -> Any:
    """Compile by TVM for this processor, and run."""
    import tflite
    import tvm as compiler
    from tvm import relax
    from tvm.relax.frontend.tflite import from_tflite

    model = tflite.Model.GetRootAsModel(Path(path).read_bytes(), 0)
    module = relax.transform.DecomposeOpsForInference()(from_tflite(model))
    machine = relax.VirtualMachine(compiler.compile(module, target="llvm"), compiler.cpu())
    dtype = np.dtype(next(name for name in ("uint8", "int8", "float32") if name in path))
    return batches(
        images, dtype, lambda batch: machine["main"](compiler.runtime.tensor(batch)).numpy()
    )


if __name__ == "__main__":
    main()
