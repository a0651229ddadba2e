"""The command line as a person meets it: help, and one clear line for all that goes wrong."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SMOKE, keras_lenet

from keras_lenet import cli
from keras_lenet.cli import failures

README = (Path(__file__).parents[1] / "README.md").read_text()
COMMANDS = [command.name or command.callback.__name__ for command in cli.app.registered_commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_stands_in_the_readme(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.app([command, "--help"])
    assert stop.value.code == 0
    assert f"Example: keras-lenet {command}" in capsys.readouterr().out
    assert f"keras-lenet {command}" in README


def test_help_and_the_edge_load_no_tensorflow():
    code = (
        "import sys, keras_lenet.cli, keras_lenet.edge.classifier\n"
        "print(sorted({'tensorflow', 'keras', 'matplotlib', 'sklearn', 'pydantic'} "
        "& set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def fails(*arguments, status=1):
    """Run in-process; returns the one line on stderr."""
    result = keras_lenet(*arguments)
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("keras-lenet: ")]
    assert len(lines) == 1
    assert result.stderr.rstrip().endswith(lines[0])
    return lines[0]


def test_a_missing_recipe(tmp_path):
    assert "nothing.toml cannot be read: No such file" in fails("run", tmp_path / "nothing.toml")


def test_an_unknown_key(tmp_path):
    line = fails("run", SMOKE, "--set", "train.epoch=3")
    assert "unknown key train.epoch; did you mean train.epochs?" in line


def test_an_unknown_model():
    line = fails("run", SMOKE, "--set", "model.name=lenet6")
    assert "unknown model 'lenet6': expected one of lenet5" in line


def test_an_unknown_dataset():
    line = fails("run", SMOKE, "--set", "data.dataset=mnits")
    assert "unknown dataset 'mnits': expected one of mnist" in line


def test_an_unknown_stage():
    assert "unknown stage 'deploy'" in fails("run", SMOKE, "--from", "deploy")


def test_a_missing_earlier_stage(tmp_path):
    line = fails("export", SMOKE, "--runs", tmp_path)
    assert "export needs the train stage of 'smoke'" in line


def test_a_runs_folder_that_is_a_file(tmp_path):
    (tmp_path / "runs").write_text("mine")
    line = fails("train", SMOKE, "--runs", tmp_path / "runs")
    assert "runs" in line
    assert (tmp_path / "runs").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_runs_folder(tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in fails("train", SMOKE, "--runs", tmp_path)


@pytest.mark.slow
def test_a_loss_that_is_no_number_keeps_the_earlier_result(finished, tmp_path):
    command, *arguments = finished.copy(tmp_path)
    before = (tmp_path / "smoke" / "train" / "model.keras").read_bytes()
    line = fails(
        command,
        *arguments,
        "--set",
        "train.optimizer=sgd",
        "--set",
        "train.learning_rate=1e9",
    )
    assert "the loss became" in line
    assert "lower the learning rate" in line
    assert (tmp_path / "smoke" / "train" / "model.keras").read_bytes() == before


@pytest.mark.slow
def test_a_batch_larger_than_the_data(synthetic, tmp_path):
    line = fails(
        "train", SMOKE, "--runs", tmp_path, "--set", f"data.dataset={synthetic}",
        "--set", "train.batch_size=1000",
    )  # fmt: skip
    assert "batch_size = 1000" in line
    assert "only 320 training images" in line


def test_a_missed_gate_names_itself_and_has_a_status_of_its_own(finished, tmp_path):
    _, *arguments = finished.copy(tmp_path)
    line = fails(
        "evaluate", *arguments, "--set", "evaluate.min_agreement=0",
        "--set", "evaluate.max_model_bytes=1000", status=3,
    )  # fmt: skip
    assert "min_agreement" not in line
    assert "evaluate.max_model_bytes: " in line
    assert "limit 1000" in line


def test_a_missing_package_names_the_extra(monkeypatch, capsys):
    def missing(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    monkeypatch.setattr(cli, "app", missing)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    assert "pip install 'keras-lenet[train]'" in capsys.readouterr().err


def test_our_own_bugs_keep_their_traceback(monkeypatch):
    def broken(*args, **kwargs):
        raise KeyError("ours")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(KeyError):
        cli.main()


def test_datasets_are_listed(capsys):
    result = keras_lenet("datasets")
    assert result.returncode == 0
    for name in ("mnist", "fashion_mnist", "kmnist", "emnist_digits", "digits"):
        assert name in result.stdout


def test_names_do_not_command_the_terminal(tmp_path):
    """Nor are they taken for markup."""
    (tmp_path / "\x1b[31m[red]\n.png").write_bytes(b"no picture")
    result = keras_lenet("classify", tmp_path)
    assert result.returncode == 1
    assert "\x1b" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert "/\\x1b[31m[red]\\n.png: not an image" in line


FORBIDDEN = re.compile(
    r"allow_pickle=True|safe_mode=False|enable_unsafe|(?<![.\w])(eval|exec)\("
    r"|(?<!\.)\b(pickle|marshal|shelve|dill|joblib|yaml)\b"
)


def test_nothing_that_runs_code_from_files_is_used():
    """No pickle, no eval, no YAML, no unsafe Keras files."""
    package = Path(cli.__file__).parents[1]
    sources = sorted(package.rglob("*.py"))
    assert len(sources) > 30
    found = [
        f"{path.name}: {line.strip()}"
        for path in sources
        for line in path.read_text().splitlines()
        if FORBIDDEN.search(line)
    ]
    assert [line for line in found if "allow_pickle=False" not in line] == []


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


def test_a_signal_ends_a_process_that_ignores_its_exception():
    """As Python does with what is raised in a garbage collector's callback."""
    code = (
        "import gc, os, signal, time\n"
        "from keras_lenet.cli import failures\n"
        "failures.PATIENCE = 0.5\n"
        "failures.handle_signals()\n"
        "def collected(phase, info):\n"
        "    if phase == 'start':\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "gc.callbacks.append(collected)\n"
        "gc.collect()\n"
        "gc.callbacks.remove(collected)\n"
        "time.sleep(60)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 130, result.stderr
    assert result.stderr.splitlines()[-1] == "keras-lenet: stopped by SIGINT"


def test_a_full_disk_is_one_line_whoever_found_it(monkeypatch, capsys):
    def full(*args):
        raise RuntimeError("{{node SaveV2}} /runs/part-0; No space left on device [Op:SaveV2]")

    monkeypatch.setattr(cli, "app", full)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert capsys.readouterr().err == "keras-lenet: the disk: No space left on device\n"
