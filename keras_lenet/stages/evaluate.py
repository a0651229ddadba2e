"""Evaluate stage: score every model on every test image, and measure the cost of quantization.

Only this stage opens the test set. The stage chooses nothing.
"""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from keras_lenet import artifacts, console, models
from keras_lenet.data import catalogue, loading, outliers
from keras_lenet.data.loading import Pixels
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error
from keras_lenet.evaluation import confidence, quantization_noise, robustness, scorers
from keras_lenet.evaluation.metrics import (
    PREDICTIONS,
    Arena,
    Gate,
    Layout,
    McNemar,
    Metrics,
    Pair,
    Rejection,
    Robustness,
    Score,
    TensorNoise,
    Timings,
    wilson_interval,
)
from keras_lenet.evaluation.scorers import Scorer
from keras_lenet.recipe import Evaluate, EvaluateSettings
from keras_lenet.reporting import plots
from keras_lenet.stages import Context, export, quantize, train
from keras_lenet.tflite import convert, parity
from keras_lenet.training import setup

CONFUSION, REJECTION = "confusion.png", "rejection.png"
FLOAT, FAKE_QUANTIZED, FLOAT_FILE = "keras", "qat", "float32"
POST_TRAINING, DEPLOYED = "int8_ptq", "int8"
TRACED = 500
"""Test images whose tensors are compared for the quantization noise."""


class Measured(NamedTuple):
    """Scorers, and their probabilities for the test images: float32, (N, 10)."""

    scorers: dict[str, Scorer]
    probabilities: dict[str, NDArray[np.float32]]
    test: loading.Examples
    dataset: str

    def answers(self, key: str) -> NDArray[np.int64]:
        """Return the predicted classes of one model, (N,)."""
        return self.probabilities[key].argmax(axis=1)


def run(context: Context[EvaluateSettings]) -> dict[str, Any]:
    """Write `metrics.json`, `predictions.npz` and the pictures that a model card shows."""
    setup.prepare_devices()
    settings, seed = context.settings.evaluate, context.settings.seed
    test = loading.load_test(context.dataset, context.data_dir)
    plain = export.plain_int8(context.inputs["export"], context.settings.model.name)
    with console.quiet_native_logs():
        fake_quantized = quantize.load(context.inputs["quantize"], context.settings.model)
        opened = _open_run(context, fake_quantized)
    found = predict(opened, test, context.dataset)
    same = found.answers(FAKE_QUANTIZED) == found.answers(DEPLOYED)
    metrics = measure(
        found,
        FLOAT,
        DEPLOYED,
        [(DEPLOYED, FLOAT), (POST_TRAINING, FLOAT), (DEPLOYED, POST_TRAINING)],
        settings,
        fake_quantized_agreement=float(same.mean()),
        quantization_noise=_noise(context, fake_quantized, opened, plain, test.images[:TRACED]),
        rejection=_rejection(found, DEPLOYED, settings, seed),
        robustness=_robustness(found, (FLOAT_FILE, DEPLOYED), settings, seed),
        arena=_arena(plain),
        layout=_layout(opened[DEPLOYED].path, plain, test.images),
    )
    _write(context.out, metrics, found)
    return {key: model.accuracy for key, model in metrics.models.items()}


def evaluate_files(
    paths: list[Path], test: loading.Examples, dataset: str, settings: Evaluate, out: Path
) -> Metrics:
    """Score model files; the first is the reference, and the gates apply to the last.

    Args:
        paths: Keras files, SavedModel folders, .tflite files.
        test: the test examples.
        dataset: name of their dataset.
        settings: size of the measurements, and gates.
        out: folder for `metrics.json`, `predictions.npz` and the pictures.

    Raises:
        Error: a file cannot be read or breaks the contract, or two have one name.
    """
    opened: dict[str, Scorer] = {}
    for path in paths:
        if path.name in opened:
            raise Error(f"{path}: a second file called {path.name}; rename one of them")
        opened[path.name] = scorers.open_file(path, catalogue.classes(dataset))
    first, last = paths[0], paths[-1]
    found = predict(opened, test, dataset)
    rejection = arena = None
    if last.suffix == ".tflite":
        rejection = _rejection(found, last.name, settings, seed=0)
        arena = _arena(last) if Classifier(last).input.scale else None
    metrics = measure(
        found,
        first.name,
        last.name,
        [(path.name, first.name) for path in reversed(paths[1:])],
        settings,
        quantization_noise={
            path.name: quantization_noise.losses(first, path, test.images[:TRACED])
            for path in paths[1:]
            if quantization_noise.comparable(first, path)
        },
        rejection=rejection,
        robustness=_robustness(found, (first.name, last.name), settings, seed=0),
        arena=arena,
    )
    _write(out, metrics, found)
    return metrics


def predict(opened: dict[str, Scorer], test: loading.Examples, dataset: str) -> Measured:
    """Compute every model's probabilities for every test image.

    Raises:
        Error: a model answers NaN.
    """
    probabilities = {}
    with console.progress() as bar:
        for key, scorer in bar.track(opened.items(), description="evaluate"):
            console.say(f"evaluate: {scorer.title}, {len(test):,} images")
            probabilities[key] = scorer.predict(test.images)
            if broken := int(np.isnan(probabilities[key]).any(axis=1).sum()):
                raise Error(
                    f"{scorer.path}: answers NaN for {broken:,} of {len(test):,} images; its "
                    "weights are damaged, or its training diverged"
                )
    return Measured(opened, probabilities, test, dataset)


def measure(
    found: Measured,
    reference: str,
    deployed: str,
    pairs: list[tuple[str, str]],
    settings: Evaluate,
    **parts: Any,
) -> Metrics:
    """Score and time every model, compare pairs of models, and check the gates.

    Args:
        found: the models and their probabilities.
        reference: key of the model that the others are compared with.
        deployed: key of the model that the gates apply to.
        pairs: keys of the models that a paired test compares.
        settings: the gates.
        parts: further fields of the metrics.

    Raises:
        Error: a gate is set on a figure that was not measured.
    """
    test = found.test
    compared = []
    for first, second in pairs:
        counts = McNemar.of(found.answers(first), found.answers(second), test.labels)
        titles = found.scorers[first].title, found.scorers[second].title
        verdict = counts.in_words(*titles, len(test))
        compared.append(Pair(**dict(counts), first=first, second=second, verdict=verdict))
    metrics = Metrics(
        schema_version=3,
        dataset=found.dataset,
        images=len(test),
        labels=catalogue.classes(found.dataset),
        reference=reference,
        deployed=deployed,
        models={key: _score(found, key, reference) for key in found.scorers},
        paired=tuple(compared),
        timings=Timings(
            cpu=cpu_name(),
            device=setup.device(),
            models={key: scorer.time(test.images) for key, scorer in found.scorers.items()},
        ),
        **parts,
    )
    return metrics.model_copy(update={"gates": check_gates(settings, metrics)})


def check_gates(settings: Evaluate, metrics: Metrics) -> tuple[Gate, ...]:
    """Compare the deployed model's figures with every limit that is set.

    Raises:
        Error: a limit is set on a figure that was not measured.
    """
    deployed, agreement = metrics.deployed_model, metrics.fake_quantized_agreement
    figures: dict[str, float] = {
        "min_accuracy": deployed.accuracy,
        "max_accuracy_drop": 0 - deployed.difference,
        "min_agreement": deployed.agreement if agreement is None else agreement,
        "max_model_bytes": deployed.bytes,
    }
    if metrics.robustness:
        figures["min_robustness"] = metrics.robustness.summary[metrics.deployed].mean_accuracy
    if rejection := metrics.rejection:
        figures["max_digits_refused"] = rejection.test.rejected / rejection.test.total
        # Letters that look like digits have no limit: nobody can tell them apart.
        figures["min_outliers_refused"] = min(
            found.rejected / found.total
            for kind, found in rejection.ood.items()
            if kind != outliers.LIKE_DIGITS
        )
    gates = []
    for name, limit in settings:
        if not name.startswith(("min_", "max_")) or limit is None:
            continue
        if name not in figures:
            raise Error(f"evaluate.{name} is set, but was not measured for this model")
        figure = figures[name]
        met = figure >= limit if name.startswith("min_") else figure <= limit
        gates.append(Gate(gate=name, figure=figure, limit=limit, met=met))
    return tuple(gates)


def _score(found: Measured, key: str, reference: str) -> Score:
    scorer, probabilities = found.scorers[key], found.probabilities[key]
    labels, answers, expected = found.test.labels, found.answers(key), found.answers(reference)
    correct, total = int((answers == labels).sum()), len(labels)
    return Score(
        title=scorer.title,
        correct=correct,
        total=total,
        accuracy=correct / total,
        interval=wilson_interval(correct, total),
        difference=(correct - int((expected == labels).sum())) / total,
        agreement=float((answers == expected).mean()),
        bytes=scorer.bytes,
        confusion=confusion_matrix(labels, answers, labels=range(10)).tolist(),
        calibration=confidence.calibration(probabilities, labels),
    )


def _rejection(found: Measured, deployed: str, settings: Evaluate, seed: int) -> Rejection:
    console.say("evaluate: rejection of out-of-distribution pictures")
    return confidence.rejection(
        Classifier(found.scorers[deployed].path),
        found.probabilities[deployed],
        found.test.labels,
        outliers.probes(settings.probes, seed),
    )


def _robustness(
    found: Measured, keys: tuple[str, str], settings: Evaluate, seed: int
) -> Robustness | None:
    if not settings.robustness_images:
        return None
    count = min(settings.robustness_images, len(found.test))
    return robustness.measure(
        {key: found.scorers[key].predict for key in dict.fromkeys(keys)},
        found.test.images[:count],
        found.test.labels[:count],
        seed,
        settings.prepared_images,
    )


def _arena(path: Path) -> Arena:
    size, how = parity.arena(path)
    return Arena(bytes=size, how=how)


def _layout(optimized: Path, plain: Path, images: Pixels) -> Layout | None:
    """Compare the int8 file with its plain layout on the reference kernels; None if equal."""
    if optimized.read_bytes() == plain.read_bytes():
        return None
    console.say(f"evaluate: {optimized.name} beside {plain.parent.name}/{plain.name}")
    outputs, expected = (
        Classifier(path, kernels="reference").raw(images[:]).astype(np.int16)
        for path in (optimized, plain)
    )
    difference = np.abs(outputs - expected).max(axis=1)
    return Layout(unequal=int(np.count_nonzero(difference)), largest=int(difference.max()))


def _noise(
    context: Context[EvaluateSettings],
    fake_quantized: Any,
    opened: dict[str, Scorer],
    plain: Path,
    images: NDArray[np.uint8],
) -> dict[str, tuple[TensorNoise, ...]]:
    """Compare each int8 file in its plain layout with a float file of the same weights."""
    settings = context.settings.model
    fine_tuned = quantize.unquantized(fake_quantized, settings)
    with console.quiet_native_logs(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float32.tflite"
        path.write_bytes(convert.convert(fine_tuned, models.input_size(settings)))
        return {
            POST_TRAINING: quantization_noise.losses(
                opened[FLOAT_FILE].path, opened[POST_TRAINING].path, images
            ),
            DEPLOYED: quantization_noise.losses(path, plain, images),
        }


def cpu_name() -> str:
    """Return the processor's model name, or its architecture where the system has no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _open_run(context: Context[EvaluateSettings], fake_quantized: Any) -> dict[str, Scorer]:
    inputs, name = context.inputs, context.settings.model.name
    keras_path = inputs["train"] / train.MODEL
    trained = train.load(inputs["train"])
    opened = {
        FLOAT: scorers.of_keras(trained, keras_path, "Keras float32"),
        "saved_model": scorers.of_saved_model(inputs["export"] / export.SAVED_MODEL, "SavedModel"),
        FAKE_QUANTIZED: scorers.of_keras(
            fake_quantized, inputs["quantize"] / quantize.WEIGHTS, "Keras QAT"
        ),
    }
    for variant in export.VARIANTS:
        path = inputs["export"] / export.file_name(name, variant)
        opened[variant] = scorers.of_tflite(path, catalogue.classes(context.dataset))
    return opened


def _write(out: Path, metrics: Metrics, found: Measured) -> None:
    """Write the metrics, the predictions and the pictures.

    `predictions.npz` has every model's probabilities, and the images that a report may show: those
    that the deployed model classifies wrongly, or otherwise than the reference.
    """
    metrics.write(out)
    test, answers = found.test, found.answers(metrics.deployed)
    differing = answers != found.answers(metrics.reference)
    shown = np.flatnonzero(differing | (answers != test.labels))
    with artifacts.replacing(out / PREDICTIONS) as temporary:
        np.savez_compressed(
            temporary,
            labels=test.labels,
            shown=shown,
            shown_images=test.images[shown],
            **found.probabilities,  # type: ignore[arg-type]
        )
    plots.save(plots.confusion_matrices(metrics), out / CONFUSION)
    if metrics.rejection:
        plots.save(plots.rejection(metrics.rejection), out / REJECTION)
