"""Tables of the READMEs, rendered from the records that they show.

    python tests/tables.py

A README marks a place by `<!-- table: NAME -->` and, lines below, `<!-- end -->`. Names: `metrics`
and `rejection` (exported/metrics.json), `torture` (tests/torture/results.json), `clients`
(tests/benchmarks/clients.json), `machine` and each benchmark's name, such as `inference`
(tests/benchmarks/results.json). A name that no record has is an error.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_lenet import artifacts
from keras_lenet.evaluation.metrics import Metrics, Score

ROOT = Path(__file__).parents[1]
READMES = [*ROOT.glob("README.md"), *sorted(ROOT.glob("[ept]*/README.md"))]
MARKED = re.compile(r"^(<!-- table: (.+?) -->\n).*?^(<!-- end -->)$", re.DOTALL | re.MULTILINE)


def main() -> None:
    """Write every table of every README."""
    for path in READMES:
        path.write_text(render(path.read_text()))
    artifacts.write_sums(ROOT / "exported")  # the card is among the files that it lists


def render(text: str, root: Path = ROOT) -> str:
    """Return a README with its marked places filled from the records below `root`."""
    return MARKED.sub(lambda match: f"{match[1]}{table(match[2], root)}\n{match[3]}", text)


def table(name: str, root: Path) -> str:
    """Return one table as Markdown.

    Raises:
        LookupError: no record has it.
    """
    if name in ("metrics", "rejection"):
        metrics = Metrics.read(root / "exported")
        return _metrics(metrics) if name == "metrics" else _rejection(metrics)
    if name == "torture":
        return _torture(_read(root / "tests" / "torture" / "results.json"))
    if name == "clients":
        return _clients(_read(root / "tests" / "benchmarks" / "clients.json"))
    report = _read(root / "tests" / "benchmarks" / "results.json")
    if name == "machine":
        machine = report["machine"]
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        return (
            f"{machine['cpu']}, {machine['cores']} cores; Python {machine['python']}, {versions}."
        )
    rows = [row for row in report["rows"] if row["benchmark"] == name]
    if not rows:
        raise LookupError(f"no record has a table '{name}'")
    return _benchmark(rows)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise LookupError(f"no record: {path}")
    return json.loads(path.read_text())


def _markdown(header: str, rows: Iterable[Iterable[object]]) -> str:
    """Return rows below a header, `name | figure:`; a colon aligns a column to the right.

    A column that is empty in every row is left out.
    """
    names = [name.strip() for name in header.split("|")]
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    kept = [i for i in range(len(names)) if any(row[i] for row in cells)]
    lines = [[names[i].removesuffix(":") for i in kept]]
    lines += [["---:" if names[i].endswith(":") else "---" for i in kept]]
    lines += [[row[i] for i in kept] for row in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _benchmark(rows: list[dict[str, Any]]) -> str:
    def line(row: dict[str, Any]) -> list[object]:
        speedup = goal = None
        if row["speedup"] is not None:
            low, high = row["speedup_quartiles"]
            speedup = f"{row['speedup']:.2f} ({low:.2f} to {high:.2f})"
        if row["goal"] is not None:
            goal = f"{row['goal']:g}" + (", missed" if row["speedup"] < row["goal"] else "")
        figure = None if row["median"] is None else f"{_round(row['median'])} {row['unit']}".strip()
        return [row["case"], row["name"], figure, speedup, goal, row["note"]]

    return _markdown("case | | median: | speed-up (quartiles): | goal: | note", map(line, rows))


def _round(value: float) -> str:
    """Return a figure with three significant digits, or all of them before the point."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _torture(report: dict[str, Any]) -> str:
    def line(row: dict[str, Any]) -> list[object]:
        count, seconds = f"{row['count']:,}", f"{row['seconds']:.0f} s"
        return [row["harness"], row["what"], count, row["outcome"], seconds]

    return _markdown("harness | what | number: | outcome | time:", map(line, report["rows"]))


def _clients(record: dict[str, Any]) -> str:
    def line(row: dict[str, Any]) -> list[object]:
        versions = ", ".join(f"{name} {number}" for name, number in row.get("versions", {}).items())
        figures = [row.get(key) for key in ("other_classes", "images_that_differ")]
        largest = f"{row['largest_difference']:g}" if "largest_difference" in row else None
        client = ", ".join(filter(None, [row["client"], row.get("how")]))
        return [client, versions, row.get("file"), *figures, largest, row.get("note")]

    figures = "other classes: | images that differ: | at most, of 1/256:"
    return _markdown(f"client | versions | file | {figures} | note", map(line, record["rows"]))


def _metrics(metrics: Metrics) -> str:
    def line(model: Score) -> list[str]:
        low, high = (f"{100 * end:.2f}" for end in model.interval)
        correct, accuracy = f"{model.correct:,}", f"{model.accuracy:.2%}"
        return [model.title, correct, accuracy, f"{low} to {high}", f"{model.bytes:,}"]

    header = f"model | correct of {metrics.images:,}: | accuracy: | 95 %: | bytes:"
    return _markdown(header, map(line, metrics.models.values()))


def _rejection(metrics: Metrics) -> str:
    pictures = {**metrics.rejection.ood, "test digits": metrics.rejection.test}
    rows = (
        [name, f"{found.rejected / found.total:.2%}", f"{found.total:,}"]
        for name, found in pictures.items()
    )
    return _markdown("picture | rejected: | of:", rows)


if __name__ == "__main__":
    main()
