"""What goes to devices: C, the TensorFlow Lite Micro bundle, the budget card."""

from __future__ import annotations

from pathlib import Path


def bare_name(model: Path) -> str:
    """Return the name of an exported file without what says its variant and its layout."""
    return model.stem.removesuffix("_plain").removesuffix("_int8")
