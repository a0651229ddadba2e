"""What an int8 model takes of a microcontroller: flash, RAM, arithmetic; one Markdown page.

Bytes and multiply-accumulates (MACs) are counted or measured; Vela's cycles are estimates.
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
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from keras_lenet.artifacts import write_bytes
from keras_lenet.errors import Error
from keras_lenet.tflite import inspection, parity

KB = 1024
"""What Vela calls a kB."""

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

## Arm Ethos-U55

{_ethos(model)}
"""


def _table(columns: str, rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A Markdown table: the first columns are texts, the others numbers."""
    names = columns.split(" | ")
    rules = ["---"] * texts + ["---:"] * (len(names) - texts)
    lines = [f"| {' | '.join(line)} |" for line in (names, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])


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
