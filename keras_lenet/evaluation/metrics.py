"""Metrics of one evaluation: `metrics.json`, schema 3, and the statistics of paired answers.

Two evaluations of the same files differ only in `timings`. Shares and accuracies are fractions.
A field that was not measured is None, and the file leaves it out.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from keras_lenet import artifacts
from keras_lenet.errors import Error, GateError

METRICS, PREDICTIONS = "metrics.json", "predictions.npz"
DIGITS = tuple("0123456789")
SIGNIFICANT = 0.05


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected printable characters")
    return text


# Limits keep edited files from overflowing a format or a division.
LARGEST = 10**15
Text = Annotated[str, AfterValidator(_printable)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Total = Annotated[int, Field(ge=1, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Real = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Duration = Annotated[float, Field(ge=0, le=LARGEST)]


class Figures(BaseModel):
    """Base of all records here: frozen, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Bin(Figures):
    """One filled bin of a reliability diagram, with its mean confidence and its accuracy."""

    count: Total
    confidence: Share
    accuracy: Share


class Calibration(Figures):
    """Expected calibration error, and the bins that it is the mean of."""

    error: Share
    bins: tuple[Bin, ...]


class Score(Figures):
    """Accuracy of one model, and its difference from the reference.

    Attributes:
        interval: 95 % Wilson interval of the accuracy.
        difference: accuracy minus the reference's.
        agreement: share of images to which the model and the reference give the same class.
        bytes: size of the file, or of all files in the folder.
        confusion: counts, true class by predicted class.
    """

    title: Text
    correct: Count
    total: Total
    accuracy: Share
    interval: tuple[Share, Share]
    difference: Annotated[float, Field(ge=-1, le=1)]
    agreement: Share
    bytes: Count
    confusion: tuple[tuple[Count, ...], ...]
    calibration: Calibration


class McNemar(Figures):
    """Paired comparison of two models on the same images.

    Attributes:
        only_first: images that only the first model classifies correctly.
        only_second: images that only the second model classifies correctly.
        p: of the exact two-sided McNemar test (1947).
        differ: images to which the models give different classes.
    """

    only_first: Count
    only_second: Count
    p: Share
    differ: Count

    @classmethod
    def of(
        cls, first: NDArray[np.int64], second: NDArray[np.int64], labels: NDArray[np.uint8]
    ) -> McNemar:
        """Compare the classes that two models give, each (N,), with the true classes (N,)."""
        from scipy.stats import binomtest  # slow to import, and reading metrics needs no test

        right, other = first == labels, second == labels
        only_first, only_second = int((right & ~other).sum()), int((other & ~right).sum())
        discordant, differ = only_first + only_second, first != second
        return cls(
            only_first=only_first,
            only_second=only_second,
            p=float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
            differ=int(differ.sum()),
        )

    def in_words(self, first: str, second: str, images: int) -> str:
        """Return the result as a sentence about models of these names; it claims no more."""
        if not self.differ:
            return f"{first} and {second} give the same class on every one of {images:,} images."
        counts = (
            f"{self.only_first} of {images:,} images are right in {first} alone, "
            f"{self.only_second} in {second} alone, p = {self.p:.2g}"
        )
        if self.p >= SIGNIFICANT:
            return f"{first} and {second} are indistinguishable on this test set: {counts}."
        ahead = self.only_first - self.only_second
        better, worse = (first, second) if ahead > 0 else (second, first)
        return (
            f"{better} is better than {worse} on this test set, by {abs(ahead) / images:.2%} of "
            f"the images: {counts}."
        )


class Pair(McNemar):
    """A paired comparison with the keys of its models, and its result in one sentence."""

    first: Text
    second: Text
    verdict: Text


class TensorNoise(Figures):
    """Quantization noise in the output tensor of one op.

    Attributes:
        op: name of the op, such as CONV_2D.
        shape: of its output, without the batch.
        sqnr_db: signal to quantization noise ratio; None where the noise or the signal is zero.
        drop_db: how much lower the ratio is than after the op before.
        max_error: largest absolute difference from float.
        saturated: share of values at either end of the integer range.
        range: smallest and largest value that the integers can express.
    """

    op: Text
    shape: tuple[Count, ...]
    sqnr_db: Real | None = None
    drop_db: Real | None = None
    max_error: Real
    saturated: Share
    range: tuple[Real, Real] | None = None


class TestRejection(Figures):
    """Test images that a confidence threshold rejects."""

    __test__ = False  # not a test class, whatever pytest makes of the name

    total: Total
    rejected: Count
    accuracy_of_accepted: Share | None = None


class OodRejection(Figures):
    """Out-of-distribution examples of one kind that are rejected.

    Attributes:
        rejected: by `Classifier.classify`, which also rejects a picture without ink.
        rejected_by_threshold: by the confidence threshold alone.
    """

    total: Total
    rejected: Count
    rejected_by_threshold: Count


class Rejection(Figures):
    """Rejection at the file's own threshold, and the rejected shares by threshold.

    Attributes:
        curve: `threshold`, `test` and one entry for each kind of `ood`, all of one length.
    """

    threshold: Share
    test: TestRejection
    ood: dict[Text, OodRejection]
    curve: dict[Text, tuple[Share, ...]]


class Corrupted(Figures):
    """Accuracies by severity: of the corrupted images as they are, and after `edge.prepare`."""

    raw: tuple[Share, ...]
    prepared: tuple[Share, ...]


class RobustnessSummary(Figures):
    """Means over all corruptions and severities; the corruption error is relative to the first."""

    mean_accuracy: Share
    mean_accuracy_prepared: Share
    mean_corruption_error: Duration | None = None


class Robustness(Figures):
    """Accuracy under corruption, by corruption and model; the first model is the reference."""

    images: Total
    prepared_images: Total
    severities: tuple[Count, ...]
    corruptions: dict[Text, dict[Text, Corrupted]]
    summary: dict[Text, RobustnessSummary]


class Arena(Figures):
    """Memory that TensorFlow Lite Micro takes for the deployed file, and how it was found."""

    bytes: Count
    how: Text


class Layout(Figures):
    """Images whose int8 outputs differ from the plain layout's, and the largest difference."""

    unequal: Count
    largest: Count


class Gate(Figures):
    """One limit of the recipe, and the deployed model's figure."""

    gate: Text
    figure: Real
    limit: Real
    met: bool


class Timing(Figures):
    """Time of one model: of one image at a time in µs (median, 95th percentile), and in batches."""

    kernels: Text
    p50_us: Duration
    p95_us: Duration
    batched_images_per_second: Count


class Timings(Figures):
    """Times of all models, and the machine that they were measured on."""

    cpu: Text
    device: Text
    models: dict[Text, Timing]


class Metrics(Figures):
    """Everything that one evaluation measured.

    Attributes:
        labels: names of the test set's classes.
        reference: key of the model that the others are compared with.
        deployed: key of the model that the gates apply to.
        fake_quantized_agreement: share of images to which the int8 file and the fake-quantized
            model give the same class.
        quantization_noise: of each quantized file, beside the float file of the same weights.
    """

    schema_version: Literal[3]
    dataset: Text
    images: Total
    labels: tuple[Text, ...]
    reference: Text
    deployed: Text
    models: dict[Text, Score]
    paired: tuple[Pair, ...] = ()
    fake_quantized_agreement: Share | None = None
    quantization_noise: dict[Text, tuple[TensorNoise, ...]] = {}
    rejection: Rejection | None = None
    robustness: Robustness | None = None
    arena: Arena | None = None
    layout: Layout | None = None
    gates: tuple[Gate, ...] = ()
    timings: Timings

    @model_validator(mode="after")
    def _names_only_its_models(self) -> Metrics:
        named = {self.reference, self.deployed, *self.quantization_noise}
        named.update(*((pair.first, pair.second) for pair in self.paired))
        if self.robustness:
            named.update(self.robustness.summary, *self.robustness.corruptions.values())
        if unknown := named - set(self.models):
            raise ValueError(f"{min(unknown)} is none of its models")
        if set(self.models) != set(self.timings.models):
            raise ValueError("timings are of other models")
        return self

    @property
    def deployed_model(self) -> Score:
        """The deployed model's score."""
        return self.models[self.deployed]

    @property
    def compared(self) -> list[str]:
        """Keys of the reference and of the deployed model; one key where they are the same."""
        return list(dict.fromkeys((self.reference, self.deployed)))

    @property
    def of_digits(self) -> bool:
        """True where the classes are the digits 0 to 9, which `edge.prepare` is made for."""
        return self.labels == DIGITS

    def check_gates(self) -> None:
        """Raise if a gate is missed.

        Raises:
            GateError: names every missed gate with its figure and its limit.
        """
        missed = [
            f"evaluate.{gate.gate}: {gate.figure:.6g}, limit {gate.limit:.6g}"
            for gate in self.gates
            if not gate.met
        ]
        if missed:
            raise GateError("gate missed: " + "; ".join(missed))

    def write(self, folder: Path) -> None:
        """Write `metrics.json` into `folder`, atomically."""
        artifacts.write_json(folder / METRICS, self.model_dump(mode="json", exclude_none=True))

    @classmethod
    def read(cls, folder: Path) -> Metrics:
        """Read `metrics.json` from `folder`.

        Raises:
            Error: the file cannot be read, or has another form than this class.
        """
        path = folder / METRICS
        try:
            return cls.model_validate_json(path.read_bytes(), strict=True)
        except OSError as error:
            raise Error(f"{path}: cannot be read ({error.strerror})") from error
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in problem["loc"]) or "the file"
            raise Error(
                f"{path}: not metrics of schema 3 ({place:.200}: {problem['msg']:.200}); "
                "run evaluate again"
            ) from error


def wilson_interval(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the score interval of a proportion, 95 % by default (Wilson 1927).

    Near 100 % this interval stays inside [0, 1], unlike the textbook interval.
    """
    share = correct / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)
