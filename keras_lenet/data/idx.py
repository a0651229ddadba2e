"""The IDX file format, in which MNIST and its relatives are published, to and from uint8 arrays.

Format: http://yann.lecun.com/exdb/mnist/, section "The IDX file format". A header of two zero
bytes, a type code, the number of dimensions and one big-endian uint32 a dimension; then the data
in C order. Only uint8 (type code 0x08) is read, the one type these datasets use.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from keras_lenet.artifacts import replacing
from keras_lenet.errors import Error

if TYPE_CHECKING:  # slow to import, and only pixels need it
    import numpy as np
    from numpy.typing import NDArray

UINT8 = 0x08
MAX_BYTES = 1 << 30
"""Largest data section that is read: four times the largest of the datasets."""

_CHUNK = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"


def read(path: Path, dims: int) -> NDArray[np.uint8]:
    """Read an IDX file, gzip-compressed or not, whatever its name.

    Args:
        path: the file.
        dims: the number of dimensions expected: 3 for images, 1 for labels.

    Returns:
        Read-only uint8 array of the shape that the header declares. An uncompressed file, which
        may have any size, is mapped: its pages are read as they are indexed.

    Raises:
        Error: the file can't be read, isn't IDX, or holds less or more than its header declares.
            No more memory is taken than the file has bytes for.
    """
    import numpy as np

    try:
        with path.open("rb") as file:
            header = file.read(4 + 4 * dims)
        if header[:2] == _GZIP_MAGIC:
            return parse(read_bytes(path), dims, path)
        shape = _declared(header, path.stat().st_size, dims, path)
        if 0 in shape:  # nothing to map
            return parse(header, dims, path)
        return np.memmap(path, np.uint8, "r", len(header), shape)
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror or error})") from error


def read_bytes(path: Path) -> bytes:
    """The file's content, decompressed if it is gzip; at most `MAX_BYTES` and a header.

    Raises:
        Error: the file can't be read, is damaged gzip, or is larger than that.
    """
    limit = MAX_BYTES + 1024
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            content = _read_up_to(gzip.GzipFile(fileobj=raw) if compressed else raw, limit)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Error(f"{path}: damaged gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) >= limit:
        raise Error(f"{path}: larger than {MAX_BYTES} bytes, which no dataset here is")
    return content


def _read_up_to(file: BinaryIO | gzip.GzipFile, limit: int) -> bytes:
    buffer = io.BytesIO()
    while buffer.tell() < limit and (chunk := file.read(min(_CHUNK, limit - buffer.tell()))):
        buffer.write(chunk)
    return buffer.getvalue()


def parse(content: bytes, dims: int, source: object = "IDX data") -> NDArray[np.uint8]:
    """Decode the bytes of an uncompressed IDX file; `source` names it in errors.

    Returns:
        Read-only uint8 array over `content`, of the shape that the header declares.

    Raises:
        Error: `content` isn't IDX of uint8 with `dims` dimensions, or its length is not the
            declared one.
    """
    start = 4 + 4 * dims
    shape = _declared(content[:start], len(content), dims, source)
    if math.prod(side or 1 for side in shape) > MAX_BYTES:  # no data, but sides beyond measure
        raise Error(f"{source}: its header declares {'×'.join(map(str, shape))}, without any data")
    import numpy as np

    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _declared(header: bytes, size: int, dims: int, source: object) -> tuple[int, ...]:
    """The shape that a header declares, which the file's `size` in bytes has to bear out."""
    magic, start = bytes([0, 0, UINT8, dims]), 4 + 4 * dims
    if header[:4] != magic:
        raise Error(
            f"{source}: not an IDX file of uint8 with {dims} dimension{'s' * (dims > 1)}: expected "
            f"magic number {magic.hex()}, found {header[:4].hex() or 'nothing'}"
        )
    if len(header) < start:
        raise Error(f"{source}: truncated in its header, after {len(header)} of {start} bytes")
    shape = struct.unpack(f">{dims}I", header[4:])
    expected, found = math.prod(shape), size - start
    if found != expected:
        what = "truncated" if found < expected else "has bytes left over"
        raise Error(
            f"{source}: {what}: its header declares {'×'.join(map(str, shape))} = {expected} bytes "
            f"of data, it holds {found}"
        )
    return shape


def write(path: Path, array: NDArray[np.uint8]) -> None:
    """Write a uint8 array as IDX, compressed when the name ends in `.gz`; atomic.

    The same array gives the same bytes.
    """
    header = bytes([0, 0, UINT8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.tobytes()
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
