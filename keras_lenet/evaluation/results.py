"""What an evaluation found, as rows for the screen, the report and the model card.

`metrics.json`, schema 2. Two evaluations of the same files differ in `timings` alone. Shares are
fractions; a `model` is a key of `models`; what was not measured is left out.

    schema, dataset, images, labels     2; the test set, its size, its classes
    reference, deployed                 the models that the others, and the gates, are held against
    models.<model>                      title, correct, total, accuracy, interval (95 %, Wilson),
                                        difference (of accuracy, from the reference), agreement,
                                        bytes, confusion (true class by answer), calibration
                                        (error; bins of count, confidence, accuracy), coverage
                                        (accuracy on the most confident share)
    paired[]                            first, second; only_first, only_second (images that one
                                        alone gets right), p (McNemar, exact), differ,
                                        differ_by_class, agreement, verdict
    fake_quantized_agreement            of the int8 file with the model it was made from
    layers.<model>[]                    op, shape, sqnr_db, drop_db, max_error, saturated, range,
                                        channels: see `quantization_noise.losses`
    rejection                           threshold, digits, outliers, curve: see
                                        `confidence.rejection`
    robustness                          corruptions, summary: see `stages.robustness.measure`
    arena                               bytes, and how they were found, of the int8 file that
                                        microcontrollers take
    layout                              of the int8 file beside that one, on every image: kernels,
                                        images, unequal (images with any difference), largest (of
                                        any output, in units of the last place)
    gates[]                             gate, figure, limit, met
    timings                             cpu, device, threads; of each model kernels, p50_us, p95_us,
                                        batched_images_per_second
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_lenet.errors import Error, GateError

METRICS, PREDICTIONS = "metrics.json", "predictions.npz"
SCHEMA = 2
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


def read(folder: Path) -> dict[str, Any]:
    """The metrics that an evaluate stage left in `folder`.

    Raises:
        Error: they can't be read, or are of another schema.
    """
    path = folder / METRICS
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Error(f"{path}: cannot be read as metrics ({error})") from error
    found = metrics.get("schema") if isinstance(metrics, dict) else None
    if found != SCHEMA:
        raise Error(f"{path}: schema {found!r:.20}, expected {SCHEMA}; run evaluate again")
    problem = _problem(metrics, _FORM, "")
    for key in ("reference", "deployed"):
        known = metrics.get("models", {})
        if not problem and not {metrics[key]} <= set(known) & set(metrics["timings"]["models"]):
            problem = f"{key} is none of its models"
    if problem:
        raise Error(f"{path}: damaged or edited: {problem}; run evaluate again")
    return metrics


_SHARE = {"total": float, "refused": float}
_FORM: dict[str, Any] = {
    "dataset": str,
    "images": float,
    "labels": [str],
    "reference": str,
    "deployed": str,
    "models": {
        ...: {
            "title": str,
            "correct": float,
            "total": float,
            "accuracy": float,
            "interval": (float, float),
            "difference": float,
            "agreement": float,
            "bytes": float,
            "calibration": {"error": float},
        }
    },
    "paired": [{"verdict": str}],
    "gates": [{"gate": str, "figure": float, "limit": float, "met": bool}],
    "timings": {
        "cpu": str,
        "device": str,
        "threads": float,
        "models": {...: {"kernels": str, "p50_us": float}},
    },
}
"""What everybody who shows metrics relies on: `float` for any number, `...` for any key."""
_OPTIONAL: dict[str, Any] = {
    "rejection": {
        "threshold": float,
        "digits": _SHARE,
        "outliers": {...: _SHARE | {"refused_by_threshold": float}},
    },
    "robustness": {"summary": {...: {"mean_accuracy": float}}},
    "fake_quantized_agreement": float,
    "layout": {"kernels": str, "images": float, "unequal": float, "largest": float},
}
_LARGEST = 1e15


def _problem(value: Any, form: Any, where: str) -> str | None:
    """The first place at which a value hasn't its form, in words."""
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return f"{where or 'all of it'} is no object"
        if ... in form:
            form = dict.fromkeys(value, form[...])
        missing = [key for key in form if key not in value]
        if missing:
            return f"{where}{missing[0]} is missing"
        if not where:
            form = form | {key: form for key, form in _OPTIONAL.items() if key in value}
        problems = (_problem(value[key], part, f"{where}{key}.") for key, part in form.items())
        return next(filter(None, problems), None)
    if isinstance(form, list):
        if not isinstance(value, list):
            return f"{where} is no list"
        return next(filter(None, (_problem(item, form[0], where) for item in value)), None)
    if isinstance(form, tuple):
        if not isinstance(value, list) or len(value) != len(form):
            return f"{where} is no list of {len(form)}"
        return _problem(value, [form[0]], where)
    if form is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if number and abs(value) < _LARGEST else f"{where} is no number"
    if not isinstance(value, form) or (form is str and not value.isprintable()):
        return f"{where} is no {'plain text' if form is str else form.__name__}"
    return None


def rows(metrics: dict[str, Any]) -> list[list[str]]:
    """One row of `HEADER` a model."""
    return [
        _row(model, metrics["timings"]["models"][key]) for key, model in metrics["models"].items()
    ]


def _row(model: dict[str, Any], timing: dict[str, Any]) -> list[str]:
    low, high = model["interval"]
    return [
        model["title"],
        f"{model['correct']:,}",
        f"{model['accuracy']:.2%}",
        f"{100 * low:.2f} to {100 * high:.2f}",
        f"{100 * model['difference']:+.2f} pt",
        f"{model['agreement']:.2%}",
        f"{model['bytes']:,}",
        f"{timing['p50_us']:,.0f} µs",
        timing["kernels"],
    ]


def caption(metrics: dict[str, Any]) -> str:
    """What the rows stand on: dataset, images, machine."""
    timings = metrics["timings"]
    threads = "1 thread" if timings["threads"] == 1 else f"{timings['threads']} threads"
    reference = metrics["models"][metrics["reference"]]["title"]
    return (
        f"Test set of {metrics['dataset']}, {metrics['images']:,} images. "
        + ("Keras QAT is the fake-quantized model. " if "qat" in metrics["models"] else "")
        + f"Difference and agreement: from {reference}, and share of the same class. Time: median "
        f"of one image at a time, on {timings['device']}; .tflite: {threads}, {timings['cpu']}."
        + _layout(metrics)
    )


def _layout(metrics: dict[str, Any]) -> str:
    """What optimizing the deployed file's layout changed, where it was."""
    if "layout" not in metrics:
        return ""
    found, title = metrics["layout"], metrics["models"][metrics["deployed"]]["title"]
    differ = "nowhere"
    if found["unequal"]:
        differ = f"on {found['unequal']:,} images, by at most {found['largest']}"
    return (
        f" {title} has an optimized layout. From the file in microcontroller/, which has not, its "
        f"outputs differ {differ} ({found['kernels']} kernels)."
    )


def paired(metrics: dict[str, Any]) -> str:
    """The paired comparisons, a Markdown list item each."""
    return "\n".join(f"- {pair['verdict']}" for pair in metrics["paired"]) + (
        "\n\nExact McNemar tests, on paired predictions." if metrics["paired"] else ""
    )


def markdown(metrics: dict[str, Any]) -> str:
    """The rows as a Markdown table, with its caption and the paired comparisons."""
    align = ["---:" if name in RIGHT_ALIGNED else "---" for name in HEADER]
    table = _table([HEADER, align, *rows(metrics)])
    return f"{table}\n\n{caption(metrics)}\n\n{paired(metrics)}\n"


def of_digits(metrics: dict[str, Any]) -> bool:
    """Whether the classes are the digits: what is drawn and prepared is made for these."""
    return metrics["labels"] == list("0123456789")


def rejection_heading(metrics: dict[str, Any]) -> str:
    """What the pictures that ought to be refused have in common."""
    return "What is no digit" if of_digits(metrics) else "What is none of the classes"


def rejection_rows(metrics: dict[str, Any]) -> list[list[str]]:
    """One row of `REJECTION_HEADER` a kind of picture; the test images last."""
    found = metrics["rejection"]
    digits = found["digits"]
    return [
        *(
            [
                kind,
                f"{counts['refused'] / counts['total']:.1%}",
                f"{counts['refused_by_threshold'] / counts['total']:.1%}",
                f"{counts['total']:,}",
            ]
            for kind, counts in found["outliers"].items()
        ),
        ["test images", "", f"{digits['refused'] / digits['total']:.2%}", f"{digits['total']:,}"],
    ]


def rejection_caption(metrics: dict[str, Any]) -> str:
    """What the rows stand on: the threshold, and what it leaves."""
    found = metrics["rejection"]
    kept = found["digits"]["accuracy_of_accepted"]
    right = f" Of the test images it accepts, {kept:.2%} are right." if kept is not None else ""
    return (
        f"Accepted is what has a confidence of {found['threshold']:.4g} or more.{right} "
        "Letters and scribbles are drawn otherwise than those in training."
        + ("" if of_digits(metrics) else OTHER_CLASSES)
    )


def rejection(metrics: dict[str, Any]) -> str:
    """What the int8 file's threshold refuses, as a Markdown table with its caption."""
    align = ["---", "---:", "---:", "---:"]
    table = _table([REJECTION_HEADER, align, *rejection_rows(metrics)])
    return f"{table}\n\n{rejection_caption(metrics)}\n"


def _table(lines: Iterable[Iterable[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def check_gates(metrics: dict[str, Any]) -> None:
    """Raise if any gate was missed.

    Raises:
        GateError: naming every missed gate with its figure and its limit.
    """
    missed = [
        f"evaluate.{gate['gate']}: {gate['figure']:.6g}, limit {gate['limit']:.6g}"
        for gate in metrics["gates"]
        if not gate["met"]
    ]
    if missed:
        raise GateError("gate missed: " + "; ".join(missed))
