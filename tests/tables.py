"""Tables of the READMEs, rendered from the records that they show.

    python tests/tables.py

A README marks a place by `<!-- table: NAME -->` and, lines below, `<!-- end -->`. Names: `result`
(exported/metrics.json), `quickstart` (tests/benchmarks/quickstart.json), `settings`
(keras_lenet/recipe.py), `torture` (tests/torture/results.json), `clients`
(tests/benchmarks/clients.json), `machine` and each benchmark's name, such as `inference`
(tests/benchmarks/results.json). A name that no record has is an error.
"""

import inspect
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from keras_lenet import artifacts
from keras_lenet.evaluation.metrics import Metrics
from keras_lenet.recipe import Recipe, Section

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
    if name == "result":
        return _result(Metrics.read(root / "exported"))
    if name == "quickstart":
        return _result(Metrics.read(root / "tests" / "benchmarks" / "quickstart"))
    if name == "settings":
        return "\n\n".join(_settings())
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
    """Return a row for each client, and for each file the answers that differ."""
    files = list(dict.fromkeys(row["file"] for row in record["rows"] if "file" in row))
    clients: dict[str, list[dict[str, Any]]] = {}
    for row in record["rows"]:
        name = ", ".join(filter(None, [row["client"], row.get("how")]))
        clients.setdefault(name, []).append(row)

    def cell(row: dict[str, Any]) -> str:
        if "other_classes" not in row:
            return row["note"].partition(":")[0]
        figures = f"{row['other_classes']:,} / {row['images_that_differ']:,}"
        return f"{figures} / {row['largest_difference']:g}"

    lines = []
    for name, rows in clients.items():
        versions = next((row["versions"] for row in rows if "versions" in row), {})
        shown = ", ".join(f"{name} {number}" for name, number in versions.items())
        cells = {row.get("file"): cell(row) for row in rows}
        note = cells.pop(None, None)
        lines.append([name, shown, *map(cells.get, files), note])
    names = " | ".join(f"`{Path(file).name}`:" for file in files)
    return _markdown(f"client | versions | {names} | note", lines)


def _result(metrics: Metrics) -> str:
    """Return the float model, the PTQ and the QAT file: accuracy, paired test, size."""
    p_values = {
        pair.first: f"{pair.p:.2f}" for pair in metrics.paired if pair.second == metrics.reference
    }
    names = {"keras": "Keras, float32", "int8_ptq": "int8, PTQ", "int8": "int8, QAT"}

    def line(key: str) -> list[str | None]:
        model = metrics.models[key]
        low, high = (f"{100 * end:.2f}" for end in model.interval)
        title = names[key] + (f": `{model.title}`" if key != metrics.reference else "")
        accuracy = f"{model.accuracy:.2%}"
        return [title, accuracy, f"{low} to {high} %", p_values.get(key), f"{model.bytes:,}"]

    header = "model | accuracy: | 95 % interval: | McNemar p: | bytes:"
    return _markdown(header, map(line, names))


def _settings() -> Iterable[str]:
    """Return a table of each section's settings: key, default and meaning."""
    for name, field in Recipe.model_fields.items():
        section = next(
            (kind for kind in (field.annotation, *get_args(field.annotation)) if is_section(kind)),
            None,
        )
        if section is None:
            continue
        summary, _, attributes = inspect.getdoc(section).partition("Attributes:\n")
        meanings = dict(re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", attributes, re.MULTILINE))
        rows = [
            [f"`{key}`", _default(one), " ".join(meanings.get(key, "").split())]
            for key, one in section.model_fields.items()
        ]
        summary = " ".join(summary.split())
        yield f"`[{name}]`: {summary}\n\n{_markdown('key | default | meaning', rows)}"


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None or isinstance(field.default, Section):
        return "–"
    return f"`{json.dumps(field.default)}`"


if __name__ == "__main__":
    main()
