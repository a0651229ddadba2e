import importlib.util
import shutil
from pathlib import Path

import pytest

from keras_lenet.deploy import footprint
from keras_lenet.errors import Error
from keras_lenet.tflite import inspection, parity

EXPORTED = Path(__file__).parents[1] / "exported"
REFERENCE = EXPORTED / "microcontroller" / "lenet5_int8_plain.tflite"


@pytest.fixture(scope="module")
def page():
    return footprint.page(REFERENCE)


def rows(page, heading):
    """The cells of the table under a heading, without the table's own head."""
    section = page.split(f"## {heading}")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def hide(monkeypatch, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else found(name)
    )


def test_the_layers_are_those_that_inspect_finds(page):
    report = inspection.inspect(REFERENCE)
    *layers, total = rows(page, "Arithmetic")
    assert [(row[0], row[2]) for row in layers] == [(op.name, f"{op.macs:,}") for op in report.ops]
    assert total == ["all", "", "416,520", "", f"{61_706 + 3 * 236:,}"]  # 236 biases of 4 bytes
    assert sum(float(row[3].strip("%")) for row in layers) == pytest.approx(100, abs=0.3)


def test_flash_is_the_file_and_ram_the_arena(page):
    assert f"| flash: the file as it is | {REFERENCE.stat().st_size:,} |" in page
    assert f"| RAM: the interpreter's arena | {parity.arena(REFERENCE)[0]:,} |" in page
    assert "| in it, activations at their peak | 5,880 |" in page
    assert "and is not measured here" in page


def test_without_the_interpreter_the_arena_is_called_an_estimate(monkeypatch):
    hide(monkeypatch, "tflite_micro")
    page = footprint.page(REFERENCE)
    assert f"| RAM: the interpreter's arena | {2 * 5_880:,} |" in page
    assert "The arena: an estimate" in page


@pytest.mark.needs("vela")
def test_velas_figures_stand_beside(page):
    found = rows(page, "Arm Ethos-U55")
    assert [row[0] for row in found] == ["ethos-u55-32", "ethos-u55-128", "ethos-u55-256"]
    busy = [int(row[2].replace(",", "")) for row in found]
    assert busy == sorted(busy, reverse=True)
    for macs, cycles in zip(footprint.ETHOS_U55, busy, strict=True):
        assert cycles >= 416_520 / macs
    for _, cycles, _, milliseconds, sram, flash in found:
        assert 5_880 <= int(sram.replace(",", "")) <= 40_000
        assert 50_000 <= int(flash.replace(",", "")) <= 90_000
        assert float(milliseconds) == pytest.approx(int(cycles.replace(",", "")) / 5e5, rel=0.05)
    assert "Left to the CPU, and not in these figures: RESIZE_BILINEAR." in page


@pytest.mark.needs("vela")
def test_what_vela_refuses_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr(footprint, "SYSTEM", "No_Such_System")
    last = footprint.page(REFERENCE).splitlines()[-1]
    assert "did not compile it: " in last
    assert "No_Such_System" in last


def test_without_vela_the_page_says_so(monkeypatch):
    hide(monkeypatch, "ethosu")
    page = footprint.page(REFERENCE)
    assert "Vela was not installed" in page
    assert not rows(page, "Arm Ethos-U55")


def test_the_page_is_written_as_a_file_and_is_the_same_wherever_the_model_lies(page, tmp_path):
    shutil.copyfile(REFERENCE, tmp_path / REFERENCE.name)
    footprint.write(tmp_path / REFERENCE.name, tmp_path / "budget.md")
    assert (tmp_path / "budget.md").read_text(encoding="utf-8") == page


@pytest.mark.parametrize("variant", ["float32", "uint8"])
def test_only_an_int8_file_is_taken(variant):
    with pytest.raises(Error, match="takes an int8 file"):
        footprint.page(EXPORTED / f"lenet5_{variant}.tflite")
