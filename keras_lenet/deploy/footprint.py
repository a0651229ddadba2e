"""Flash, RAM, arithmetic and instructions that an int8 model takes of a microcontroller.

The budget card is of a .tflite in an interpreter: bytes and multiply-accumulates (MACs) are
counted or measured, Vela's cycles are estimates. Generated C is built and emulated, with Debian's
cross compilers and QEMU, where installed.
"""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from keras_lenet.artifacts import write_bytes
from keras_lenet.deploy import fill
from keras_lenet.errors import Error
from keras_lenet.tflite import inspection, parity

KB = 1024
"""A kB of Vela."""
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
    """Return the budget card of an int8 .tflite, as Markdown: the same for the same file and tools.

    Raises:
        Error: the file can't be read, or isn't int8.
    """
    report = inspection.inspect(model)
    if {tensor.dtype for tensor in report.inputs} != {"int8"}:
        raise Error(f"{model}: the budget card takes an int8 file")
    arena, how = parity.arena(model)
    return fill(
        "budget.md",
        model=model.name,
        flash=f"{report.bytes:,}",
        arena=f"{arena:,}",
        peak=f"{report.peak_activation_bytes:,}",
        how=how,
        layers=_layers(report),
        ethos=_ethos(model),
    )


def _table(columns: str, rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """Return a Markdown table: the first columns are texts, the others numbers."""
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
    """Return the estimates of Vela, Arm's compiler for the accelerator, where it is installed."""
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


@dataclass(frozen=True)
class Target:
    """A processor to build for and to emulate.

    Attributes:
        name: the core.
        compiler: with its options.
        emulator: the command that runs an executable, up to its arguments.
        bare: there is no operating system: start-up code and a memory layout are needed.
    """

    name: str
    compiler: tuple[str, ...]
    emulator: tuple[str, ...]
    bare: bool

    @property
    def missing(self) -> str | None:
        """The first tool that isn't installed; None where all are."""
        tools = (self.compiler[0], self.emulator[0])
        return next((tool for tool in tools if not shutil.which(tool)), None)


def _cortex_m(name: str, machine: str) -> Target:
    return Target(
        name,
        ("arm-none-eabi-gcc", f"-mcpu={name.lower()}", "-mthumb", "-O2"),
        ("qemu-system-arm", "-M", machine, "-display", "none", "-monitor", "none"),
        bare=True,
    )


M3, M4 = _cortex_m("Cortex-M3", "mps2-an385"), _cortex_m("Cortex-M4", "mps2-an386")
AARCH64 = Target("AArch64", ("aarch64-linux-gnu-gcc", "-O3", "-static"), ("qemu-aarch64",), False)
TARGETS = (M3, M4, AARCH64)

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic")
_IMAGES = 100
"""Classifications that are counted: the clock ticks every 40 instructions."""


def build(target: Target, sources: list[Path], executable: Path, *options: str) -> None:
    """Compile and link for a target, with every warning an error.

    Raises:
        Error: the compiler says no.
    """
    command = [*target.compiler, *STRICT, *options, "-o", str(executable)]
    if target.bare:
        startup, layout = executable.with_name("startup.c"), executable.with_name("layout.ld")
        startup.write_text(fill("c/startup.c"))
        layout.write_text(fill("c/layout.ld"))
        command += ["--specs=rdimon.specs", f"-T{layout}", str(startup)]
    _run([*command, *map(str, sources)])


def emulated(target: Target, executable: Path, *arguments: str, options: str = "") -> list[str]:
    """Return the command that runs an executable on an emulated target.

    Args:
        target: the target that it was built for.
        executable: from `build`.
        arguments: for its main().
        options: for the emulator.
    """
    command = [*target.emulator, *options.split()]
    if not target.bare:
        return [*command, str(executable), *arguments]
    passed = "".join(f",arg={argument}" for argument in (executable.name, *arguments))
    semihosting = f"enable=on,target=native{passed}"
    return [*command, "-semihosting-config", semihosting, "-kernel", str(executable)]


def memory(folder: Path, name: str) -> tuple[int, int, int]:
    """Return the memory that generated C alone takes of a Cortex-M4 at -O2.

    Args:
        folder: with the C.
        name: of the network.

    Returns:
        Bytes of flash and of static RAM, by the linker's map, and at most of stack.

    Raises:
        Error: the compiler says no.
    """
    with tempfile.TemporaryDirectory() as temporary:
        linked = Path(temporary) / "network.map"
        command = [
            *M4.compiler, *STRICT, "-ffunction-sections", "-fdata-sections", "-fstack-usage",
            "-nostartfiles", "-Wl,--gc-sections", f"-Wl,-e,{name}_classify", f"-Wl,-Map={linked}",
            "-o", str(linked.with_suffix(".elf")), str(folder / f"{name}.c"),
        ]  # fmt: skip
        _run(command)
        text = linked.read_text()
        usage = next(Path(temporary).glob("*.su")).read_text()
    sections = re.findall(r"^\.(text|rodata|data|bss)\s+0x\w+\s+0x(\w+)", text, re.MULTILINE)
    sizes = {section: int(size, 16) for section, size in sections}
    data = sizes.get("data", 0)
    # There is no recursion: no chain of calls is deeper than all functions together.
    stack = sum(int(line.split("\t")[1]) for line in usage.splitlines())
    return sizes["text"] + sizes.get("rodata", 0) + data, data + sizes["bss"], stack


def instructions(target: Target, folder: Path, name: str) -> int:
    """Count the instructions that generated C takes for one image.

    A Cortex-M is emulated at one instruction a nanosecond, and its own timer, of 25 MHz, read. On
    AArch64, which has no such clock, every instruction is logged: that takes seconds.

    Args:
        target: its tools are installed.
        folder: with the C.
        name: of the network.

    Raises:
        Error: the compiler or the emulator says no.
    """
    with tempfile.TemporaryDirectory() as temporary:
        main, executable = Path(temporary) / "main.c", Path(temporary) / "count"
        program = "c/timed.c" if target.bare else "c/logged.c"
        main.write_text(fill(program, name=name, images=_IMAGES))
        build(target, [main, folder / f"{name}.c"], executable, f"-I{folder}")
        if target.bare:
            command = emulated(target, executable, options="-icount shift=0")
            return int(_run(command)) * 40 // _IMAGES
        options = "-singlestep -d exec,nochain -D /dev/stdout"  # one line a block of one
        one, two = (
            _lines(emulated(target, executable, letters, options=options))
            for letters in ("x", "xx")
        )
    return two - one


def of_c(name: str, files: dict[str, str]) -> str:
    """Return the footprint of generated C on Cortex-M, as Markdown, or why it wasn't measured.

    Args:
        name: of the network.
        files: its header and its C file, by name.
    """
    if not shutil.which(M4.compiler[0]):
        return f"Not measured: {M4.compiler[0]} was not installed."
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for file, text in files.items():
            (folder / file).write_text(text)
        try:
            flash, static, stack = memory(folder, name)
            rows = [
                ("flash: code and weights", f"{flash:,} bytes"),
                ("RAM: static", f"{static:,} bytes"),
                ("stack, at most", f"{stack:,} bytes"),
            ]
            for target in (M3, M4):
                count = f"not counted: no {target.missing}"
                if not target.missing:
                    count = f"{instructions(target, folder, name):,}"
                rows.append((f"instructions an image, {target.name} at -O2", count))
        except Error as error:  # the C is good without: a compiler may lack its library
            return f"Not measured: {str(error).splitlines()[0]}"
    return "\n".join(
        ["| on a Cortex-M4 at -O2 | |", "|---|---:|"] + [f"| {row[0]} | {row[1]} |" for row in rows]
    )


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr or result.stdout).strip() or f"status {result.returncode}"
        raise Error(f"{command[0]} failed: {reason}")
    return result.stdout


def _lines(command: list[str]) -> int:
    """Return how many lines a command prints."""
    count = 0
    # Without an environment: its strings are read at the start, and take instructions too.
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"PATH": os.defpath}) as process:
        assert process.stdout is not None
        while chunk := process.stdout.read(1 << 20):
            count += chunk.count(b"\n")
    if process.returncode:
        raise Error(f"{command[0]} failed with status {process.returncode}")
    return count
