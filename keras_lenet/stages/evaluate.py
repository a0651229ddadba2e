"""Score every artifact on every test image, and find out what quantization cost, and where.

The one stage that opens the test set. Nothing is chosen here.
"""

from __future__ import annotations

import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from keras_lenet import artifacts, console, models
from keras_lenet.data import catalogue, loading, outliers
from keras_lenet.data.loading import Pixels
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error
from keras_lenet.evaluation import (
    confidence,
    quantization_noise,
    results,
    robustness,
    scorers,
    significance,
)
from keras_lenet.evaluation.scorers import Subject
from keras_lenet.recipe import Evaluate, EvaluateSettings
from keras_lenet.reporting import plots
from keras_lenet.stages import Context, export, quantize, train
from keras_lenet.tflite import convert, parity
from keras_lenet.training import devices

CONFUSION, REJECTION = "confusion.png", "rejection.png"
FLOAT, FAKE_QUANTIZED, FLOAT_FILE = "keras", "qat", "float32"
POST_TRAINING, DEPLOYED = "int8_ptq", "int8"
REPETITIONS = 200
TRACED = 500
"""Test images that go through the network tensor by tensor."""


def run(context: Context[EvaluateSettings]) -> dict[str, Any]:
    """Write `metrics.json`, `predictions.npz` and the pictures that a model card shows."""
    devices.prepare_devices()
    settings, seed = context.settings.evaluate, context.settings.seed
    test = loading.load_test(context.dataset, context.data_dir)
    plain = export.plain_int8(context.inputs["export"], context.settings.model.name)
    with console.without_information():
        scored = _subjects(context)
    probabilities = predict(scored, test)
    pairs = ((DEPLOYED, FLOAT), (POST_TRAINING, FLOAT), (DEPLOYED, POST_TRAINING))
    metrics = measure(scored, probabilities, test, context.dataset, FLOAT, pairs)
    same = probabilities[FAKE_QUANTIZED].argmax(1) == probabilities[DEPLOYED].argmax(1)
    metrics |= {
        "fake_quantized_agreement": float(same.mean()),
        "layers": _layers(context, scored, plain, test),
        **_behaviour(scored, probabilities, test, FLOAT_FILE, DEPLOYED, settings, seed),
        "arena": _arena(plain),
        **_layout(scored[DEPLOYED].path, plain, test.images),
    }
    metrics["gates"] = gates(settings, metrics)
    write(context.out, metrics, probabilities, test)
    return {key: model["accuracy"] for key, model in metrics["models"].items()}


def evaluate_files(
    paths: list[Path], test: loading.Examples, dataset: str, settings: Evaluate, out: Path
) -> dict[str, Any]:
    """Score model files as `run` does those of a recipe, each beside the first.

    Args:
        paths: Keras files, SavedModel folders, .tflite files.
        test: the test examples.
        dataset: their dataset's name.
        settings: how much is measured; gates are checked on the last file.
        out: folder for `metrics.json`, `predictions.npz` and the pictures.

    Raises:
        Error: a file can't be read or doesn't keep the contract, or two have one name.
    """
    scored: dict[str, Subject] = {}
    for path in paths:
        if path.name in scored:
            raise Error(f"{path}: a second file called {path.name}; rename one of them")
        scored[path.name] = scorers.open_file(path, catalogue.classes(dataset))
    first, last = paths[0].name, paths[-1].name
    probabilities = predict(scored, test)
    pairs = tuple((path.name, first) for path in paths[1:])
    metrics = measure(scored, probabilities, test, dataset, first, pairs)
    traced = test.images[:TRACED]
    metrics["layers"] = {
        path.name: quantization_noise.losses(paths[0], path, traced)
        for path in paths[1:]
        if quantization_noise.comparable(paths[0], path)
    }
    metrics |= _behaviour(scored, probabilities, test, first, last, settings, seed=0)
    if paths[-1].suffix == ".tflite" and Classifier(paths[-1]).input.scale:
        metrics["arena"] = _arena(paths[-1])
    metrics["gates"] = gates(settings, metrics)
    write(out, metrics, probabilities, test)
    return metrics


def predict(scored: dict[str, Subject], test: loading.Examples) -> dict[str, NDArray[np.float32]]:
    """Every subject's probabilities for every test image.

    Raises:
        Error: a subject's answers are no numbers.
    """
    probabilities = {}
    with console.progress() as bar:
        for key, subject in bar.track(scored.items(), description="evaluate"):
            console.say(f"evaluate: {subject.title}, {len(test):,} images")
            probabilities[key] = subject.predict(test.images)
            if broken := int(np.isnan(probabilities[key]).any(axis=1).sum()):
                raise Error(
                    f"{subject.path}: answers NaN for {broken:,} of {len(test):,} images; its "
                    "weights are damaged, or its training diverged"
                )
    return probabilities


def measure(
    scored: dict[str, Subject],
    probabilities: dict[str, NDArray[np.float32]],
    test: loading.Examples,
    dataset: str,
    reference: str,
    pairs: tuple[tuple[str, str], ...],
) -> dict[str, Any]:
    """What the answers say: every subject's score, and the paired comparisons.

    Args:
        scored: the subjects.
        probabilities: their answers, (N, 10) each.
        test: the test examples.
        dataset: their dataset's name.
        reference: the subject that the others are held against.
        pairs: which two to compare.
    """
    answers = {key: found.argmax(axis=1) for key, found in probabilities.items()}
    compared = []
    for first, second in pairs:
        pair = significance.compare(answers[first], answers[second], test.labels)
        titles = scored[first].title, scored[second].title
        sentence = significance.verdict(pair, *titles, len(test))
        compared.append({"first": first, "second": second, **pair, "verdict": sentence})
    return {
        "schema": results.SCHEMA,
        "dataset": dataset,
        "images": len(test),
        "labels": list(catalogue.classes(dataset)),
        "reference": reference,
        "models": {
            key: score(subject, probabilities[key], probabilities[reference], test.labels)
            for key, subject in scored.items()
        },
        "paired": compared,
        "timings": {
            "cpu": cpu_name(),
            "device": devices.device(),
            "threads": 1,
            "models": {key: _time(subject, test.images) for key, subject in scored.items()},
        },
    }


def score(
    subject: Subject,
    probabilities: NDArray[np.float32],
    reference: NDArray[np.float32],
    labels: NDArray[np.uint8],
) -> dict[str, Any]:
    """Count what one model got right, and how it differs from the reference.

    Args:
        subject: the model.
        probabilities: its answers, (N, 10).
        reference: the reference's answers to the same images, (N, 10).
        labels: uint8, (N,).
    """
    answers, expected = probabilities.argmax(1), reference.argmax(1)
    correct, total = int((answers == labels).sum()), len(labels)
    return {
        "title": subject.title,
        "correct": correct,
        "total": total,
        "accuracy": correct / total,
        "interval": significance.wilson_interval(correct, total),
        "difference": (correct - int((expected == labels).sum())) / total,
        "agreement": float((answers == expected).mean()),
        "bytes": subject.bytes,
        "confusion": confusion_matrix(labels, answers, labels=range(10)).tolist(),
        "calibration": confidence.calibration(probabilities, labels),
        "coverage": confidence.coverage(probabilities, labels),
    }


def _behaviour(
    scored: dict[str, Subject],
    probabilities: dict[str, NDArray[np.float32]],
    test: loading.Examples,
    reference: str,
    deployed: str,
    settings: Evaluate,
    seed: int,
) -> dict[str, Any]:
    """What the deployed model does beyond the test images: corrupted ones, and what is no digit."""
    subject = scored[deployed]
    found: dict[str, Any] = {"deployed": deployed}
    if subject.path.suffix == ".tflite":
        console.say("evaluate: what is no digit")
        classifier = Classifier(subject.path)
        pages = outliers.probes(settings.probes, seed)
        found["rejection"] = confidence.rejection(
            classifier, probabilities[deployed], test.labels, pages
        )
    if settings.robustness_images:
        count = min(settings.robustness_images, len(test))
        found["robustness"] = robustness.measure(
            {key: scored[key].predict for key in dict.fromkeys((reference, deployed))},
            test.images[:count],
            test.labels[:count],
            seed,
            settings.prepared_images,
        )
    return found


def _arena(path: Path) -> dict[str, Any]:
    """What TensorFlow Lite Micro's interpreter takes for a file, and how that was found."""
    arena, how = parity.arena(path)
    return {"bytes": arena, "how": how}


def _layout(optimized: Path, plain: Path, images: Pixels) -> dict[str, Any]:
    """How the int8 file differs from what it was before its layout was optimized, if it was.

    Args:
        optimized: the int8 file.
        plain: the same as it was converted.
        images: uint8, (N, 28, 28).
    """
    if optimized.read_bytes() == plain.read_bytes():
        return {}
    console.say(f"evaluate: {optimized.name} beside {plain.parent.name}/{plain.name}")
    found, expected = (
        Classifier(path, kernels="reference").raw(images[:]).astype(np.int16)
        for path in (optimized, plain)
    )
    difference = np.abs(found - expected).max(axis=1)
    return {
        "layout": {
            "kernels": "reference",
            "images": len(images),
            "unequal": int(np.count_nonzero(difference)),
            "largest": int(difference.max()),
        }
    }


def _layers(
    context: Context[EvaluateSettings],
    scored: dict[str, Subject],
    plain: Path,
    test: loading.Examples,
) -> dict[str, list[dict[str, Any]]]:
    """Each int8 file, as it was converted, beside what it was made from: the weights in float."""
    settings, traced = context.settings.model, test.images[:TRACED]
    fine_tuned = quantize.unquantized(quantize.load(context.inputs["quantize"], settings), settings)
    with console.without_information(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float32.tflite"
        path.write_bytes(convert.convert(fine_tuned, models.input_size(settings)))
        return {
            POST_TRAINING: quantization_noise.losses(
                scored[FLOAT_FILE].path, scored[POST_TRAINING].path, traced
            ),
            DEPLOYED: quantization_noise.losses(path, plain, traced),
        }


def gates(settings: Evaluate, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Each gate that is set, with the deployed model's figure.

    Raises:
        Error: a gate is set on something that was not measured.
    """
    deployed = metrics["models"][metrics["deployed"]]
    differ = [
        max(pair["differ_by_class"])
        for pair in metrics["paired"]
        if (pair["first"], pair["second"]) == (metrics["deployed"], metrics["reference"])
    ]
    figures: dict[str, float | None] = {
        "min_accuracy": deployed["accuracy"],
        "max_accuracy_drop": 0 - deployed["difference"],
        "max_flips_per_digit": differ[0] if differ else None,
        "min_agreement": metrics.get("fake_quantized_agreement", deployed["agreement"]),
        "max_model_bytes": deployed["bytes"],
        "max_arena_bytes": metrics["arena"]["bytes"] if "arena" in metrics else None,
        "min_robustness": None,
        "max_digits_refused": None,
        "min_outliers_refused": None,
    }
    if "robustness" in metrics:
        summary = metrics["robustness"]["summary"][metrics["deployed"]]
        figures["min_robustness"] = summary["mean_accuracy"]
    if "rejection" in metrics:
        digits, kinds = metrics["rejection"]["digits"], metrics["rejection"]["outliers"]
        figures["max_digits_refused"] = digits["refused"] / digits["total"]
        figures["min_outliers_refused"] = min(
            counts["refused"] / counts["total"]
            for kind, counts in kinds.items()
            if kind != outliers.LIKE_DIGITS
        )
    checked = []
    for gate, figure in figures.items():
        limit = getattr(settings, gate)
        if limit is None:
            continue
        if figure is None:
            raise Error(f"evaluate.{gate} is set, but was not measured for this model")
        met = figure >= limit if gate.startswith("min_") else figure <= limit
        checked.append({"gate": gate, "figure": figure, "limit": limit, "met": met})
    return checked


def cpu_name() -> str:
    """The processor's model name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write(
    out: Path,
    metrics: dict[str, Any],
    probabilities: dict[str, NDArray[np.float32]],
    test: loading.Examples,
) -> None:
    """Write an evaluation's files; pages are made from these alone."""
    artifacts.write_json(out / results.METRICS, metrics)
    _keep_predictions(out / results.PREDICTIONS, test, probabilities, metrics)
    plots.save(
        plots.confusion_matrices(
            {
                metrics["models"][key]["title"]: np.array(metrics["models"][key]["confusion"])
                for key in dict.fromkeys((metrics["reference"], metrics["deployed"]))
            },
            f"{metrics['dataset']}, {len(test):,} test images",
            metrics["labels"],
        ),
        out / CONFUSION,
    )
    if "rejection" in metrics:
        plots.save(plots.rejection(metrics["rejection"]), out / REJECTION)


def _subjects(context: Context[EvaluateSettings]) -> dict[str, Subject]:
    name = context.settings.model.name
    keras_path = context.inputs["train"] / train.MODEL
    qat_path = context.inputs["quantize"] / quantize.WEIGHTS
    trained = train.load(context.inputs["train"])
    fake_quantized = quantize.load(context.inputs["quantize"], context.settings.model)
    saved_model = context.inputs["export"] / export.SAVED_MODEL
    return {
        FLOAT: scorers.of_keras(trained, keras_path, "Keras float32"),
        "saved_model": scorers.of_saved_model(saved_model, "SavedModel"),
        FAKE_QUANTIZED: scorers.of_keras(fake_quantized, qat_path, "Keras QAT"),
    } | {
        variant: scorers.of_tflite(
            context.inputs["export"] / export.file_name(name, variant),
            catalogue.classes(context.dataset),
        )
        for variant in export.VARIANTS
    }


def _time(subject: Subject, images: Pixels) -> dict[str, Any]:
    """Time one image at a time, the Python call included, and a whole batch."""
    seconds = []
    for position in range(REPETITIONS + 20):
        image = images[position % len(images)][np.newaxis]
        start = time.perf_counter()
        subject.predict(image)
        seconds.append(time.perf_counter() - start)
    low, high = np.percentile(seconds[20:], [50, 95]) * 1e6  # the first ones warm up
    batch = images[: scorers.BATCH]
    subject.predict(batch)
    start = time.perf_counter()
    subject.predict(batch)
    throughput = len(batch) / (time.perf_counter() - start)
    return {
        "kernels": subject.kernels,
        "p50_us": round(low, 1),
        "p95_us": round(high, 1),
        "batched_images_per_second": round(throughput),
    }


def _keep_predictions(
    path: Path,
    test: loading.Examples,
    probabilities: dict[str, NDArray[np.float32]],
    metrics: dict[str, Any],
) -> None:
    """Every model's probabilities, and the images that a report may show.

    These are the ones that the deployed model gets wrong, or puts elsewhere than the reference.
    """
    answers = probabilities[metrics["deployed"]].argmax(1)
    elsewhere = answers != probabilities[metrics["reference"]].argmax(1)
    shown = np.flatnonzero(elsewhere | (answers != test.labels))
    with artifacts.replacing(path) as temporary:
        np.savez_compressed(
            temporary,
            labels=test.labels,
            shown=shown,
            shown_images=test.images[shown],
            **probabilities,  # type: ignore[arg-type]
        )
