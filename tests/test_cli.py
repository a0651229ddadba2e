"""The command line: help, and one line and a status for every failure."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SMOKE, keras_lenet

from keras_lenet import cli
from keras_lenet.errors import Error, GateError

COMMAND_TABLE = (Path(__file__).parents[1] / "pipelines" / "README.md").read_text()
COMMANDS = [command.name for command in cli.app.registered_commands]


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_a_row_in_the_table(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.app([command, "--help"])
    assert stop.value.code == 0
    assert f"Example: keras-lenet {command}" in capsys.readouterr().out
    assert f"`keras-lenet {command}" in COMMAND_TABLE


def test_public_names_are_imported_on_first_use():
    names = "Classifier load_recipe prepare run_recipe"
    result = python(
        "import sys, keras_lenet\n"
        "print('numpy' in sys.modules, *keras_lenet.__all__)\n"
        f"from keras_lenet import {names.replace(' ', ', ')}\n"
        "print(hasattr(keras_lenet, 'fit'))"
    )
    assert result.stdout == f"False {names}\nFalse\n", result.stderr


def test_help_and_the_edge_load_no_tensorflow():
    loaded = "{'tensorflow', 'keras', 'matplotlib', 'sklearn'} & set(sys.modules)"
    result = python(f"import sys, keras_lenet.cli, keras_lenet.edge.classifier\nprint({loaded})")
    assert result.stdout == "set()\n", result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--set", "train.epoch=3"], "unknown key train.epoch; did you mean train.epochs?"),
        (["--set", "model.name=lenet6"], "unknown model 'lenet6': expected one of lenet5"),
        (["--from", "deploy"], "unknown stage 'deploy'"),
        (["--runs", "file"], "file/smoke"),  # the system's own words
    ],
)
def test_bad_arguments_are_one_line(tmp_path, arguments, complaint):
    (tmp_path / "file").write_text("mine")
    result = keras_lenet("run", SMOKE, *arguments, cwd=tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("keras-lenet: ")
    assert complaint in line
    assert (tmp_path / "file").read_text() == "mine"


def test_names_do_not_command_the_terminal(tmp_path):
    (tmp_path / "\x1b[31m[red]\n.png").write_bytes(b"no picture")
    result = keras_lenet("classify", tmp_path)
    assert result.returncode == 1
    assert "\x1b" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert "/\\x1b[31m[red]\\n.png: not an image" in line


@pytest.fixture
def ended(monkeypatch, capsys):
    """Run the command line on a command that raises; return the exit status and the lines."""

    def run(error):
        def command():
            raise error

        monkeypatch.setattr(cli, "app", command)
        monkeypatch.setattr(signal, "signal", lambda number, handler: None)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr().err.splitlines()

    return run


FULL = RuntimeError("{{node SaveV2}} /runs/part-0; No space left on device [Op:SaveV2]")
IN_TF_DATA = RuntimeError("Traceback:\nkeras_lenet.errors.Error: image 3 is damaged\n[[Iterator]]")
MISSING = ModuleNotFoundError("No module", name="tensorflow.keras")
EXTRA = (
    "this command needs tensorflow.keras, which the base install leaves out: pip install "
    "'keras-lenet[train]'"
)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (OSError(28, "No space left on device", "a.npz"), 1, "a.npz: No space left on device"),
        (OSError(13, "Permission denied"), 1, "the disk: Permission denied"),
        (FULL, 1, "the disk: No space left on device"),
        (IN_TF_DATA, 1, "image 3 is damaged"),
        (MISSING, 1, EXTRA),
        (Error("two\n lines of \x1b[31m"), 1, "two lines of \\x1b[31m"),
        (GateError("gate missed"), 3, "gate missed"),
    ],
)
def test_errors_that_the_user_can_correct_are_one_plain_line(ended, error, status, line):
    assert ended(error) == (status, [f"keras-lenet: {line}"])


@pytest.mark.parametrize(
    "error", [KeyError("ours"), ModuleNotFoundError("ours", name="keras_lenet.x"), OSError(9, "x")]
)
def test_our_own_faults_keep_their_traceback(ended, error):
    with pytest.raises(type(error)):
        ended(error)


INTERRUPTED = """
import gc, os, signal, sys, time
from keras_lenet import cli, console
def collected(phase, info):  # Python ignores exceptions here
    os.kill(os.getpid(), signal.{signal})
def command():
    {imported}
    with console.captured(2):
        gc.callbacks.append(collected)
        gc.collect()
        time.sleep(60)
cli.app = command
cli.main()
"""


@pytest.mark.parametrize(
    ("name", "status", "imported", "advice"),
    [
        ("SIGINT", 130, "import keras_lenet.pipeline", "; run the same command again to resume"),
        ("SIGTERM", 143, "", ""),
    ],
)
def test_a_signal_ends_the_process_wherever_it_is(name, status, imported, advice):
    result = python(INTERRUPTED.format(signal=name, imported=imported))
    assert result.returncode == status
    assert result.stderr == f"keras-lenet: stopped by {name}{advice}\n"


FORBIDDEN = re.compile(
    r"allow_pickle=True|safe_mode=False|enable_unsafe|(?<![.\w])(eval|exec)\("
    r"|(?<!\.)\b(pickle|marshal|shelve|dill|joblib|yaml)\b"
)


def test_nothing_that_runs_code_from_files_is_used():
    sources = sorted(Path(cli.__file__).parents[1].rglob("*.py"))
    assert len(sources) > 30
    lines = [f"{path.name}: {line}" for path in sources for line in path.read_text().splitlines()]
    found = [line for line in lines if FORBIDDEN.search(line)]
    assert [line for line in found if "allow_pickle=False" not in line] == []
