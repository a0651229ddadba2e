"""What an int8 model takes of a microcontroller: flash, RAM, arithmetic, time; one Markdown page.

Bytes and multiply-accumulates (MACs) are counted or measured; times are estimates, and say so.
"""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from keras_lenet.artifacts import write_bytes
from keras_lenet.errors import Error
from keras_lenet.tflite import inspection, parity

KB = 1024
"""What data sheets of microcontrollers call a kB."""
CODE = 64 * KB
"""Flash set aside for the interpreter with its kernels and a small firmware: an assumption."""
STACK = 8 * KB
"""RAM set aside for the stack and the firmware's variables: an assumption."""


@dataclass(frozen=True)
class Work:
    """A network that others timed, and its MACs for one image, from its layers."""

    name: str
    macs: int


PERSON_DETECTION = Work("person detection (MobileNet v1 0.25, 96×96×1)", 7_157_376)
RESNET_8 = Work("ResNet-8 of MLPerf Tiny", 12_501_632)
CIFAR_10 = Work("the CIFAR-10 network of the CMSIS-NN paper", 12_350_000)


@dataclass(frozen=True)
class Core:
    """A processor core, and how long it took for an int8 network.

    Attributes:
        name: the core.
        work: what it computed.
        seconds: for one image.
        mhz: its clock at that.
        source: who measured it, and with which kernels.
    """

    name: str
    work: Work
    seconds: float
    mhz: int
    source: str

    @property
    def rate(self) -> float:
        """MACs per cycle, everything but the arithmetic included."""
        return self.work.macs / (self.seconds * self.mhz * 1e6)

    def milliseconds(self, macs: int, mhz: float) -> float:
        """Estimated time for `macs` at a clock of `mhz`."""
        return macs / (self.rate * mhz * 1e3)


M0_PLUS = Core(
    # At 125 MHz, the clock that the Pico's SDK set in those days.
    "Cortex-M0+", PERSON_DETECTION, 0.823658, 125,
    "usefulsensors/pico-tflmicro, benchmark_results.txt: CMSIS-NN, one core of a Raspberry Pi Pico",
)  # fmt: skip
M4 = Core(
    "Cortex-M4", RESNET_8, 1 / 2.567, 120,
    "MLPerf Tiny v1.0, closed division, OctoML, NUCLEO-L4R5ZI: microTVM with CMSIS-NN",
)  # fmt: skip
M33 = Core(
    "Cortex-M33", RESNET_8, 1 / 3.163, 128,
    "MLPerf Tiny v1.0, closed division, OctoML, nRF5340 DK: microTVM with CMSIS-NN",
)  # fmt: skip
M7 = Core(
    "Cortex-M7", CIFAR_10, 0.0991, 216,
    "Lai, Suda, Chandra: CMSIS-NN (2018), arXiv:1801.06601; 24.7 million operations, two per MAC",
)  # fmt: skip
M85 = Core(
    "Cortex-M85", RESNET_8, 1 / 117.948, 480,
    "MLPerf Tiny v1.2, closed division, Renesas, EK-RA8D1: TensorFlow Lite Micro with CMSIS-NN",
)  # fmt: skip
LX6 = Core(
    "Xtensa LX6", PERSON_DETECTION, 0.380, 240,
    "espressif/esp-tflite-micro, README: ESP-NN on an ESP32",
)  # fmt: skip
LX7 = Core(
    "Xtensa LX7", PERSON_DETECTION, 0.054, 240,
    "espressif/esp-tflite-micro, README: ESP-NN on an ESP32-S3",
)  # fmt: skip
CORES = (M0_PLUS, LX6, M4, M33, LX7, M7, M85)


@dataclass(frozen=True)
class Board:
    """A board as its data sheet has it.

    Attributes:
        name: what it is sold as.
        core: None for an 8-bit AVR: no timing of int8 kernels was found.
        mhz: its highest clock.
        flash: in kB, on the chip or beside it on the board.
        ram: in kB, on the chip.
        source: the data sheet.
    """

    name: str
    core: Core | None
    mhz: int
    flash: int
    ram: int
    source: str


BOARDS = (
    Board("Arduino Uno R3", None, 16, 32, 2, "ATmega328P"),
    Board("Arduino Uno R4 Minima", M4, 48, 256, 32, "Renesas RA4M1 Group"),
    Board("BBC micro:bit v2", M4, 64, 512, 128, "Nordic nRF52833"),
    Board("Arduino Nano 33 BLE", M4, 64, 1024, 256, "Nordic nRF52840"),
    Board("ST Nucleo-F446RE", M4, 180, 512, 128, "STM32F446xC/E"),
    Board("ST Nucleo-H743ZI2", M7, 480, 2048, 1024, "STM32H743xI"),
    Board("Raspberry Pi Pico", M0_PLUS, 133, 2048, 264, "Raspberry Pi Pico, RP2040"),
    Board("Raspberry Pi Pico 2", M33, 150, 4096, 520, "Raspberry Pi Pico 2, RP2350"),
    Board("Espressif ESP32-DevKitC", LX6, 240, 4096, 520, "ESP32-WROOM-32E, ESP32 Series"),
    Board("Espressif ESP32-S3-DevKitC-1", LX7, 240, 8192, 512, "ESP32-S3-WROOM-1, ESP32-S3 Series"),
    Board("Renesas EK-RA8D1", M85, 480, 2048, 1024, "Renesas RA8D1 Group"),
)

ETHOS_U55 = (32, 128, 256)
"""MACs per cycle of the Ethos-U55 configurations that Vela is asked about."""
SYSTEM, MEMORY = "Ethos_U55_High_End_Embedded", "Shared_Sram"
"""Vela's own defaults: 500 MHz, SRAM for activations, weights read from a slower flash."""


def write(model: Path, path: Path) -> None:
    """Write the budget card of an int8 .tflite to `path`.

    Raises:
        Error: the file can't be read, or isn't int8.
    """
    write_bytes(path, page(model).encode())


def page(model: Path) -> str:
    """The budget card of an int8 .tflite, as Markdown; the same for the same file and tools.

    Raises:
        Error: the file can't be read, or isn't int8.
    """
    report = inspection.inspect(model)
    if {tensor.dtype for tensor in report.inputs} != {"int8"}:
        raise Error(f"{model}: the budget card takes an int8 file")
    arena, how = parity.arena(model)
    return f"""# What {model.name} takes

| | bytes |
|---|---:|
| flash: the file as it is | {report.bytes:,} |
| RAM: the interpreter's arena | {arena:,} |
| in it, activations at their peak | {report.peak_activation_bytes:,} |

The interpreter's code comes on top of the flash, some tens of kB, and is not measured here.
The arena: {how}.
Optimized kernels, such as CMSIS-NN's, want some scratch memory in it besides.

## Arithmetic

{_layers(report)}

## Time: an estimate, not a measurement

MACs, over the rate that others measured on other int8 networks. Resize, pooling and softmax have no
MACs, and kernels do better or worse by a layer's shape: take the order of magnitude from here, and
the time from the board.

{_times(report)}

## Boards

A board fits that has room for the file, the arena, and two assumptions: {CODE // KB} kB of flash
for the interpreter and a small firmware, {STACK // KB} kB of RAM for the stack.
A kB has 1,024 bytes.

{_boards(report, arena)}

## Arm Ethos-U55

{_ethos(model)}
"""


def _table(columns: str, rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A Markdown table: the first columns are texts, the others numbers."""
    names = columns.split(" | ")
    rules = ["---"] * texts + ["---:"] * (len(names) - texts)
    lines = [f"| {' | '.join(line)} |" for line in (names, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])


def _digits(value: float) -> str:
    """Two significant digits: an estimate has no more."""
    return f"{float(f'{value:.2g}'):,g}"


def _layers(report: inspection.Report) -> str:
    rows = [
        (
            op.name,
            ", ".join(tensor.dimensions for tensor in op.outputs),
            f"{op.macs:,}",
            f"{op.macs / max(report.macs, 1):.1%}",
            f"{op.weight_bytes:,}",
        )
        for op in report.ops
    ]
    weights = sum(op.weight_bytes for op in report.ops)
    rows.append(("all", "", f"{report.macs:,}", "", f"{weights:,}"))
    return _table("op | output | MACs | share | bytes of weights and biases", rows, 2)


def _times(report: inspection.Report) -> str:
    rows = [
        (
            core.name,
            f"{core.work.name}: {1000 * core.seconds:.4g} ms at {core.mhz} MHz",
            core.source,
            _digits(core.rate),
            _digits(core.milliseconds(report.macs, 100)),
        )
        for core in CORES
    ]
    columns = "core | others timed | source | MACs per cycle | this file at 100 MHz, ms"
    return _table(columns, rows, 3)


def _boards(report: inspection.Report, arena: int) -> str:
    rows = []
    for board in BOARDS:
        left = {
            "flash": 1 - (report.bytes + CODE) / (board.flash * KB),
            "RAM": 1 - (arena + STACK) / (board.ram * KB),
        }
        missing = [name for name, share in left.items() if share < 0]
        time = "–"
        if board.core and not missing:
            time = _digits(board.core.milliseconds(report.macs, board.mhz))
        rows.append(
            (
                board.name,
                board.source,
                f"{board.core.name if board.core else 'AVR'}, {board.mhz} MHz",
                f"no: {' and '.join(missing)}" if missing else "yes",
                f"{board.flash:,}",
                "–" if missing else f"{left['flash']:.0%}",
                f"{board.ram:,}",
                "–" if missing else f"{left['RAM']:.0%}",
                time,
            )
        )
    columns = "board | data sheet | core | fits | flash, kB | left | RAM, kB | left | estimate, ms"
    return _table(columns, rows, 4)


def _ethos(model: Path) -> str:
    """What Arm's compiler for the accelerator says, where it is installed."""
    if not importlib.util.find_spec("ethosu"):
        return "Not compiled: Arm's Vela was not installed (`pip install ethos-u-vela`)."
    version = importlib.metadata.version("ethos-u-vela")
    try:
        compiled = {macs: _vela(model, macs) for macs in ETHOS_U55}
    except Error as error:
        return f"Vela {version} did not compile it: {error}"
    rows = [
        (
            f"ethos-u55-{macs}",
            f"{float(figures['cycles_total']):,.0f}",
            f"{float(figures['cycles_npu']):,.0f}",
            f"{1000 * float(figures['inference_time']):.2g}",
            f"{KB * float(figures['sram_memory_used']):,.0f}",
            f"{KB * float(figures['off_chip_flash_memory_used']):,.0f}",
        )
        for macs, (figures, _) in compiled.items()
    ]
    columns = "configuration | cycles | busy computing | estimate, ms | SRAM, bytes | flash, bytes"
    left = sorted({op for _, ops in compiled.values() for op in ops})
    return f"""Estimates of Arm's Vela {version}; nothing was run. `{SYSTEM}`, `{MEMORY}`:
500 MHz, activations in SRAM, weights read from external flash.

{_table(columns, rows)}

Left to the CPU, and not in these figures: {", ".join(left) or "nothing"}."""


def _vela(model: Path, macs: int) -> tuple[dict[str, str], list[str]]:
    """Compile for one configuration.

    Returns:
        Vela's summary, and the ops that it leaves to the CPU.

    Raises:
        Error: it could not compile the file.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copyfile(model, folder / "model.tflite")
        command = [
            sys.executable, "-m", "ethosu.vela", "model.tflite", "--output-dir", ".",
            "--accelerator-config", f"ethos-u55-{macs}", "--config", "Arm/vela.ini",
            "--system-config", SYSTEM, "--memory-mode", MEMORY,
        ]  # fmt: skip
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        compiled, summary = folder / "model_vela.tflite", folder / f"model_summary_{SYSTEM}.csv"
        if result.returncode or not (compiled.exists() and summary.exists()):
            said = (result.stderr + result.stdout).split("\n")
            raise Error(next((line for line in reversed(said) if line.strip()), "no reason given"))
        with summary.open(newline="", encoding="utf-8") as file:
            figures = next(csv.DictReader(file))
        found = schema.ModelT.InitFromPackedBuf(compiled.read_bytes(), 0)
    codes = [found.operatorCodes[op.opcodeIndex] for op in found.subgraphs[0].operators]
    return figures, [inspection.op_name(code) for code in codes if code.customCode != b"ethos-u"]
