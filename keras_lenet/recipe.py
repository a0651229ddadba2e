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

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Frozen settings that refuse unknown keys and wrong types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Data(Section):
    """Images to train and to test on.

    Attributes:
        dataset: name of a dataset, or a folder of IDX files with MNIST's names. Uncompressed files
            may be larger than memory.
        fallback: dataset to use, with a warning, if `dataset` cannot be had.
        validation_split: share of every class of the training set that is held out for choices; the
            same images for every seed.
        outliers: OOD examples mixed into the training images, as a fraction of their number; the
            model learns a uniform answer to them.
        standardize: train on pixels with mean 0 and standard deviation 1 over the training images.
            The first layer absorbs the scale, so that the deployed model takes plain pixels.
    """

    dataset: str = "mnist"
    fallback: str | None = None
    validation_split: Share = 0.1
    outliers: Fraction = 0.0
    standardize: bool = False


class Augment(Section):
    """Limits of the random augmentation of each training image, with uniform distributions.

    Attributes:
        rotate: degrees, in both directions.
        shift: pixels of the 28×28 image, in both directions.
        zoom: fraction, in both directions.
        shear: tangent of the angle, in both directions.
        elastic: standard deviation of a smooth displacement, in pixels of the 28×28 image.
        thickness: fraction of a pixel by which strokes grow or shrink on each side.
    """

    rotate: Annotated[float, Field(ge=0, le=180)] = 10.0
    shift: Annotated[float, Field(ge=0, le=14)] = 2.0
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.1
    shear: Annotated[float, Field(ge=0, le=1)] = 0.0
    elastic: Annotated[float, Field(ge=0, le=14)] = 0.0
    thickness: Fraction = 0.0


class Degrade(Section):
    """Limits of the random degradation after the augmentation; teachers see no degradation.

    Attributes:
        share: share of the images that may be degraded.
        light: share of these that get ink and paper of two random greys, inverted or not.
        clouds: greatest brightness of clouds, as a multiple of full ink.
        noise: greatest standard deviation, as a share of full ink.
        occlusion: greatest side of a grey rectangle, in pixels of the 28×28 image.
    """

    share: Fraction = 1.0
    light: Fraction = 0.0
    clouds: Annotated[float, Field(ge=0, le=10)] = 0.0
    noise: Fraction = 0.0
    occlusion: Annotated[float, Field(ge=0, le=28)] = 0.0


class Model(Section):
    """Architecture and its input.

    Attributes:
        name: name of an architecture in the registry (`keras_lenet.models`).
        pad: pad 28×28 images with zeros to 32×32, instead of resizing them.
        initializer: initializer of the weights: "glorot" (uniform, Keras' default) or "fan_in"
            (LeCun et al. 1998, appendix A: uniform within ±2.4 / number of a unit's inputs).
    """

    name: str = "lenet5"
    pad: bool = False
    initializer: Literal["glorot", "fan_in"] = "glorot"


class Train(Section):
    """Float training.

    Attributes:
        epochs: passes over the training images.
        batch_size: images in a training step, over all devices.
        optimizer: "adamw" (decoupled weight decay), "muon" (orthogonalized momentum; it needs a
            third of the epochs to come as near to the teachers) or "sgd".
        learning_rate: peak of the schedule.
        weight_decay: decoupled weight decay.
        momentum: Nesterov momentum of sgd; 0 for plain gradient descent.
        schedule: "cosine" to zero, "step" or "constant", after the warm-up.
        warmup_epochs: epochs of linear warm-up.
        step_epochs: epochs between the steps of the "step" schedule.
        step_factor: factor of the learning rate at each step.
        weight_averaging: momentum of the exponential moving average of the weights, which is
            validated and saved; 0 turns it off.
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
    """Distillation: the model learns the logits of teachers, which are larger networks, not labels.

    Teachers see the same augmented images as the model (Beyer et al., "Knowledge distillation: A
    good teacher is patient and consistent", CVPR 2022).

    Attributes:
        model: architecture of the teachers.
        teachers: number of teachers, each from its own seed; their logits are averaged.
        seed: seed of the first teacher; runs with other seeds share the teachers.
        rounds: number of augmentations of the training set; later epochs repeat them.
        temperature: divisor of the logits of model and teachers (Hinton, Vinyals and Dean,
            "Distilling the Knowledge in a Neural Network", 2015, section 2).
        augment: augmentation for the training of the teachers; by default the recipe's own.
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
    """Quantization-aware fine-tuning of the trained weights.

    Attributes:
        epochs: passes over the training images.
        batch_size: images in a training step.
        learning_rate: first learning rate; it falls to zero by a cosine.
    """

    epochs: Count = 2
    batch_size: Count = 256
    learning_rate: Positive = 1e-4


class Export(Section):
    """Conversion.

    Attributes:
        calibration_images: number of training images, equal for each class, that set the ranges of
            post-training quantization.
        optimize_layout: give the int8 and the uint8 file the XNNPACK layout, which is faster on
            phones and PCs and gives the same bits (`tflite.layout.optimize`). The int8 file in
            `microcontroller/`, the C and the budget card have the plain layout.
    """

    calibration_images: Annotated[int, Field(ge=10)] = 500
    optimize_layout: bool = True


class Evaluate(Section):
    """Measurements beside accuracy, and gates: limits that the figures of the int8 file must meet.

    A gate without a value is not checked.

    Attributes:
        min_accuracy: accuracy, as a fraction.
        max_accuracy_drop: accuracy of the float model minus that of the int8 file.
        min_agreement: share of images with the same class from the fake-quantized model.
        max_model_bytes: size of the file.
        min_robustness: mean accuracy over all corruptions and severities.
        max_digits_refused: share of the test images that the file's threshold rejects.
        min_outliers_refused: least rejection rate over the kinds of OOD examples, without letters
            that look like digits.
        probes: number of OOD examples of each kind.
        robustness_images: number of test images that get every corruption; 0 for none.
        prepared_images: number of these that also go through `edge.prepare`, which is slower.
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
    """HTML page.

    Attributes:
        mistakes: number of mistakes to show, the most confident first.
    """

    mistakes: Count = 30


class Origin(Section):
    """Published result that a recipe reproduces.

    Attributes:
        title: name of the published system and its framework.
        accuracy: published test accuracy; None if it is not stated.
        note: remark beside our figures, such as a flaw of the published method.
    """

    title: str
    accuracy: Fraction | None = None
    note: str = ""


class DistillSettings(Section):
    """Settings of the distill stage, which decide its result.

    Attributes:
        devices: "all" trains on every GPU of this host and of the hosts in TF_CONFIG, each on a
            share of every batch; "one" on a single device.
        distill: distillation; without it the model learns labels.
    """

    devices: Literal["all", "one"] = "all"
    data: Data = Data()
    augment: Augment = Augment()
    distill: Distill | None = None

    def only(self, kind: type[S]) -> S:
        """Return the settings of class `kind`, one of the classes below."""
        return kind.model_construct(**{name: getattr(self, name) for name in kind.model_fields})


S = TypeVar("S", bound=DistillSettings)


class TrainSettings(DistillSettings):
    """Settings of the train stage; `seed` decides initial weights, order and augmentation."""

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
        name: name of the folder below `runs/`; by default that of the recipe file.
        origin: published result that the recipe reproduces, if any.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    origin: Origin | None = None
    report: Report = Report()


def load_recipe(path: str | Path, overrides: Iterable[str] | None = None) -> Recipe:
    """Read a recipe file, such as `pipelines/quickstart.toml`.

    Args:
        path: the TOML file.
        overrides: changed settings, such as "train.epochs=3"; the values are TOML.

    Raises:
        Error: the file cannot be read or is not TOML, a key is unknown, a value has the wrong type
            or is out of range.
    """
    path = Path(path)
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Error(f"recipe {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, numbers of 5,000 digits, [[[[…
        raise Error(f"recipe {path} is not TOML: {error}") from error
    settings.setdefault("name", path.stem)
    return _validated(settings, overrides, f"recipe {path}")


def from_overrides(name: str, overrides: Iterable[str] | None) -> Recipe:
    """Return the default recipe with `key.path=value` overrides.

    Raises:
        Error: as `load_recipe`.
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
