"""Makes a .tflite file describe itself: writes what `edge.metadata` reads, and appends files."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_lenet.edge import metadata
from keras_lenet.errors import Error

MAX_FILES = 100
_ALIGNMENT = 16  # of a buffer's data, as the model schema demands: int32 biases are read in place

_SCALARS: dict[Any, str] = {int: "Int8", np.uint32: "Uint32", float: "Float32"}
_GRAYSCALE = 2  # ColorSpaceType
_TENSOR_AXIS_LABELS = 2  # AssociatedFileType


def describe(
    name: str, description: str, version: str, author: str, threshold: float
) -> dict[str, Any]:
    """Return the metadata of an exported classifier: raw pixels in, ten probabilities out.

    Answers of a confidence below `threshold` are to be rejected.
    """
    image = {
        "name": "image",
        "description": (
            "An image in MNIST style: pixels from 0 = background to 255 = ink. int8 takes "
            "pixel - 128, uint8 the pixel, float32 pixel / 255."
        ),
        "content": {
            "content_properties_type": metadata.IMAGE_PROPERTIES,
            "content_properties": {
                "color_space": _GRAYSCALE,
                "default_size": {"width": 28, "height": 28},
            },
        },
        "process_units": [
            {"options_type": metadata.NORMALIZATION, "options": {"mean": [0.0], "std": [255.0]}}
        ],
        "stats": {"max": [1.0], "min": [0.0]},
    }
    rejection = {"global_score_threshold": threshold}
    probabilities = {
        "name": "probabilities",
        "description": "The probability of each class.",
        "process_units": [{"options_type": metadata.THRESHOLDING, "options": rejection}],
        "stats": {"max": [1.0], "min": [0.0]},
        "associated_files": [{"name": metadata.LABELS_FILE, "type": _TENSOR_AXIS_LABELS}],
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
        "min_parser_version": "1.0.0",
    }


def attach(model: bytes, described: dict[str, Any], files: dict[str, bytes]) -> bytes:
    """Give a model its metadata and the files that they name; its outputs stay the same.

    Args:
        model: a .tflite file.
        described: the fields of ModelMetadata, by name, as nested dicts and lists.
        files: content by name.

    Returns:
        The new .tflite, which is a zip file of `files` as well.
    """
    contents = schema.ModelT.InitFromPackedBuf(model, 0)
    entry = schema.MetadataT()
    entry.name, entry.buffer = metadata.ENTRY, len(contents.buffers)
    others = [one for one in contents.metadata or [] if one.name != metadata.ENTRY.encode()]
    contents.metadata = [*others, entry]
    contents.buffers.append(schema.BufferT())
    contents.buffers[-1].data = np.frombuffer(encode(described), np.uint8)
    return _append_files(pack(contents), files)


def pack(contents: schema.ModelT) -> bytes:
    """Return the .tflite of a model's unpacked contents, with every buffer aligned."""
    for buffer in contents.buffers:
        buffer.__class__ = _AlignedBuffer
    builder = flatbuffers.Builder(1024)
    builder.Finish(contents.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _AlignedBuffer(schema.BufferT):
    """A buffer packed on the boundary that the schema asks for; the generated code forgets it."""

    data: Any

    def Pack(self, builder: Any) -> int:  # noqa: N802 - the name that the generated code calls
        if self.data is None or not len(self.data):
            self.data = None
        else:
            self.data = np.asarray(self.data, np.uint8)
            builder.Prep(_ALIGNMENT, len(self.data))
        return int(super().Pack(builder))


def _append_files(model: bytes, files: dict[str, bytes]) -> bytes:
    whole = io.BytesIO()
    whole.write(model)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            # A fixed date: the same model gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return whole.getvalue()


def files(model: bytes) -> dict[str, bytes]:
    """Return the files appended to a .tflite file, by name.

    Raises:
        Error: a file is damaged, or compressed, which may unpack to any size.
    """
    if not zipfile.is_zipfile(io.BytesIO(model)):
        return {}
    found: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            for entry in archive.infolist():
                stored = entry.compress_type == zipfile.ZIP_STORED
                if not stored or entry.file_size > len(model) or len(found) >= MAX_FILES:
                    raise Error("the files appended to the .tflite file are not plainly stored")
                found[entry.filename] = archive.read(entry)
    # A damaged zip makes the module raise nearly anything.
    except (ValueError, OSError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile) as error:
        raise Error("the files appended to the .tflite file are damaged") from error
    return found


def labels(model: bytes) -> list[str] | None:
    """Return the names of a .tflite file's classes; None where it has none."""
    content = files(model).get(metadata.LABELS_FILE)
    return None if content is None else content.decode(errors="replace").splitlines()


def encode(described: dict[str, Any]) -> bytes:
    """Return the flatbuffer of ModelMetadata whose fields are given by name."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(_put(builder, "ModelMetadata", described), metadata.IDENTIFIER)
    return bytes(builder.Output())


def _put(builder: Any, kind: Any, value: Any) -> int:
    """Write a value that is held outside its table; return its offset."""
    if kind is str:
        return int(builder.CreateString(value))
    if isinstance(kind, str):
        return _put_table(builder, kind, value)
    if kind == [float]:
        return int(builder.CreateNumpyVector(np.asarray(value, np.float32)))
    offsets = [_put(builder, kind[0], item) for item in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _put_table(builder: Any, name: str, values: dict[str, Any]) -> int:
    fields = metadata.TABLES[name]
    if unknown := set(values) - set(fields):
        raise ValueError(f"{name} has no field {unknown.pop()}")
    offsets = {}  # everything outside the table is written before the table begins
    for field, kind in fields.items():
        if field in values and not metadata.is_scalar(kind):
            table = kind[values[f"{field}_type"]] if isinstance(kind, dict) else kind
            offsets[field] = _put(builder, table, values[field])
    builder.StartObject(len(fields))
    for slot, (field, kind) in enumerate(fields.items()):
        if field in offsets:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[field], 0)
        elif field in values:
            getattr(builder, f"Prepend{_SCALARS[kind]}Slot")(slot, values[field], 0)
    return int(builder.EndObject())
