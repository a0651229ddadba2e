"""Gates: limits of the recipe that the deployed model's metrics must meet."""

from __future__ import annotations

from keras_lenet.data import outliers
from keras_lenet.errors import Error, GateError
from keras_lenet.evaluation.metrics import Gate, Metrics
from keras_lenet.recipe import Evaluate


def evaluate(settings: Evaluate, metrics: Metrics) -> tuple[Gate, ...]:
    """Compare the deployed model's figures with every limit that is set.

    Raises:
        Error: a limit is set on a figure that was not measured.
    """
    gates = []
    for name, figure in _figures(metrics).items():
        limit = getattr(settings, name)
        if limit is None:
            continue
        if figure is None:
            raise Error(f"evaluate.{name} is set, but was not measured for this model")
        met = figure >= limit if name.startswith("min_") else figure <= limit
        gates.append(Gate(gate=name, figure=figure, limit=limit, met=met))
    return tuple(gates)


def check(metrics: Metrics) -> None:
    """Raise if any gate was missed.

    Raises:
        GateError: names every missed gate with its figure and its limit.
    """
    missed = [
        f"evaluate.{gate.gate}: {gate.figure:.6g}, limit {gate.limit:.6g}"
        for gate in metrics.gates
        if not gate.met
    ]
    if missed:
        raise GateError("gate missed: " + "; ".join(missed))


def _figures(metrics: Metrics) -> dict[str, float | None]:
    """Return the figure of every gate; None where it was not measured."""
    deployed, agreement = metrics.deployed_model, metrics.fake_quantized_agreement
    figures: dict[str, float | None] = {
        "min_accuracy": deployed.accuracy,
        "max_accuracy_drop": 0 - deployed.difference,
        "min_agreement": deployed.agreement if agreement is None else agreement,
        "max_model_bytes": deployed.bytes,
        "min_robustness": None,
        "max_digits_refused": None,
        "min_outliers_refused": None,
    }
    if metrics.robustness:
        figures["min_robustness"] = metrics.robustness.summary[metrics.deployed].mean_accuracy
    if rejection := metrics.rejection:
        figures["max_digits_refused"] = rejection.test.rejected / rejection.test.total
        # Letters that look like digits are left out: nobody can tell them apart.
        figures["min_outliers_refused"] = min(
            found.rejected / found.total
            for kind, found in rejection.ood.items()
            if kind != outliers.LIKE_DIGITS
        )
    return figures
