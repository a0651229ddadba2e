"""Write the drawing page as a folder for any static web host: `keras-lenet draw --static`.

The browser then runs the model itself, by LiteRT.js, and keeps everything for use without a
network.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from keras_lenet.artifacts import write_bytes
from keras_lenet.draw import page
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error

_CORE, _UTILITIES = Path("core", "dist", "index.js"), Path("wasm-utils", "dist", "index.js")
# The variants that LiteRT.js chooses between without threads: with relaxed SIMD, and without.
_VARIANTS = ("litert_wasm_internal", "litert_wasm_compat_internal")
_BARE = b'"@litertjs/wasm-utils"'  # which only a bundler or an import map could resolve


def write(folder: Path, path: Path, classifier: Classifier, packages: Path) -> None:
    """Write the folder; one that an earlier call wrote is brought up to date.

    Args:
        folder: new, empty, or written by an earlier call.
        path: of a model file with uint8 pixels and probabilities.
        classifier: that file, opened.
        packages: the node_modules folder that LiteRT.js is installed in.

    Raises:
        Error: `folder` holds something else, the model is of another kind, or LiteRT.js isn't
            there.
        OSError: the folder can't be written to.
    """
    if folder.exists() and (not folder.is_dir() or _foreign(folder)):
        raise Error(f"{folder} holds something else; name a new folder")
    identity = np.array_equal(
        classifier.quantize(np.zeros((1, 28, 28), np.uint8) + 255), np.full((1, 28, 28, 1), 255)
    )
    if classifier.input.dtype != np.uint8 or classifier.output.dtype != np.uint8 or not identity:
        raise Error(f"{path}: LiteRT.js needs a model with uint8 pixels, as lenet5_uint8.tflite")
    told = page.description(path, classifier)
    told["output"] = {"scale": classifier.output.scale, "zero_point": classifier.output.zero_point}
    files = {name: page.read(name) for name in page.TYPES}
    files[page.ENGINE] = page.read("engine-litert.js")
    files["model.json"] = json.dumps(told).encode()
    files[path.name] = path.read_bytes()
    files |= _runtime(packages)
    # The WebAssembly is large, and a browser takes one variant: it is kept when it is first used.
    kept = ["./", *(name for name in files if "/wasm/" not in name and name != "index.html")]
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(hashlib.sha256(files[name]).digest())
    worker = page.read("service-worker.js").replace(b'["FILES"]', json.dumps(kept).encode())
    files["service-worker.js"] = worker.replace(b'"VERSION"', f'"{digest.hexdigest()}"'.encode())
    for name, content in files.items():
        write_bytes(folder / name, content)


def _foreign(folder: Path) -> bool:
    return any(folder.iterdir()) and not (folder / "service-worker.js").exists()


def _runtime(packages: Path) -> dict[str, bytes]:
    """LiteRT.js' own files, by their names in the static folder."""
    source = packages / "@litertjs"
    try:
        core, utilities = (source / name for name in (_CORE, _UTILITIES))
        files = {
            "litert/core.js": core.read_bytes().replace(_BARE, b'"./wasm-utils.js"'),
            "litert/wasm-utils.js": utilities.read_bytes(),
        }
        for name in (f"{variant}{end}" for variant in _VARIANTS for end in (".js", ".wasm")):
            files[f"litert/wasm/{name}"] = (source / "core" / "wasm" / name).read_bytes()
    except FileNotFoundError as error:
        raise Error(
            f"{error.filename} is missing: run `npm install @litertjs/core` here, or name its "
            "folder by --node-modules"
        ) from error
    return files
