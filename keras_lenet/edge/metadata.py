"""The description inside a .tflite file, which Android tooling and model viewers show.

A flatbuffer after tensorflow/tflite-support's metadata_schema.fbs, held in the model as the buffer
of a metadata entry called TFLITE_METADATA; files that it names are appended to the model as an
uncompressed zip. The schema's own Python package has no wheels for current Pythons, so the part
of it that a classifier needs stands here as a table, which both writing and reading follow.

Reading takes no more than `struct`, since every classifier does it when it opens its file; writing
has a module of its own, `metadata_writer`.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from keras_lenet.errors import Error

ENTRY = "TFLITE_METADATA"
IDENTIFIER = b"M001"
LABELS_FILE = "labels.txt"
PARSER_VERSION = "1.0.0"

TENSOR_AXIS_LABELS = 2  # AssociatedFileType
IMAGE_PROPERTIES = 2  # ContentProperties
GRAYSCALE = 2  # ColorSpaceType
NORMALIZATION, THRESHOLDING = 1, 3  # ProcessUnitOptions

MAX_VALUES = 1 << 17
"""A description of more values and letters is refused: offsets may share what they point to, so a
small file could stand for any number of them."""

_FORMATS: dict[Any, str] = {int: "<b", np.uint32: "<I", float: "<f"}

# Each table's fields in the order of their slots. A list of one type is a vector of it, and bytes a
# vector of bytes; a dict is a union, whose members are told apart by the byte in the slot before.
# None is passed over.
TABLES: dict[str, tuple[tuple[str, Any], ...]] = {
    "AssociatedFile": (("name", str), ("description", str), ("type", int)),
    "ImageSize": (("width", np.uint32), ("height", np.uint32)),
    "ImageProperties": (("color_space", int), ("default_size", "ImageSize")),
    "Content": (
        ("content_properties_type", int),
        ("content_properties", {IMAGE_PROPERTIES: "ImageProperties"}),
    ),
    "NormalizationOptions": (("mean", [float]), ("std", [float])),
    "ScoreThresholdingOptions": (("global_score_threshold", float),),
    "ProcessUnit": (
        ("options_type", int),
        (
            "options",
            {NORMALIZATION: "NormalizationOptions", THRESHOLDING: "ScoreThresholdingOptions"},
        ),
    ),
    "Stats": (("max", [float]), ("min", [float])),
    "TensorMetadata": (
        ("name", str),
        ("description", str),
        ("dimension_names", [str]),
        ("content", "Content"),
        ("process_units", ["ProcessUnit"]),
        ("stats", "Stats"),
        ("associated_files", ["AssociatedFile"]),
    ),
    "SubGraphMetadata": (
        ("name", str),
        ("description", str),
        ("input_tensor_metadata", ["TensorMetadata"]),
        ("output_tensor_metadata", ["TensorMetadata"]),
    ),
    "ModelMetadata": (
        ("name", str),
        ("description", str),
        ("version", str),
        ("subgraph_metadata", ["SubGraphMetadata"]),
        ("author", str),
        ("license", str),
        ("associated_files", ["AssociatedFile"]),
        ("min_parser_version", str),
    ),
    # Of the model around it, from tensorflow/lite's schema.fbs, what leads to the metadata.
    "Buffer": (("data", bytes),),
    "Metadata": (("name", str), ("buffer", np.uint32)),
    "Model": (
        ("version", None),
        ("operator_codes", None),
        ("subgraphs", None),
        ("description", None),
        ("buffers", ["Buffer"]),
        ("metadata_buffer", None),
        ("metadata", ["Metadata"]),
    ),
}


def read(model: bytes) -> dict[str, Any] | None:
    """The metadata of a .tflite file, or None where it has none.

    Raises:
        Error: it has some, but damaged.
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
    """The fields that `metadata_writer.encode` was given, less those that were left out.

    Raises:
        ValueError, IndexError, struct.error: `content` is not such a flatbuffer.
    """
    if content[4:8] != IDENTIFIER:
        raise ValueError("not TFLite metadata")
    return _Reader(content).root("ModelMetadata")


def is_scalar(kind: Any) -> bool:
    """Whether a field of this kind stands in its table, and not elsewhere with an offset to it."""
    return isinstance(kind, type) and kind not in (str, bytes)


def member(kind: Any, fields: tuple[Any, ...], slot: int, values: dict[str, Any]) -> Any:
    """The table that a union holds, by the type in the slot before; other kinds as they are."""
    return kind[values[fields[slot - 1][0]]] if isinstance(kind, dict) else kind


class _Reader:
    """Reads tables, and counts what it reads."""

    def __init__(self, content: bytes | memoryview) -> None:
        self._content, self._left = content, MAX_VALUES

    def root(self, name: str) -> dict[str, Any]:
        (root,) = self._unpack("<I", 0)
        return self._table(root, name)

    def _unpack(self, form: str, position: int) -> tuple[Any, ...]:
        if position < 0:  # which struct would take for the end
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
        fields = TABLES[name]
        values: dict[str, Any] = {}
        for slot, (field, kind) in enumerate(fields[: max(0, (size - 4) // 2)]):
            (offset,) = self._unpack("<H", vtable + 4 + 2 * slot)
            if not offset or kind is None:
                continue
            if isinstance(kind, dict) and values.get(fields[slot - 1][0]) not in kind:
                continue  # a member of the union that isn't ours
            values[field] = self._value(position + offset, member(kind, fields, slot, values))
        return values

    def _value(self, position: int, kind: Any) -> Any:
        self._count(1)
        if is_scalar(kind):
            return self._unpack(_FORMATS[kind], position)[0]
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
    """The confidence below which a .tflite file's answers are to be refused; 0 where it has none.

    Raises:
        Error: its metadata is damaged.
    """
    graphs = (read(model) or {}).get("subgraph_metadata", [])
    outputs = graphs[0].get("output_tensor_metadata", []) if graphs else []
    units = outputs[0].get("process_units", []) if outputs else []
    thresholds = [
        unit["options"].get("global_score_threshold", 0.0)
        for unit in units
        if unit.get("options_type") == THRESHOLDING and "options" in unit
    ]
    return float(thresholds[0]) if thresholds else 0.0


def describe(
    name: str, description: str, version: str, author: str, threshold: float
) -> dict[str, Any]:
    """The metadata of an exported classifier: raw pixels in, ten probabilities out.

    Answers of a confidence below `threshold` are to be refused.
    """
    image = {
        "name": "image",
        "description": (
            "An image in MNIST style: pixels from 0 = background to 255 = ink. int8 takes "
            "pixel - 128, uint8 the pixel, float32 pixel / 255."
        ),
        "content": {
            "content_properties_type": IMAGE_PROPERTIES,
            "content_properties": {
                "color_space": GRAYSCALE,
                "default_size": {"width": 28, "height": 28},
            },
        },
        "process_units": [
            {"options_type": NORMALIZATION, "options": {"mean": [0.0], "std": [255.0]}}
        ],
        "stats": {"max": [1.0], "min": [0.0]},
    }
    probabilities = {
        "name": "probabilities",
        "description": "The probability of each class.",
        "process_units": [
            {"options_type": THRESHOLDING, "options": {"global_score_threshold": threshold}}
        ],
        "stats": {"max": [1.0], "min": [0.0]},
        "associated_files": [{"name": LABELS_FILE, "type": TENSOR_AXIS_LABELS}],
    }
    return {
        "name": name,
        "description": description,
        "version": version,
        "subgraph_metadata": [
            {"input_tensor_metadata": [image], "output_tensor_metadata": [probabilities]}
        ],
        "author": author,
        "license": "MIT",
        "min_parser_version": PARSER_VERSION,
    }
