"""The command line as a person meets it: help, and one clear line for every failure."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SMOKE, keras_lenet

from keras_lenet import cli
from keras_lenet.cli import failures
from keras_lenet.errors import Error

README = (Path(__file__).parents[1] / "README.md").read_text()
COMMANDS = [command.name for command in cli.app.registered_commands]


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_stands_in_the_readme(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.app([command, "--help"])
    assert stop.value.code == 0
    assert f"Example: keras-lenet {command}" in capsys.readouterr().out
    assert f"keras-lenet {command}" in README


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
def test_what_the_user_can_put_right_is_one_line(tmp_path, arguments, complaint):
    (tmp_path / "file").write_text("mine")
    result = keras_lenet("run", SMOKE, *arguments, cwd=tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("keras-lenet: ")
    assert complaint in line
    assert (tmp_path / "file").read_text() == "mine"


def test_names_do_not_command_the_terminal(tmp_path):
    """Nor are they taken for markup."""
    (tmp_path / "\x1b[31m[red]\n.png").write_bytes(b"no picture")
    result = keras_lenet("classify", tmp_path)
    assert result.returncode == 1
    assert "\x1b" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert "/\\x1b[31m[red]\\n.png: not an image" in line


def test_datasets_are_listed():
    result = keras_lenet("datasets")
    assert result.returncode == 0
    for name in ("mnist", "fashion_mnist", "kmnist", "emnist_digits", "digits"):
        assert name in result.stdout


@pytest.fixture
def ended(monkeypatch, capsys):
    """Run the command line on commands that raise; return the exit status and the lines."""

    def run(error):
        def command():
            raise error

        monkeypatch.setattr(cli, "app", command)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr().err.splitlines()

    return run


def test_a_missing_package_names_the_extra(ended):
    code, (line,) = ended(ModuleNotFoundError("No module", name="tensorflow.keras"))
    assert code == 1
    assert "needs tensorflow.keras" in line
    assert "pip install 'keras-lenet[train]'" in line


FULL = RuntimeError("{{node SaveV2}} /runs/part-0; No space left on device [Op:SaveV2]")
IN_TF_DATA = RuntimeError("Traceback:\nkeras_lenet.errors.Error: image 3 is damaged\n[[Iterator]]")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "a.npz"), "a.npz: No space left on device"),
        (OSError(13, "Permission denied"), "the disk: Permission denied"),
        (FULL, "the disk: No space left on device"),
        (IN_TF_DATA, "image 3 is damaged"),
        (Error("two\n lines of \x1b[31m"), "two lines of \\x1b[31m"),
    ],
)
def test_errors_that_the_user_can_put_right_are_one_plain_line(ended, error, line):
    assert ended(error) == (1, [f"keras-lenet: {line}"])


@pytest.mark.parametrize(
    "error", [KeyError("ours"), ModuleNotFoundError("ours", name="keras_lenet.x"), OSError(9, "x")]
)
def test_our_own_bugs_keep_their_traceback(ended, error):
    with pytest.raises(type(error)):
        ended(error)


@pytest.mark.parametrize("replacement", [AssertionError("Concurrent access?"), OSError(28, "full")])
def test_a_signal_ends_in_its_status_whatever_it_interrupts(monkeypatch, capsys, replacement):
    """TensorFlow, interrupted while it traces, raises something of its own on the way out."""

    def interrupted():
        try:
            failures._interrupt(signal.SIGINT, None)
        except SystemExit:
            raise replacement from None

    monkeypatch.setattr(cli, "app", interrupted)
    monkeypatch.setattr(failures, "_stopped", [])
    monkeypatch.setattr(failures, "PATIENCE", 1e6)  # this process goes on
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("keras-lenet: stopped by SIGINT")


IGNORING = """
import gc, os, signal, time
from keras_lenet.cli import failures
from keras_lenet.errors import Error
failures.PATIENCE = 0.5
failures.handle_signals()
def collected(phase, info):
    if phase == "start":
        os.kill(os.getpid(), signal.SIGINT)
gc.callbacks.append(collected)
gc.collect()
gc.callbacks.remove(collected)
time.sleep(60)
"""


def test_a_signal_ends_a_process_that_ignores_its_exception():
    """As Python does with what is raised in a garbage collector's callback."""
    result = python(IGNORING)
    assert result.returncode == 130, result.stderr
    assert result.stderr.splitlines()[-1] == "keras-lenet: stopped by SIGINT"


FORBIDDEN = re.compile(
    r"allow_pickle=True|safe_mode=False|enable_unsafe|(?<![.\w])(eval|exec)\("
    r"|(?<!\.)\b(pickle|marshal|shelve|dill|joblib|yaml)\b"
)


def test_nothing_that_runs_code_from_files_is_used():
    """No pickle, no eval, no YAML, no unsafe Keras files."""
    sources = sorted(Path(cli.__file__).parents[1].rglob("*.py"))
    assert len(sources) > 30
    lines = [f"{path.name}: {line}" for path in sources for line in path.read_text().splitlines()]
    found = [line for line in lines if FORBIDDEN.search(line)]
    assert [line for line in found if "allow_pickle=False" not in line] == []
