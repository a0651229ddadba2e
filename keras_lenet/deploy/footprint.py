"""Flash, RAM, arithmetic and instructions that an int8 model takes of a microcontroller.

The budget card is about a .tflite in an interpreter: bytes and multiply-accumulates (MACs) are
measured or counted, the cycles of Arm's compiler Vela are estimates. Generated C is built with
Debian's cross compiler and emulated by QEMU, where these are installed.
"""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from keras_lenet.deploy import fill
from keras_lenet.errors import Error
from keras_lenet.tflite import inspection, parity

ETHOS_U55 = (32, 128, 256)
"""MACs per cycle of the Ethos-U55 configurations that Vela is asked about."""
SYSTEM, MEMORY = "Ethos_U55_High_End_Embedded", "Shared_Sram"
"""Vela's own defaults: 500 MHz, SRAM for activations, weights read from a slower flash."""

COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
CORES = {"Cortex-M3": "mps2-an385", "Cortex-M4": "mps2-an386"}
"""The boards that QEMU emulates."""
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic")
_IMAGES = 100
"""Classifications that are counted: the clock ticks every 40 instructions."""


def page(model: Path) -> str:
    """Return the budget card of an int8 .tflite, as Markdown: the same for the same file and tools.

    Raises:
        Error: the file can't be read.
    """
    report = inspection.inspect(model)
    arena, how = parity.arena(model)
    return fill(
        "budget.md",
        model=model.name,
        flash=f"{report.bytes:,}",
        arena=f"{arena:,}",
        peak=f"{report.peak_activation_bytes:,}",
        macs=f"{report.macs:,}",
        how=how,
        ethos=_ethos(model),
    )


def _ethos(model: Path) -> str:
    """Return the estimates of Vela, where it is installed."""
    if not importlib.util.find_spec("ethosu"):
        return "Not compiled: Arm's Vela was not installed (`pip install ethos-u-vela`)."
    version = importlib.metadata.version("ethos-u-vela")
    rows, left = [], set()
    try:
        for macs in ETHOS_U55:
            figures, ops = _vela(model, macs)
            left |= ops
            cycles, seconds, sram, flash = (
                float(figures[column])
                for column in (
                    "cycles_total",
                    "inference_time",
                    "sram_memory_used",
                    "off_chip_flash_memory_used",
                )
            )
            rows.append(
                f"| ethos-u55-{macs} | {cycles:,.0f} | {1000 * seconds:.2g} "
                f"| {1024 * sram:,.0f} | {1024 * flash:,.0f} |"
            )
    except Error as error:
        return f"Vela {version} did not compile it: {error}"
    return fill(
        "ethos.md",
        version=version,
        system=SYSTEM,
        memory=MEMORY,
        rows="\n".join(rows),
        left=", ".join(sorted(left)) or "nothing",
    )


def _vela(model: Path, macs: int) -> tuple[dict[str, str], set[str]]:
    """Compile for one configuration.

    Returns:
        Vela's summary, and the ops that it leaves to the CPU.

    Raises:
        Error: Vela could not compile the file.
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
            raise Error((result.stdout + result.stderr).strip().rpartition("\n")[2])
        with summary.open(newline="", encoding="utf-8") as file:
            figures = next(csv.DictReader(file))
        found = schema.ModelT.InitFromPackedBuf(compiled.read_bytes(), 0)
    codes = [found.operatorCodes[op.opcodeIndex] for op in found.subgraphs[0].operators]
    return figures, {inspection.op_name(code) for code in codes if code.customCode != b"ethos-u"}


def of_c(name: str, files: dict[str, str]) -> str:
    """Return the footprint of generated C on Cortex-M, as Markdown, or why it wasn't measured.

    Args:
        name: name of the network.
        files: its header and its C file, by name.
    """
    if not shutil.which(COMPILER):
        return f"Not measured: {COMPILER} was not installed."
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for file, text in files.items():
            (folder / file).write_text(text)
        try:
            flash, static, stack = memory(folder, name)
            counts = dict.fromkeys(CORES, f"not counted: no {EMULATOR}")
            if shutil.which(EMULATOR):
                counts = {core: f"{instructions(core, folder, name):,}" for core in CORES}
        except Error as error:  # a compiler may lack its library
            return f"Not measured: {str(error).splitlines()[0]}"
    rows = [f"| instructions an image, {core} at -O2 | {counts[core]} |" for core in CORES]
    return fill(
        "c/footprint.md",
        flash=f"{flash:,}",
        static=f"{static:,}",
        stack=f"{stack:,}",
        instructions="\n".join(rows),
    )


def memory(folder: Path, name: str) -> tuple[int, int, int]:
    """Return the memory that generated C alone takes of a Cortex-M4 at -O2.

    Args:
        folder: folder of the C.
        name: name of the network.

    Returns:
        Bytes of flash and of static RAM, by the linker's map, and at most of stack.

    Raises:
        Error: the compiler fails.
    """
    with tempfile.TemporaryDirectory() as temporary:
        linked = Path(temporary) / "network.map"
        command = [
            *_compiler("Cortex-M4"), "-ffunction-sections", "-fdata-sections", "-fstack-usage",
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


def instructions(core: str, folder: Path, name: str) -> int:
    """Count the instructions that generated C takes for one image.

    QEMU emulates one instruction a nanosecond; the program reads the board's timer, of 25 MHz.

    Args:
        core: one of `CORES`.
        folder: folder of the C.
        name: name of the network.

    Raises:
        Error: the compiler or the emulator fails.
    """
    with tempfile.TemporaryDirectory() as temporary:
        main, executable = Path(temporary) / "main.c", Path(temporary) / "count"
        main.write_text(fill("c/timed.c", name=name, images=_IMAGES))
        build(core, [main, folder / f"{name}.c"], executable, f"-I{folder}")
        return int(_run([*emulated(core, executable), "-icount", "shift=0"])) * 40 // _IMAGES


def build(core: str, sources: list[Path], executable: Path, *options: str) -> None:
    """Compile and link for one of `CORES`, with start-up code and every warning an error.

    Raises:
        Error: the compiler fails.
    """
    startup, layout = executable.with_name("startup.c"), executable.with_name("layout.ld")
    startup.write_text(fill("c/startup.c"))
    layout.write_text(fill("c/layout.ld"))
    linked = ["--specs=rdimon.specs", f"-T{layout}", "-o", str(executable)]
    _run([*_compiler(core), *options, *linked, str(startup), *map(str, sources)])


def emulated(core: str, executable: Path, *arguments: str) -> list[str]:
    """Return the command that runs an executable of `build` with arguments for its main()."""
    passed = "".join(f",arg={argument}" for argument in (executable.name, *arguments))
    return [
        EMULATOR, "-M", CORES[core], "-display", "none", "-monitor", "none",
        "-semihosting-config", f"enable=on,target=native{passed}", "-kernel", str(executable),
    ]  # fmt: skip


def _compiler(core: str) -> list[str]:
    return [COMPILER, f"-mcpu={core.lower()}", "-mthumb", "-O2", *STRICT]


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr or result.stdout).strip() or f"status {result.returncode}"
        raise Error(f"{command[0]} failed: {reason}")
    return result.stdout
