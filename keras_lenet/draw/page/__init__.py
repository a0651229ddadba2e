"""The drawing page: the files beside this one, and what they are told of the model.

One page for both homes. It prepares every drawing and photo itself, by `prepare.js`, and hands 784
pixels to an engine: `engine-server.js` where `keras_lenet.draw.server` serves it,
`engine-litert.js` in the folder that `keras_lenet.draw.static` writes. The engine is the only
difference, so that what is seen of one holds for the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_lenet.edge.classifier import Classifier

_HERE = Path(__file__).parent

TYPES = {
    "index.html": "text/html; charset=utf-8",
    "draw.css": "text/css; charset=utf-8",
    "draw.js": "text/javascript; charset=utf-8",
    "prepare.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "icon.png": "image/png",
    "manifest.webmanifest": "application/manifest+json",
}
"""The files that both homes have, and their media types."""
ENGINE = "engine.js"
"""The name by which the page knows its engine."""


def read(name: str) -> bytes:
    """The content of one of the page's files."""
    return (_HERE / name).read_bytes()


def description(path: Path, classifier: Classifier) -> dict[str, Any]:
    """What `model.json` says of a model file: its name, its size and its threshold."""
    return {"name": path.name, "bytes": path.stat().st_size, "threshold": classifier.threshold}
