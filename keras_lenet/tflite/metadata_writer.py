"""Makes a .tflite file describe itself: writes what `metadata` reads, and appends files."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_lenet.edge.metadata import (
    ENTRY,
    IDENTIFIER,
    LABELS_FILE,
    TABLES,
    is_scalar,
    member,
)
from keras_lenet.errors import Error

MAX_FILES = 100
_ALIGNMENT = 16  # of a buffer's data, as the model schema demands: int32 biases are read in place

_SCALARS: dict[Any, str] = {int: "Int8", np.uint32: "Uint32", float: "Float32"}


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
    contents.metadata = [entry for entry in contents.metadata or [] if entry.name != ENTRY.encode()]
    described = schema.BufferT()
    described.data = np.frombuffer(encode(metadata), np.uint8)
    contents.buffers.append(described)
    entry = schema.MetadataT()
    entry.name, entry.buffer = ENTRY, len(contents.buffers) - 1
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


def files(model: bytes) -> dict[str, bytes]:
    """The files appended to a .tflite file, by name.

    Raises:
        Error: what is appended is damaged, or compressed, which may unpack to any size.
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
    """The names of a .tflite file's classes, a line each in the file; None where it has none."""
    content = files(model).get(LABELS_FILE)
    return None if content is None else content.decode(errors="replace").splitlines()


def encode(metadata: dict[str, Any]) -> bytes:
    """The flatbuffer of ModelMetadata whose fields are given by name."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(_put_table(builder, "ModelMetadata", metadata), IDENTIFIER)
    return bytes(builder.Output())


def _put_table(builder: Any, name: str, values: dict[str, Any]) -> int:
    fields = TABLES[name]
    unknown = set(values) - {field for field, _ in fields}
    if unknown:
        raise ValueError(f"{name} has no field {unknown.pop()}")
    offsets = {  # whatever is stored elsewhere has to be there before the table begins
        field: _put(builder, member(kind, fields, slot, values), values[field])
        for slot, (field, kind) in enumerate(fields)
        if field in values and not is_scalar(kind)
    }
    builder.StartObject(len(fields))
    for slot, (field, kind) in enumerate(fields):
        if field in offsets:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[field], 0)
        elif field in values:
            getattr(builder, f"Prepend{_SCALARS[kind]}Slot")(slot, values[field], 0)
    return int(builder.EndObject())


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
