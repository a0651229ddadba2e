"""Rooms of the package that each room may import: upper floors import lower ones, never back."""

import ast
from pathlib import Path

import pytest

import keras_lenet

PACKAGE = Path(keras_lenet.__file__).parent
BASE = {"__version__", "artifacts", "console", "errors"}
MAY_IMPORT = {
    "__main__": {"cli"},
    "errors": set(),
    "console": set(),
    "artifacts": {"console", "errors"},
    "recipe": {"errors"},
    "edge": {"errors"},
    "data": BASE | {"edge"},
    "models": {"errors"},
    "training": BASE | {"data", "models", "recipe"},
    "tflite": BASE | {"data", "edge"},
    "deploy": BASE | {"data", "edge", "tflite"},
    "draw": BASE | {"edge"},
    "evaluation": BASE | {"data", "edge", "recipe", "tflite"},
    "reporting": BASE | {"data", "evaluation", "models", "recipe"},
    "stages": BASE
    | {"data", "deploy", "edge", "evaluation", "models", "recipe", "reporting", "tflite"}
    | {"training"},
    "pipeline": BASE
    | {"data", "evaluation", "models", "recipe", "reporting", "stages", "training"},
    "cli": BASE
    | {"data", "deploy", "draw", "edge", "evaluation", "models", "pipeline", "recipe"}
    | {"reporting", "stages", "tflite"},
}
"""Imports that only type checkers follow do not count."""


def imported(path):
    """Yield the rooms that a module imports when it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in typing_only and node.module:
            first, _, rest = node.module.partition(".")
            if first == "keras_lenet":
                yield from [rest.partition(".")[0]] if rest else [one.name for one in node.names]


ROOMS = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}


@pytest.mark.parametrize("room", sorted(ROOMS - {"__init__"}))
def test_a_room_imports_only_from_lower_floors(room):
    files = [*(PACKAGE / room).rglob("*.py"), *PACKAGE.glob(f"{room}.py")]
    for path in files:
        for other in imported(path):
            assert other == room or other in MAY_IMPORT[room], f"{path}: {other}"


@pytest.mark.parametrize("room", sorted(ROOMS - {"__init__"}))
def test_docstrings_open_with_a_verb_or_a_noun(room):
    for path in (*(PACKAGE / room).rglob("*.py"), *PACKAGE.glob(f"{room}.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                opening = (ast.get_docstring(node) or "It").split()[0]
                assert opening not in {"What", "Where", "How", "Whether", "Those", "Of"}, path
