"""Metrics as rows and sentences for the screen, the report and the model card."""

from __future__ import annotations

from collections.abc import Iterable

from keras_lenet.evaluation.metrics import Metrics

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
OTHER_CLASSES = (
    " All are fitted into 20×20 pixels, as MNIST's digits are and these images may not be: "
    "they are easier to refuse than pictures of the classes' own kind."
)
REJECTION_HEADER = ("picture of", "refused by classify", "by the threshold alone", "of")


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
    """Describe what the rows stand on: dataset, images, machine."""
    timings = metrics.timings
    threads = "1 thread" if timings.threads == 1 else f"{timings.threads} threads"
    reference = metrics.models[metrics.reference].title
    return (
        f"Test set of {metrics.dataset}, {metrics.images:,} images. "
        + ("Keras QAT is the fake-quantized model. " if "qat" in metrics.models else "")
        + f"Difference and agreement: from {reference}, and share of the same class. Time: median "
        f"of one image at a time, on {timings.device}; .tflite: {threads}, {timings.cpu}."
        + _layout(metrics)
    )


def _layout(metrics: Metrics) -> str:
    """Describe what the XNNPACK layout changed in the deployed file, where it has one."""
    found = metrics.layout
    if found is None:
        return ""
    differ = "nowhere"
    if found.unequal:
        differ = f"on {found.unequal:,} images, by at most {found.largest}"
    return (
        f" {metrics.deployed_model.title} has an optimized layout. From the file in "
        f"microcontroller/, which has not, its outputs differ {differ} ({found.kernels} kernels)."
    )


def markdown(metrics: Metrics) -> str:
    """Return the rows as a Markdown table, with its caption and the paired comparisons."""
    align = ["---:" if name in RIGHT_ALIGNED else "---" for name in HEADER]
    table = _table([HEADER, align, *rows(metrics)])
    return f"{table}\n\n{caption(metrics)}\n\n{paired(metrics)}\n"


def paired(metrics: Metrics) -> str:
    """Return the paired comparisons as a Markdown list."""
    return "\n".join(f"- {pair.verdict}" for pair in metrics.paired) + (
        "\n\nExact McNemar tests, on paired predictions." if metrics.paired else ""
    )


def rejection_heading(metrics: Metrics) -> str:
    """Return the heading of what is said about rejection."""
    return "What is no digit" if metrics.of_digits else "What is none of the classes"


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
    """Describe the threshold that the rows stand on, and what it accepts."""
    if metrics.rejection is None:
        return ""
    kept = metrics.rejection.test.accuracy_of_accepted
    right = f" Of the test images it accepts, {kept:.2%} are right." if kept is not None else ""
    return (
        f"Accepted is what has a confidence of {metrics.rejection.threshold:.4g} or more.{right} "
        "Letters and scribbles are drawn otherwise than those in training."
        + ("" if metrics.of_digits else OTHER_CLASSES)
    )


def rejection(metrics: Metrics) -> str:
    """Return what the int8 file's threshold rejects, as a Markdown table with its caption."""
    align = ["---", "---:", "---:", "---:"]
    table = _table([REJECTION_HEADER, align, *rejection_rows(metrics)])
    return f"{table}\n\n{rejection_caption(metrics)}\n"


def _table(lines: Iterable[Iterable[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
