"""Write the drawing page as a folder for any static web host: `keras-lenet draw --static`.

The browser then runs the model itself, by LiteRT.js, and keeps everything for use without a
network.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from keras_lenet import draw
from keras_lenet.artifacts import digest, write_bytes
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error

_WORKER = "service-worker.js"
_RUNTIME = {
    "litert/core.js": "core/dist/index.js",
    "litert/wasm-utils.js": "wasm-utils/dist/index.js",
    # LiteRT.js chooses between these without threads: with relaxed SIMD, and without.
    "litert/wasm/litert_wasm_internal.js": "core/wasm/litert_wasm_internal.js",
    "litert/wasm/litert_wasm_internal.wasm": "core/wasm/litert_wasm_internal.wasm",
    "litert/wasm/litert_wasm_compat_internal.js": "core/wasm/litert_wasm_compat_internal.js",
    "litert/wasm/litert_wasm_compat_internal.wasm": "core/wasm/litert_wasm_compat_internal.wasm",
}
"""Files of LiteRT.js: their names in the static folder and below node_modules/@litertjs."""


def write(folder: Path, path: Path, classifier: Classifier, packages: Path) -> None:
    """Write the folder, or bring it up to date.

    Args:
        folder: new, empty, or written by an earlier call.
        path: a model file with uint8 pixels and probabilities.
        classifier: the same file, opened.
        packages: the node_modules folder that LiteRT.js is installed in.

    Raises:
        Error: `folder` holds something else, the model is of another kind, or LiteRT.js is missing.
        OSError: the folder can't be written to.
    """
    if folder.exists() and (not folder.is_dir() or _is_foreign(folder)):
        raise Error(f"{folder} holds something else; name a new folder")
    white = classifier.quantize(np.full((1, 28, 28), 255, np.uint8))
    if white.dtype != np.uint8 or classifier.output.dtype != np.uint8 or (white != 255).any():
        raise Error(f"{path}: LiteRT.js needs a model with uint8 pixels, as lenet5_uint8.tflite")
    described = draw.description(path, classifier)
    described["output"] = {
        "scale": classifier.output.scale,
        "zero_point": classifier.output.zero_point,
    }
    files = {name: (draw.PAGE / name).read_bytes() for name in draw.TYPES}
    files[draw.ENGINE] = (draw.PAGE / "engine-litert.js").read_bytes()
    files["model.json"] = json.dumps(described).encode()
    files[path.name] = path.read_bytes()
    files |= _runtime(packages)
    # The worker fetches the large WebAssembly on first use: a browser takes one variant of two.
    kept = ["./", *(name for name in files if "/wasm/" not in name and name != "index.html")]
    version = digest(b"".join(files[name] for name in sorted(files)))
    worker = (draw.PAGE / _WORKER).read_text(encoding="utf-8")
    worker = worker.replace('["FILES"]', json.dumps(kept)).replace("VERSION", version)
    files[_WORKER] = worker.encode()
    for name, content in files.items():
        write_bytes(folder / name, content)


def _is_foreign(folder: Path) -> bool:
    return any(folder.iterdir()) and not (folder / _WORKER).exists()


def _runtime(packages: Path) -> dict[str, bytes]:
    """Return LiteRT.js' files by their names in the static folder."""
    try:
        files = {
            name: (packages / "@litertjs" / source).read_bytes()
            for name, source in _RUNTIME.items()
        }
    except FileNotFoundError as error:
        raise Error(
            f"{error.filename} is missing: run `npm install @litertjs/core` here, or name its "
            "folder by --node-modules"
        ) from error
    # The package's name could be resolved only by a bundler or an import map.
    core = files["litert/core.js"].replace(b'"@litertjs/wasm-utils"', b'"./wasm-utils.js"')
    return files | {"litert/core.js": core}
