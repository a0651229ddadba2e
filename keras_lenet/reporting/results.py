"""Metrics as rows and sentences for the screen, the report and the model card."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from keras_lenet.evaluation.metrics import Metrics
from keras_lenet.recipe import Recipe

HEADER = (
    "model",
    "correct",
    "accuracy",
    "95 % interval",
    "difference",
    "agreement",
    "bytes",
    "1 image",
    "kernel set",
)
RIGHT_ALIGNED = HEADER[1:8]
REJECTION = "Rejection of out-of-distribution pictures"
REJECTION_HEADER = ("picture of", "rejected by classify", "rejected by the threshold", "of")


@dataclass(frozen=True)
class Finished:
    """Finished run of one seed.

    Attributes:
        recipe: its settings.
        folders: folder of each stage, by name.
        metrics: its evaluation.
        validation_accuracy: of the fake-quantized model.
    """

    recipe: Recipe
    folders: dict[str, Path]
    metrics: Metrics
    validation_accuracy: float


def rows(metrics: Metrics) -> list[list[str]]:
    """Return one row of `HEADER` for each model."""
    return [
        [
            model.title,
            f"{model.correct:,}",
            f"{model.accuracy:.2%}",
            f"{100 * model.interval[0]:.2f} to {100 * model.interval[1]:.2f}",
            f"{100 * model.difference:+.2f} pt",
            f"{model.agreement:.2%}",
            f"{model.bytes:,}",
            f"{metrics.timings.models[key].p50_us:,.0f} µs",
            metrics.timings.models[key].kernels,
        ]
        for key, model in metrics.models.items()
    ]


def caption(metrics: Metrics) -> str:
    """Describe the rows: test set, reference, machine, and layout of the deployed file."""
    timings, layout = metrics.timings, metrics.layout
    text = (
        f"Test set of {metrics.dataset}, {metrics.images:,} images. "
        + ("Keras QAT is the fake-quantized model. " if "qat" in metrics.models else "")
        + f"Difference and agreement: from {metrics.models[metrics.reference].title}, and share "
        f"of the same class. Time: median of one image at a time, on {timings.device}; .tflite: "
        f"1 thread, {timings.cpu}."
    )
    if layout is None:
        return text
    differ = "nowhere"
    if layout.unequal:
        differ = f"on {layout.unequal:,} images, by at most {layout.largest}"
    return (
        f"{text} {metrics.deployed_model.title} has an optimized layout; its outputs differ "
        f"{differ} (reference kernels) from those of the plain layout in microcontroller/."
    )


def markdown(metrics: Metrics) -> str:
    """Return the rows as a Markdown table, with its caption and the paired comparisons."""
    table = markdown_table(HEADER, rows(metrics), RIGHT_ALIGNED)
    return f"{table}\n\n{caption(metrics)}\n\n{paired(metrics)}\n"


def paired(metrics: Metrics) -> str:
    """Return the paired comparisons as a Markdown list."""
    return "\n".join(f"- {pair.verdict}" for pair in metrics.paired) + (
        "\n\nExact McNemar tests, on paired predictions." if metrics.paired else ""
    )


def rejection_rows(metrics: Metrics) -> list[list[str]]:
    """Return one row of `REJECTION_HEADER` for each kind of picture; the test images last."""
    if metrics.rejection is None:
        return []
    test = metrics.rejection.test
    kinds = [
        [
            kind,
            f"{found.rejected / found.total:.1%}",
            f"{found.rejected_by_threshold / found.total:.1%}",
            f"{found.total:,}",
        ]
        for kind, found in metrics.rejection.ood.items()
    ]
    return [*kinds, ["test images", "", f"{test.rejected / test.total:.2%}", f"{test.total:,}"]]


def rejection_caption(metrics: Metrics) -> str:
    """Describe the threshold of the rows, and the accuracy of the accepted test images."""
    if metrics.rejection is None:
        return ""
    kept = metrics.rejection.test.accuracy_of_accepted
    text = f"Answers with a confidence of {metrics.rejection.threshold:.4g} or more are accepted. "
    if kept is not None:
        text += f"Of the accepted test images, {kept:.2%} are right. "
    text += "Letters and scribbles are drawn otherwise than those in training."
    if not metrics.of_digits:
        text += (
            " All pictures are fitted into 20×20 pixels, as MNIST's digits are; that makes them "
            "easier to reject than pictures like the test images."
        )
    return text


def rejection(metrics: Metrics) -> str:
    """Return the rejected shares as a Markdown table with its caption."""
    table = markdown_table(REJECTION_HEADER, rejection_rows(metrics), REJECTION_HEADER[1:])
    return f"{table}\n\n{rejection_caption(metrics)}\n"


def markdown_table(
    header: Iterable[str], rows: Iterable[Iterable[str]], right_aligned: Collection[str] = ()
) -> str:
    """Return a table in Markdown; `right_aligned` names the columns of figures."""
    names = list(header)
    align = ["---:" if name in right_aligned else "---" for name in names]
    return "\n".join(f"| {' | '.join(line)} |" for line in (names, align, *rows))
