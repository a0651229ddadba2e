"""The exported files as programs see them: inputs, outputs, and the manifest of them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from keras_lenet.artifacts import sha256
from keras_lenet.errors import Error

MANIFEST = "manifest.json"


class End(BaseModel):
    """An input or output as the manifest has it; only integers have a scale and a zero point."""

    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None
    meaning: str


class Contract(BaseModel):
    """Input and output that every file of a variant has."""

    input: End
    output: End


class Signature(BaseModel):
    """The SavedModel's function; a side of None takes any number."""

    signature: str
    inputs: dict[str, End]
    outputs: dict[str, End]
    threshold: float | None = None


def _contract(dtype: str, zero_point: int | None, pixel: str, probability: str) -> Contract:
    """Return the contract of pixels 0 to 255 and ten probabilities; `zero_point` None is float."""

    def end(shape: tuple[int, ...], scale: float, meaning: str) -> End:
        if zero_point is None:
            return End(shape=shape, dtype=dtype, meaning=meaning)
        return End(shape=shape, dtype=dtype, scale=scale, zero_point=zero_point, meaning=meaning)

    output = end((1, 10), 1 / 256, probability)
    return Contract(input=end((1, 28, 28, 1), 1 / 255, pixel), output=output)


CONTRACT = {
    "float32": _contract("float32", None, "pixel / 255", "probability"),
    "int8": _contract("int8", -128, "pixel - 128", "probability = (value + 128) / 256"),
    "uint8": _contract("uint8", 0, "pixel", "probability = value / 256"),
}
CONTRACT["int8_ptq"] = CONTRACT["int8"]

SIGNATURE = Signature(
    signature="serving_default",
    inputs={"images": End(shape=(None, 28, 28, 1), dtype="uint8", meaning="pixel")},
    outputs={
        "probabilities": End(shape=(None, 10), dtype="float32", meaning="probability"),
        "class": End(shape=(None,), dtype="int64", meaning="position of the highest"),
    },
)


class File(BaseModel):
    """A file in the manifest; only a .tflite has input, output and confidence threshold."""

    bytes: int
    sha256: str
    input: End | None = None
    output: End | None = None
    threshold: float | None = None

    @classmethod
    def of(cls, path: Path, **promised: Any) -> File:
        """Describe a file; `promised` are the fields that a .tflite has besides."""
        return cls(bytes=path.stat().st_size, sha256=sha256(path), **promised)


class Manifest(BaseModel):
    """The description of an export's folder for programs (`manifest.json`)."""

    schema_: Literal[1] = Field(alias="schema")
    model: str
    dataset: str
    image: str
    labels: tuple[str, ...]
    temperature: dict[str, str | float]
    files: dict[str, File]
    saved_model: Signature
    microcontroller: dict[str, File]
    settings: dict[str, Any]
    versions: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest in a folder.

        Raises:
            Error: it is missing, damaged, or has another form.
        """
        path = folder / MANIFEST
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise Error(f"{path}: cannot be read as a manifest; run export again") from error

    def as_json(self) -> dict[str, Any]:
        """Return all that was given, for JSON."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)
