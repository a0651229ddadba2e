"""Code for devices: C, the TensorFlow Lite Micro bundle, the budget card."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from keras_lenet.artifacts import write_bytes

_TEMPLATES = Path(__file__).parent / "templates"


def bare_name(model: Path) -> str:
    """Return the name of an exported file without its variant and its layout."""
    return model.stem.removesuffix("_plain").removesuffix("_int8")


def fill(template: str, **values: object) -> str:
    """Return a file of `templates/` with each @word@ replaced by its value.

    A word in capitals takes the value in capitals. A value of several lines is indented as the word
    at the beginning of a line. An empty value deletes the line of a word that stands alone.
    """

    def value(match: re.Match[str]) -> str:
        indent, word, end = match.groups()
        text = str(values[word.lower()]).rstrip("\n")
        if indent is not None and end and not text:
            return ""
        return textwrap.indent(text.upper() if word.isupper() else text, indent or "") + end

    text = (_TEMPLATES / template).read_text(encoding="utf-8")
    return re.sub(r"(^ *)?@(\w+)@(\n?)", value, text, flags=re.MULTILINE)


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Write texts, given by their paths in a folder."""
    for path, text in files.items():
        write_bytes(folder / path, text.encode())
