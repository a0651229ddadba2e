"""What generated C takes of a processor: flash and RAM by the linker's map, instructions counted.

Everything is built and emulated here, with Debian's cross compilers and QEMU, where installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from keras_lenet.errors import Error


@dataclass(frozen=True)
class Target:
    """A processor to build for and to emulate.

    Attributes:
        name: the core.
        compiler: with its options.
        emulator: what runs an executable; its arguments follow.
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


def _cortex_m(name: str, cpu: str, machine: str) -> Target:
    return Target(
        name,
        ("arm-none-eabi-gcc", f"-mcpu={cpu}", "-mthumb", "-O2"),
        ("qemu-system-arm", "-M", machine, "-display", "none", "-monitor", "none"),
        bare=True,
    )


M3 = _cortex_m("Cortex-M3", "cortex-m3", "mps2-an385")
M4 = _cortex_m("Cortex-M4", "cortex-m4", "mps2-an386")
AARCH64 = Target("AArch64", ("aarch64-linux-gnu-gcc", "-O3", "-static"), ("qemu-aarch64",), False)
TARGETS = (M3, M4, AARCH64)

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic")

_STARTUP = """\
extern void _start(void);
extern unsigned long stack_top;
const struct { unsigned long *stack; void (*reset)(void); } vectors
    __attribute__((section(".vectors"), used)) = {&stack_top, _start};
"""
_LAYOUT = """\
MEMORY { flash (rx) : ORIGIN = 0, LENGTH = 4M  ram (rwx) : ORIGIN = 0x20000000, LENGTH = 4M }
ENTRY(_start)
SECTIONS {
  .text : {
    KEEP(*(.vectors)) *(.text*) *(.rodata*) KEEP(*(.init)) KEEP(*(.fini)) . = ALIGN(4);
    __preinit_array_start = .; __preinit_array_end = .;
    __init_array_start = .; KEEP(*(.init_array*)) __init_array_end = .;
    __fini_array_start = .; KEEP(*(.fini_array*)) __fini_array_end = .;
  } > flash
  .ARM.exidx : { *(.ARM.exidx*) } > flash
  .data : { *(.data*) } > ram
  .bss : { __bss_start__ = .; *(.bss*) *(COMMON) __bss_end__ = .; } > ram
  end = .; __end__ = .;
  stack_top = ORIGIN(ram) + LENGTH(ram);
}
"""
_IMAGES = 100
"""Classifications that are counted: the clock ticks every 40 instructions."""
_TIMED = """\
#include <stdio.h>
#include "@name@.h"

/* How many ticks of the core's 24-bit timer @images@ classifications take. */
int main(void)
{
    static uint8_t image[784];
    volatile uint32_t *const timer = (volatile uint32_t *)0xE000E010u; /* SysTick */
    volatile int found;
    for (int i = 0; i < 784; ++i) {
        image[i] = (uint8_t)(i * i);
    }
    timer[1] = 0xFFFFFFu;
    timer[2] = 0;
    timer[0] = 5; /* run, at the core's clock */
    for (int i = 0; i < @images@; ++i) {
        found = @name@_classify(image);
    }
    printf("%lu\\n", (unsigned long)(0xFFFFFFu - timer[2]));
    (void)found;
    return 0;
}
"""
_LOGGED = """\
#include "@name@.h"

/* As many classifications as the argument has letters. */
int main(int count, char **arguments)
{
    static uint8_t image[784];
    volatile int found;
    for (int i = 0; i < 784; ++i) {
        image[i] = (uint8_t)(i * i);
    }
    for (int i = 0; count == 2 && arguments[1][i]; ++i) {
        found = @name@_classify(image);
    }
    (void)found;
    return 0;
}
"""


def build(target: Target, sources: list[Path], executable: Path, *options: str) -> None:
    """Compile and link for a target, with every warning an error.

    Raises:
        Error: the compiler says no.
    """
    command = [*target.compiler, *STRICT, *options, "-o", str(executable)]
    if target.bare:
        startup, layout = executable.with_name("startup.c"), executable.with_name("layout.ld")
        startup.write_text(_STARTUP)
        layout.write_text(_LAYOUT)
        command += ["--specs=rdimon.specs", f"-T{layout}", str(startup)]
    _run([*command, *map(str, sources)])


def emulated(target: Target, executable: Path, *arguments: str, options: str = "") -> list[str]:
    """The command that runs an executable on an emulated target.

    Args:
        target: what it was built for.
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


def footprint(folder: Path, name: str) -> tuple[int, int, int]:
    """What the network alone takes of a Cortex-M4 at -O2.

    Args:
        folder: with the generated C.
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
    flash = sizes["text"] + sizes.get("rodata", 0) + sizes.get("data", 0)
    # There is no recursion: no chain of calls is deeper than all functions together.
    stack = sum(int(line.split("\t")[1]) for line in usage.splitlines())
    return flash, sizes.get("data", 0) + sizes["bss"], stack


def instructions(target: Target, folder: Path, name: str) -> int:
    """How many instructions a target takes for one image.

    A Cortex-M is emulated at one instruction a nanosecond, and its own timer, of 25 MHz, read. Of
    AArch64, where there is no such clock, every instruction is logged: that takes seconds.

    Args:
        target: whose tools are installed.
        folder: with the generated C.
        name: of the network.

    Raises:
        Error: the compiler or the emulator says no.
    """
    program = (_TIMED if target.bare else _LOGGED).replace("@name@", name)
    with tempfile.TemporaryDirectory() as temporary:
        main, executable = Path(temporary) / "main.c", Path(temporary) / "count"
        main.write_text(program.replace("@images@", str(_IMAGES)))
        build(target, [main, folder / f"{name}.c"], executable, f"-I{folder}")
        if target.bare:
            command = emulated(target, executable, options="-icount shift=0")
            return int(_run(command)) * 40 // _IMAGES
        options = "-singlestep -d exec,nochain -D /dev/stdout"  # one line a block of one
        counts = [
            _lines(emulated(target, executable, letters, options=options))
            for letters in ("x", "xx")
        ]
    return counts[1] - counts[0]


def measure(name: str, header: str, source: str) -> str:
    """What a Cortex-M takes for generated C, as Markdown, or why it wasn't measured."""
    if not shutil.which(M4.compiler[0]):
        return f"Not measured: {M4.compiler[0]} was not installed."
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / f"{name}.h").write_text(header)
        (folder / f"{name}.c").write_text(source)
        try:
            return table(folder, name, (M3, M4))
        except Error as error:  # the C is good without: a compiler may lack its library
            return f"Not measured: {str(error).splitlines()[0]}"


def table(folder: Path, name: str, targets: tuple[Target, ...] = TARGETS) -> str:
    """Flash, RAM and instructions of generated C, as a Markdown table.

    Raises:
        Error: a compiler or an emulator says no.
    """
    flash, memory, stack = footprint(folder, name)
    rows = [
        ("flash: code and weights", f"{flash:,} bytes"),
        ("RAM: static", f"{memory:,} bytes"),
        ("stack, at most", f"{stack:,} bytes"),
    ]
    for target in targets:
        value = f"not counted: no {target.missing}"
        if not target.missing:
            value = f"{instructions(target, folder, name):,}"
        level = next(option for option in target.compiler if option.startswith("-O"))
        rows.append((f"instructions an image, {target.name} at {level}", value))
    lines = [f"| {label} | {value} |" for label, value in rows]
    return "\n".join(["| on a Cortex-M4 at -O2 | |", "|---|---:|", *lines])


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr or result.stdout).strip() or f"status {result.returncode}"
        raise Error(f"{command[0]} failed: {reason}")
    return result.stdout


def _lines(command: list[str]) -> int:
    """How many lines a command prints."""
    count = 0
    # Without an environment: its strings are read at the start, and take instructions too.
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"PATH": os.defpath}) as process:
        assert process.stdout is not None
        while chunk := process.stdout.read(1 << 20):
            count += chunk.count(b"\n")
    if process.returncode:
        raise Error(f"{command[0]} failed with status {process.returncode}")
    return count
