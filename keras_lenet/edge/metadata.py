"""The description inside a .tflite file, which Android tooling and model viewers show.

A flatbuffer after tensorflow/tflite-support's metadata_schema.fbs, held in the model as the buffer
of a metadata entry called TFLITE_METADATA; files that it names are appended to the model as an
uncompressed zip. The schema's own Python package has no wheels for current Pythons, so the part
of it that a classifier needs stands here as a table, which both writing and reading follow.
"""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_lenet.errors import Error

ENTRY = b"TFLITE_METADATA"
IDENTIFIER = b"M001"
LABELS_FILE = "labels.txt"
PARSER_VERSION = "1.0.0"

TENSOR_AXIS_LABELS = 2  # AssociatedFileType
IMAGE_PROPERTIES = 2  # ContentProperties
GRAYSCALE = 2  # ColorSpaceType
NORMALIZATION, THRESHOLDING = 1, 3  # ProcessUnitOptions

_ALIGNMENT = 16  # of a buffer's data, as the model schema demands: int32 biases are read in place

_SCALARS: dict[Any, str] = {int: "Int8", np.uint32: "Uint32", float: "Float32"}
_FORMATS: dict[Any, str] = {int: "<b", np.uint32: "<I", float: "<f"}

# Each table's fields in the order of their slots. A list of one type is a vector of it; a dict is a
# union, whose members are told apart by the byte in the slot before.
_TABLES: dict[str, tuple[tuple[str, Any], ...]] = {
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
}


def attach(model: bytes, metadata: dict[str, Any], files: dict[str, bytes]) -> bytes:
    """Give a model its metadata and the files that it names; what it computes stays the same.

    Args:
        model: a .tflite file.
        metadata: the fields of ModelMetadata, by name, as nested dicts and lists.
        files: content by name.

    Returns:
        The new .tflite, which is a zip file of `files` as well.
    """
    contents = schema.ModelT.InitFromPackedBuf(model, 0)
    contents.metadata = [entry for entry in contents.metadata or [] if entry.name != ENTRY]
    described = schema.BufferT()
    described.data = np.frombuffer(encode(metadata), np.uint8)
    contents.buffers.append(described)
    entry = schema.MetadataT()
    entry.name, entry.buffer = ENTRY.decode(), len(contents.buffers) - 1
    contents.metadata.append(entry)
    return _append_files(pack(contents), files)


def pack(contents: schema.ModelT) -> bytes:
    """The .tflite of a model's unpacked contents, its buffers on the boundaries that they need."""
    for buffer in contents.buffers:
        buffer.__class__ = _AlignedBuffer
    builder = flatbuffers.Builder(1024)
    builder.Finish(contents.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _AlignedBuffer(schema.BufferT):
    """A buffer packed on the boundary that the schema asks for; the generated code forgets it."""

    def Pack(self, builder: Any) -> int:  # noqa: N802 - the name that the generated code calls
        data = None
        if self.data is not None and len(self.data):
            content = np.asarray(self.data, np.uint8).tobytes()
            builder.StartVector(1, len(content), _ALIGNMENT)
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))


def _append_files(model: bytes, files: dict[str, bytes]) -> bytes:
    whole = io.BytesIO()
    whole.write(model)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            # A fixed date: the same model gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return whole.getvalue()


def read(model: bytes) -> dict[str, Any] | None:
    """The metadata of a .tflite file, or None where it has none.

    Raises:
        Error: it has some, but damaged.
    """
    try:
        contents = schema.Model.GetRootAs(model, 0)
        for i in range(contents.MetadataLength()):
            entry = contents.Metadata(i)
            if entry.Name() == ENTRY:
                return decode(contents.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
    except (AttributeError, IndexError, TypeError, ValueError, struct.error) as error:
        raise Error("the .tflite file's metadata is damaged") from error
    return None


def files(model: bytes) -> dict[str, bytes]:
    """The files appended to a .tflite file, by name."""
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile:
        return {}


def encode(metadata: dict[str, Any]) -> bytes:
    """The flatbuffer of ModelMetadata whose fields are given by name."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(_put_table(builder, "ModelMetadata", metadata), IDENTIFIER)
    return bytes(builder.Output())


def decode(content: bytes) -> dict[str, Any]:
    """The fields that `encode` was given, less those that were left out.

    Raises:
        ValueError, IndexError, struct.error: `content` is not such a flatbuffer.
    """
    if content[4:8] != IDENTIFIER:
        raise ValueError("not TFLite metadata")
    (root,) = struct.unpack_from("<I", content)
    return _get_table(content, root, "ModelMetadata")


def _put_table(builder: Any, name: str, values: dict[str, Any]) -> int:
    fields = _TABLES[name]
    unknown = set(values) - {field for field, _ in fields}
    if unknown:
        raise ValueError(f"{name} has no field {unknown.pop()}")
    offsets = {  # whatever is stored elsewhere has to be there before the table begins
        field: _put(builder, _member(kind, fields, slot, values), values[field])
        for slot, (field, kind) in enumerate(fields)
        if field in values and not _is_scalar(kind)
    }
    builder.StartObject(len(fields))
    for slot, (field, kind) in enumerate(fields):
        if field in offsets:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[field], 0)
        elif field in values:
            getattr(builder, f"Prepend{_SCALARS[kind]}Slot")(slot, values[field], 0)
    return int(builder.EndObject())


def _is_scalar(kind: Any) -> bool:
    return isinstance(kind, type) and kind is not str


def _member(kind: Any, fields: tuple[Any, ...], slot: int, values: dict[str, Any]) -> Any:
    """The table that a union holds, by the type in the slot before; other kinds as they are."""
    return kind[values[fields[slot - 1][0]]] if isinstance(kind, dict) else kind


def _put(builder: Any, kind: Any, value: Any) -> int:
    if kind is str:
        return int(builder.CreateString(value))
    if not isinstance(kind, list):
        return _put_table(builder, kind, value)
    if kind == [float]:
        return int(builder.CreateNumpyVector(np.asarray(value, np.float32)))
    offsets = [_put(builder, kind[0], item) for item in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _get_table(content: bytes, position: int, name: str) -> dict[str, Any]:
    (distance,) = struct.unpack_from("<i", content, position)
    vtable = position - distance
    (size,) = struct.unpack_from("<H", content, vtable)
    fields = _TABLES[name]
    values: dict[str, Any] = {}
    for slot, (field, kind) in enumerate(fields[: (size - 4) // 2]):
        (offset,) = struct.unpack_from("<H", content, vtable + 4 + 2 * slot)
        if not offset:
            continue
        if isinstance(kind, dict) and values.get(fields[slot - 1][0]) not in kind:
            continue  # a member of the union that isn't ours
        values[field] = _get(content, position + offset, _member(kind, fields, slot, values))
    return values


def _get(content: bytes, position: int, kind: Any) -> Any:
    if _is_scalar(kind):
        return struct.unpack_from(_FORMATS[kind], content, position)[0]
    (number,) = struct.unpack_from("<I", content, position)
    target = position + number
    if isinstance(kind, str):
        return _get_table(content, target, kind)
    (length,) = struct.unpack_from("<I", content, target)
    if length > len(content):
        raise ValueError("a vector longer than its file")
    if kind is str:
        return content[target + 4 : target + 4 + length].decode()
    if kind == [float]:
        return list(struct.unpack_from(f"<{length}f", content, target + 4))
    return [_get(content, target + 4 + 4 * i, kind[0]) for i in range(length)]


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
    """The metadata of an exported digit classifier: raw pixels in, ten probabilities out.

    Answers of a confidence below `threshold` are to be refused.
    """
    image = {
        "name": "image",
        "description": (
            "A digit in MNIST style: pixels from 0 = background to 255 = ink. int8 takes "
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
        "description": "The probability of each digit.",
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
