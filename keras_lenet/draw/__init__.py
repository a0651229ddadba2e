"""The drawing page: its files, its server, and the folder for static hosts.

The page prepares drawings itself, by `page/prepare.js`, and hands 784 pixels to an engine:
`engine-server.js` where `server` serves it, `engine-litert.js` in the folder that `static` writes.
All other files are the same in both. The server alone takes photos, and prepares them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_lenet.edge.classifier import Classifier

PAGE = Path(__file__).parent / "page"
TYPES = {
    "index.html": "text/html; charset=utf-8",
    "draw.css": "text/css; charset=utf-8",
    "draw.js": "text/javascript; charset=utf-8",
    "prepare.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "icon.png": "image/png",
    "manifest.webmanifest": "application/manifest+json",
}
"""Media types of the files that the server and the static folder share."""
ENGINE = "engine.js"
"""Name by which the page imports its engine."""


def description(path: Path, classifier: Classifier) -> dict[str, Any]:
    """Return the content of `model.json` for a model file and its classifier."""
    return {"name": path.name, "bytes": path.stat().st_size, "threshold": classifier.threshold}
