"""The budget card of the published model."""

import importlib.util
import re

import pytest
from conftest import PIPELINES

from keras_lenet.deploy import footprint
from keras_lenet.tflite import parity

REFERENCE = PIPELINES.parent / "exported" / "microcontroller" / "lenet5_int8_plain.tflite"


def hide(monkeypatch, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else found(name)
    )


@pytest.mark.needs("vela")
def test_card_has_the_size_the_arena_the_arithmetic_and_velas_estimates():
    page = footprint.page(REFERENCE)
    assert f"| flash: the file as it is, bytes | {REFERENCE.stat().st_size:,} |" in page
    assert f"| RAM: the interpreter's arena, bytes | {parity.arena(REFERENCE)[0]:,} |" in page
    assert "| in it, activations at their peak, bytes | 5,880 |" in page
    assert "| multiply-accumulates of one image | 416,520 |" in page
    rows = re.findall(r"ethos-u55-(\d+) \| (.*) \|", page)
    assert [int(macs) for macs, _ in rows] == [32, 128, 256]
    for macs, row in rows:
        cycles, milliseconds, sram, flash = (
            float(cell.replace(",", "")) for cell in row.split(" | ")
        )
        assert cycles >= 416_520 / int(macs)
        assert milliseconds == pytest.approx(cycles / 5e5, rel=0.05)  # at 500 MHz
        assert 5_880 <= sram <= 40_000
        assert 50_000 <= flash <= 90_000
    assert "Left to the CPU, and not in these figures: RESIZE_BILINEAR." in page


@pytest.mark.needs("vela")
def test_a_failure_of_vela_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr(footprint, "SYSTEM", "No_Such_System")
    last = footprint.page(REFERENCE).splitlines()[-1]
    assert "did not compile it: " in last
    assert "No_Such_System" in last


def test_card_says_which_tools_are_missing(monkeypatch):
    hide(monkeypatch, "ethosu")
    monkeypatch.setattr(parity, "has_micro", lambda: False)
    page = footprint.page(REFERENCE)
    assert "Vela was not installed" in page
    assert f"| RAM: the interpreter's arena, bytes | {2 * 5_880:,} |" in page
    assert "The arena: an estimate" in page
