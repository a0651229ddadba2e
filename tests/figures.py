"""Metrics made by hand, for tests of whatever reads them."""

import numpy as np

from keras_lenet.evaluation import confidence
from keras_lenet.evaluation.metrics import (
    Arena,
    Corrupted,
    Gate,
    Layout,
    Metrics,
    OodRejection,
    Pair,
    Rejection,
    Robustness,
    RobustnessSummary,
    Score,
    TensorNoise,
    TestRejection,
    Timing,
    Timings,
)

LABELS = np.arange(20, dtype=np.uint8) % 10


def probabilities(answers, confidence=0.9):
    """Float32 (N, 10): for each image the class in `answers`, with this confidence."""
    found = np.full((len(answers), 10), (1 - confidence) / 9, np.float32)
    found[np.arange(len(answers)), list(map(int, answers))] = confidence
    return found


def with_mistakes(wrong):
    """Probabilities for `LABELS`, with the next class at the positions `wrong`."""
    answers = LABELS.copy()
    answers[list(wrong)] = (answers[list(wrong)] + 1) % 10
    return probabilities(answers)


def score(title, wrong=(3,), **changes):
    """The score of a model that is wrong at these positions of `LABELS`."""
    found, wrong = with_mistakes(wrong), list(wrong)
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (LABELS, found.argmax(1)), 1)
    figures = {
        "title": title, "correct": 20 - len(wrong), "total": 20, "accuracy": 1 - len(wrong) / 20,
        "interval": (0.7, 1.0), "difference": 0.0, "agreement": 1.0, "bytes": 1000,
        "confusion": matrix.tolist(), "calibration": confidence.calibration(found, LABELS),
    }  # fmt: skip
    return Score(**(figures | changes))


def timing(**changes):
    figures = {"kernels": "XNNPACK", "p50_us": 1, "p95_us": 2, "batched_images_per_second": 3}
    return Timing(**(figures | changes))


def metrics(*models, **changes):
    """Metrics of models by their titles; the first is the reference, the last is deployed."""
    by_title = {model.title: model for model in models}
    timings = Timings(cpu="a CPU", device="CPU", models=dict.fromkeys(by_title, timing()))
    figures = {
        "schema_version": 3, "dataset": "mnist", "images": 20, "labels": tuple("0123456789"),
        "reference": models[0].title, "deployed": models[-1].title, "models": by_title,
        "timings": timings,
    }  # fmt: skip
    return Metrics(**(figures | changes))


def everything():
    """Metrics of two models with every part that an evaluation may measure."""
    noise = (
        TensorNoise(op="CONV_2D", shape=(4, 4), sqnr_db=40.0, drop_db=8.0, max_error=0.25,
                    saturated=0.125, range=(-1.0, 1.0)),
        TensorNoise(op="SOFTMAX", shape=(10,), sqnr_db=30.0, drop_db=10.0, max_error=0.5,
                    saturated=0.25, range=(0.0, 1.0)),
    )  # fmt: skip
    accuracies = Corrupted(raw=(0.75, 0.5), prepared=(0.5, 0.25))
    means = RobustnessSummary(
        mean_accuracy=0.5, mean_accuracy_prepared=0.25, mean_corruption_error=0.75
    )
    names = ("b.tflite", "a.tflite")
    return metrics(
        score("b.tflite", wrong=(4,)),
        score("a.tflite", wrong=(3, 4)),
        paired=(
            Pair(first="a.tflite", second="b.tflite", only_first=0, only_second=1, p=1.0, differ=1,
                 verdict="a.tflite and b.tflite are indistinguishable: 1."),
        ),
        fake_quantized_agreement=0.5,
        quantization_noise={"a.tflite": noise},
        rejection=Rejection(
            threshold=0.25,
            test=TestRejection(total=20, rejected=1, accuracy_of_accepted=0.75),
            ood={"letters": OodRejection(total=8, rejected=4, rejected_by_threshold=2)},
            curve={"threshold": (0.0, 0.5), "test": (0.0, 0.25), "letters": (0.25, 0.5)},
        ),
        robustness=Robustness(
            images=20, prepared_images=10, severities=(1, 2),
            corruptions={"fog": dict.fromkeys(names, accuracies)},
            summary=dict.fromkeys(names, means),
        ),
        arena=Arena(bytes=500, how="measured"),
        layout=Layout(unequal=3, largest=2),
        gates=(Gate(gate="min_accuracy", figure=0.9, limit=0.75, met=True),),
    )  # fmt: skip


def predictions(**models):
    """Arrays as in `predictions.npz`: of each model by its title the positions it gets wrong."""
    shown = np.array(sorted({place for wrong in models.values() for place in wrong}), int)
    images = np.zeros((len(shown), 28, 28), np.uint8)
    answers = {title: with_mistakes(wrong) for title, wrong in models.items()}
    return {"labels": LABELS, "shown": shown, "shown_images": images} | answers


def changed(metrics, way, value):
    """Return metrics in which one figure is another, unvalidated.

    `way` has field names, keys and positions, joined by spaces; `value` may be a function.
    """
    first, _, rest = way.partition(" ")
    if not way:
        return value(metrics) if callable(value) else value
    if isinstance(metrics, dict):
        return metrics | {first: changed(metrics[first], rest, value)}
    if isinstance(metrics, tuple):
        place = int(first)
        return (*metrics[:place], changed(metrics[place], rest, value), *metrics[place + 1 :])
    return metrics.model_copy(update={first: changed(getattr(metrics, first), rest, value)})
