"""Recipes: one frozen, validated section per stage. Every default of the project lives here."""

from __future__ import annotations

import difflib
import reprlib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from keras_lenet.errors import Error

MAX_BYTES = 1 << 20
"""Larger recipes are not read."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Frozen settings; unknown keys and wrong types are refused, never coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Data(Section):
    """Images to train and to test on.

    Attributes:
        dataset: a dataset's name, or a folder of IDX files named as MNIST's; of any size, if they
            are not compressed.
        fallback: the dataset to use, with a warning, if the first cannot be had.
        validation_split: share of every class of the training set that is held out to make choices
            on; the same images for every seed.
        outliers: OOD examples that are drawn and mixed into the training images, as a fraction of
            their number; the model learns to doubt them.
        standardize: train on pixels of mean 0 and deviation 1, by the statistics of the training
            images; folded into the first layer, so that the model takes plain pixels.
    """

    dataset: str = "mnist"
    fallback: str | None = None
    validation_split: Share = 0.1
    outliers: Fraction = 0.0
    standardize: bool = False


class Augment(Section):
    """Limits of the warp of each training image; its amounts are drawn evenly.

    Attributes:
        rotate: degrees, to either side.
        shift: pixels of the 28×28 image, to either side.
        zoom: fraction, to either side.
        shear: tangent of the angle, to either side.
        elastic: standard deviation of a smooth displacement, in pixels of the 28×28 image.
        thickness: share of a pixel by which strokes grow on both sides, or shrink.
    """

    rotate: Annotated[float, Field(ge=0, le=180)] = 10.0
    shift: Annotated[float, Field(ge=0, le=14)] = 2.0
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.1
    shear: Annotated[float, Field(ge=0, le=1)] = 0.0
    elastic: Annotated[float, Field(ge=0, le=14)] = 0.0
    thickness: Fraction = 0.0


class Degrade(Section):
    """Limits of the degradation of light and page, after the warp; teachers see none of it.

    Attributes:
        share: of the images that may be degraded at all.
        light: share of these that get ink and paper of any two greys, inverted or not.
        clouds: up to how many times as bright as full ink.
        noise: up to which standard deviation, as a share of full ink.
        occlusion: up to how large a grey rectangle, in pixels a side of the 28×28 image.
    """

    share: Fraction = 1.0
    light: Fraction = 0.0
    clouds: Annotated[float, Field(ge=0, le=10)] = 0.0
    noise: Fraction = 0.0
    occlusion: Annotated[float, Field(ge=0, le=28)] = 0.0


class Model(Section):
    """The architecture, and the way images come to its size.

    Attributes:
        name: of an architecture of the registry.
        pad: pad 28×28 images with zeros to 32×32, instead of resizing them.
        initializer: of the weights: "glorot" (uniform, Keras' default) or "fan_in" (LeCun et al.
            1998, appendix A: uniform between ±2.4 divided by the number of a unit's inputs).
    """

    name: str = "lenet5"
    pad: bool = False
    initializer: Literal["glorot", "fan_in"] = "glorot"


class Train(Section):
    """Training in float.

    Attributes:
        optimizer: "adamw" (decoupled weight decay), "muon" (orthogonalized momentum, which needs a
            third of the epochs to come as near to the teachers) or "sgd".
        momentum: of sgd, Nesterov's; 0 for plain gradient descent.
        learning_rate: its peak.
        schedule: "cosine" to zero, "step" (`step_factor` every `step_epochs`) or "constant";
            each after `warmup_epochs` of linear warm-up.
        weight_averaging: momentum of the exponential moving average of the weights, which is
            validated and kept; 0 turns it off.
    """

    epochs: Count = 20
    batch_size: Count = 256
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    learning_rate: Positive = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup_epochs: Annotated[int, Field(ge=0)] = 1
    step_epochs: Count = 10
    step_factor: Share = 0.1
    weight_averaging: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Train:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs}) must be fewer than epochs ({self.epochs})"
            )
        return self


class Distill(Section):
    """Distillation: the model is trained on the logits of teachers, larger networks, not on labels.

    Teachers see the very images that the model sees, with the same augmentation (Beyer et al.,
    "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022).

    Attributes:
        model: the teachers' architecture.
        teachers: how many, each from a seed of its own; their logits are averaged.
        seed: of the first; apart from the run's, so that runs of several seeds share them.
        rounds: augmentations of the training set; after so many epochs the model sees the same
            images again.
        temperature: divides the model's logits and its teachers' (Hinton, Vinyals and Dean,
            "Distilling the Knowledge in a Neural Network", 2015, section 2).
        augment: augmentation of the teachers' training; left out, the recipe's own.
        train: training of the teachers.
    """

    model: str = "teacher"
    teachers: Count = 1
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    rounds: Count = 20
    temperature: Positive = 3.0
    augment: Augment | None = None
    train: Train = Train()


class Quantize(Section):
    """Quantization-aware fine-tuning, from the trained weights; cosine to zero, no warm-up."""

    epochs: Count = 2
    batch_size: Count = 256
    learning_rate: Positive = 1e-4


class Export(Section):
    """Conversion.

    Attributes:
        calibration_images: training images, the same number of each class, that set the ranges of
            post-training quantization.
        optimize_layout: give the int8 and the uint8 file the XNNPACK layout, for phones and PCs:
            faster, with the same answers bit for bit (`tflite.layout.optimize`). The int8 file in
            `microcontroller/`, the C and the budget card have the plain layout.
    """

    calibration_images: Annotated[int, Field(ge=10)] = 500
    optimize_layout: bool = True


class Evaluate(Section):
    """Measurements beside accuracy, and gates: limits that the figures must meet.

    Gates that are left out are not checked.

    Attributes:
        min_accuracy: of the int8 model, as a fraction.
        max_accuracy_drop: of the int8 model from the float model, as a fraction.
        min_agreement: share of images on which the int8 file and the fake-quantized model it was
            made from give one class.
        max_model_bytes: of the int8 file.
        min_robustness: its mean accuracy over all corruptions and severities.
        max_digits_refused: share of the test images that the int8 file's threshold refuses.
        min_outliers_refused: share of the pictures of no digit that `classify` refuses, for the
            kind of which it refuses least; of letters that look like digits nothing is demanded.
        probes: how many pictures of no digit of each kind are drawn to measure that.
        robustness_images: how many of the test images are corrupted, in every way; 0 for none.
        prepared_images: how many of these also go through `edge.prepare`, which takes longer.
    """

    min_accuracy: Fraction | None = None
    max_accuracy_drop: Fraction | None = None
    min_agreement: Fraction | None = None
    max_model_bytes: Count | None = None
    min_robustness: Fraction | None = None
    max_digits_refused: Fraction | None = None
    min_outliers_refused: Fraction | None = None
    probes: Count = 500
    robustness_images: Annotated[int, Field(ge=0)] = 10_000
    prepared_images: Annotated[int, Field(ge=10)] = 100


class Report(Section):
    """Page of plots. `mistakes` is the number of the most confident ones that it shows."""

    mistakes: Count = 30


class Origin(Section):
    """Published result that a recipe reproduces.

    Attributes:
        title: of the published system, and its framework.
        accuracy: on the test set, as published; None if none is stated.
        note: what to know beside our figures, such as what was unsound.
    """

    title: str
    accuracy: Fraction | None = None
    note: str = ""


class DistillSettings(Section):
    """Settings that the distill stage may read, and that decide its result.

    Attributes:
        devices: what to train on: "all", every GPU of this host and of the others that TF_CONFIG
            names, each on a share of every batch; or "one".
        distill: left out, the model is trained on labels.
    """

    devices: Literal["all", "one"] = "all"
    data: Data = Data()
    augment: Augment = Augment()
    distill: Distill | None = None

    def only(self, kind: type[S]) -> S:
        """Return the settings that a stage may read, `kind` being one of the classes here."""
        return kind.model_construct(**{name: getattr(self, name) for name in kind.model_fields})


S = TypeVar("S", bound=DistillSettings)


class TrainSettings(DistillSettings):
    """Settings of the train stage. `seed` decides the initial weights, the order and the warps."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    degrade: Degrade = Degrade()
    model: Model = Model()
    train: Train = Train()


class QuantizeSettings(TrainSettings):
    """Settings of the quantize stage."""

    quantize: Quantize = Quantize()


class ExportSettings(QuantizeSettings):
    """Settings of the export stage."""

    export: Export = Export()


class EvaluateSettings(ExportSettings):
    """Settings of the evaluate stage."""

    evaluate: Evaluate = Evaluate()


class Recipe(EvaluateSettings):
    """Settings of a whole run, all of which the report stage may read.

    Attributes:
        name: of the folder below `runs/`; by default the recipe file's own.
        origin: left out, the recipe is our own.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    origin: Origin | None = None
    report: Report = Report()


def load(path: Path, overrides: Iterable[str] | None = None) -> Recipe:
    """Read a recipe file and apply `key.path=value` overrides, whose values are TOML.

    Raises:
        Error: the file can't be read or isn't TOML; a key is unknown (the nearest valid one is
            named), a value has the wrong type or lies outside its range.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise Error(f"recipe {path}: larger than {MAX_BYTES:,} bytes, which no recipe is")
        settings = tomllib.loads(content.decode())
    except OSError as error:
        raise Error(f"recipe {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, numbers of 5,000 digits, [[[[…
        raise Error(f"recipe {path} is not TOML: {error}") from error
    settings.setdefault("name", path.stem)
    return _validated(settings, overrides, f"recipe {path}")


def from_overrides(name: str, overrides: Iterable[str] | None) -> Recipe:
    """Return the default recipe with `key.path=value` overrides.

    Raises:
        Error: as `load`.
    """
    return _validated({"name": name}, overrides, "--set")


def _validated(settings: dict[str, Any], overrides: Iterable[str] | None, source: str) -> Recipe:
    for override in overrides or ():
        _apply(settings, override)
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise Error(" ".join(f"{source}: {_explain(error)}".split())) from error
    except RecursionError as error:
        raise Error(f"{source}: nested too deeply; expected sections of single values") from error


def _apply(settings: dict[str, Any], override: str) -> None:
    shown = " ".join(override.split())[:200]
    key, equals, text = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise Error(f"--set {shown}: expected KEY=VALUE, such as train.epochs=3")
    table = settings
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise Error(f"--set {shown}: {parent:.200} is a value, not a section")
    try:
        table[last] = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, KeyError, RecursionError):
        table[last] = text.strip()  # a bare word is a string: shells eat quotes


def _explain(error: ValidationError) -> str:
    """Return the first problem in one line."""
    problem = error.errors()[0]
    location = [f"{part!s:.200}" for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}{_nearest(location)}"
    message = problem["msg"].removeprefix("Value error, ")
    value = "" if isinstance(problem["input"], dict) else f" = {reprlib.repr(problem['input'])}"
    return f"{key}{value}: {message[:1].lower()}{message[1:]}"


def _nearest(location: list[str]) -> str:
    section: Any = Recipe
    for part in location[:-1]:
        annotation = section.model_fields[part].annotation
        section = next((one for one in get_args(annotation) if one is not type(None)), annotation)
    names = list(section.model_fields)
    close = difflib.get_close_matches(location[-1], names, 1)
    prefix = "".join(f"{part}." for part in location[:-1])
    return (
        f"; did you mean {prefix}{close[0]}?" if close else f"; expected one of {', '.join(names)}"
    )
