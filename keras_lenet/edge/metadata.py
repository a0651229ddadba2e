"""The description inside a .tflite file, which Android tooling and model viewers show.

A flatbuffer after tensorflow/tflite-support's metadata_schema.fbs, held in the model as the buffer
of a metadata entry called TFLITE_METADATA; its files are appended to the model as an uncompressed
zip. The schema's own Python package has no wheels for current Pythons, so the part of it that a
classifier needs is a table here, which both reading and `tflite.metadata_writer` follow.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from keras_lenet.errors import Error

ENTRY = "TFLITE_METADATA"
IDENTIFIER = b"M001"
LABELS_FILE = "labels.txt"

IMAGE_PROPERTIES = 2  # ContentProperties
NORMALIZATION, THRESHOLDING = 1, 3  # ProcessUnitOptions

MAX_VALUES = 1 << 17
"""Limit of values and letters: offsets may share their target, so that a small file could stand for
any number of them."""

FORMATS: dict[Any, str] = {int: "<b", np.uint32: "<I", float: "<f"}
"""The scalars, as `struct` reads them."""

_OPTIONS = {NORMALIZATION: "NormalizationOptions", THRESHOLDING: "ScoreThresholdingOptions"}
TABLES: dict[str, dict[str, Any]] = {
    "AssociatedFile": {"name": str, "description": str, "type": int},
    "ImageSize": {"width": np.uint32, "height": np.uint32},
    "ImageProperties": {"color_space": int, "default_size": "ImageSize"},
    "Content": {
        "content_properties_type": int,
        "content_properties": {IMAGE_PROPERTIES: "ImageProperties"},
    },
    "NormalizationOptions": {"mean": [float], "std": [float]},
    "ScoreThresholdingOptions": {"global_score_threshold": float},
    "ProcessUnit": {"options_type": int, "options": _OPTIONS},
    "Stats": {"max": [float], "min": [float]},
    "TensorMetadata": {
        "name": str,
        "description": str,
        "dimension_names": [str],
        "content": "Content",
        "process_units": ["ProcessUnit"],
        "stats": "Stats",
        "associated_files": ["AssociatedFile"],
    },
    "SubGraphMetadata": {
        "name": str,
        "description": str,
        "input_tensor_metadata": ["TensorMetadata"],
        "output_tensor_metadata": ["TensorMetadata"],
    },
    "ModelMetadata": {
        "name": str,
        "description": str,
        "version": str,
        "subgraph_metadata": ["SubGraphMetadata"],
        "author": str,
        "license": str,
        "associated_files": ["AssociatedFile"],
        "min_parser_version": str,
    },
    # The way to the metadata in the model around it, after tensorflow/lite's schema.fbs.
    "Buffer": {"data": bytes},
    "Metadata": {"name": str, "buffer": np.uint32},
    "Model": dict.fromkeys(("version", "operator_codes", "subgraphs", "description"))
    | {"buffers": ["Buffer"], "metadata_buffer": None, "metadata": ["Metadata"]},
}
"""The kind of each table's fields, in the order of their slots.

A string names a table, a list is a vector of its kind, and bytes a vector of bytes. A dict is a
union: the scalar field of the same name and `_type` chooses the table. None is passed over.
"""


def read(model: bytes) -> dict[str, Any] | None:
    """Return the metadata of a .tflite file, or None where it has none.

    Raises:
        Error: the metadata is damaged.
    """
    try:
        contents = _Reader(memoryview(model)).root("Model")  # slices of a view copy no weights
        for entry in contents.get("metadata", []):
            if entry.get("name") == ENTRY:
                return decode(contents["buffers"][entry["buffer"]]["data"])
    except (LookupError, ValueError, struct.error) as error:
        raise Error("the .tflite file's metadata is damaged") from error
    return None


def decode(content: bytes | memoryview) -> dict[str, Any]:
    """Return the fields that `metadata_writer.encode` was given.

    Raises:
        ValueError, IndexError, struct.error: `content` is not such a flatbuffer.
    """
    if content[4:8] != IDENTIFIER:
        raise ValueError("not TFLite metadata")
    return _Reader(content).root("ModelMetadata")


def is_scalar(kind: Any) -> bool:
    """Return whether a field of this kind is held in its table, not elsewhere behind an offset."""
    return isinstance(kind, type) and kind in FORMATS


class _Reader:
    """Reads tables, and counts the values."""

    def __init__(self, content: bytes | memoryview) -> None:
        self._content, self._left = content, MAX_VALUES

    def root(self, name: str) -> dict[str, Any]:
        (root,) = self._unpack("<I", 0)
        return self._table(root, name)

    def _unpack(self, form: str, position: int) -> tuple[Any, ...]:
        if position < 0:  # which struct would count from the end
            raise ValueError("an offset before the file's beginning")
        return struct.unpack_from(form, self._content, position)

    def _count(self, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise ValueError(f"more than {MAX_VALUES} values")

    def _table(self, position: int, name: str) -> dict[str, Any]:
        (distance,) = self._unpack("<i", position)
        vtable = position - distance
        (size,) = self._unpack("<H", vtable)
        slots = list(TABLES[name].items())[: max(0, (size - 4) // 2)]
        values: dict[str, Any] = {}
        for slot, (field, kind) in enumerate(slots):
            (offset,) = self._unpack("<H", vtable + 4 + 2 * slot)
            if isinstance(kind, dict):
                kind = kind.get(values.get(f"{field}_type"))  # None: a table that is not ours
            if offset and kind is not None:
                values[field] = self._value(position + offset, kind)
        return values

    def _value(self, position: int, kind: Any) -> Any:
        self._count(1)
        if is_scalar(kind):
            return self._unpack(FORMATS[kind], position)[0]
        (number,) = self._unpack("<I", position)
        target = position + number
        if isinstance(kind, str):
            return self._table(target, kind)
        (length,) = self._unpack("<I", target)
        if length > len(self._content):
            raise ValueError("a vector longer than its file")
        if kind in (str, bytes):
            data = self._content[target + 4 : target + 4 + length]
            self._count(length if kind is str else 0)
            return str(data, "utf-8") if kind is str else data
        self._count(length)
        if kind == [float]:
            return list(self._unpack(f"<{length}f", target + 4))
        return [self._value(target + 4 + 4 * i, kind[0]) for i in range(length)]


def score_threshold(model: bytes) -> float:
    """Return the confidence that a .tflite file's answers need to be accepted; 0 if it has none.

    Raises:
        Error: the metadata is damaged.
    """
    graphs = (read(model) or {}).get("subgraph_metadata", [])
    outputs = graphs[0].get("output_tensor_metadata", []) if graphs else []
    for unit in outputs[0].get("process_units", []) if outputs else []:
        if unit.get("options_type") == THRESHOLDING and "options" in unit:
            return float(unit["options"].get("global_score_threshold", 0.0))
    return 0.0
