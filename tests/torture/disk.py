"""What surrounds a run fails: the disk is full, read-only or gone, the clock is wrong.

    python tests/torture/disk.py [FULL DISKS [SEED]]

Each full disk is a small file system of its own (root alone may mount one; else this is left out).
The stages before one are there; the disk ends somewhere in the middle of what that stage writes.
The run has to say so in one line and with status 1, what was there before has to be whole, and once
there is room the same command has to end as if nothing had been.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import (
    RECIPE,
    Process,
    arguments,
    command,
    contents,
    differences,
    environment,
    finished_stages,
    reference,
    row,
)

from keras_lenet import artifacts, pipeline

CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
/* Seconds since 1970 start at 1000: a machine whose clock has no battery. */
static time_t first;
static time_t moved(time_t now) { if (!first) first = now; return now - first + 1000; }
int clock_gettime(clockid_t id, struct timespec *t) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int status = real(id, t);
  if (id == CLOCK_REALTIME) t->tv_sec = moved(t->tv_sec);
  return status;
}
int gettimeofday(struct timeval *t, void *zone) {
  struct timespec now;
  int status = clock_gettime(CLOCK_REALTIME, &now);
  t->tv_sec = now.tv_sec; t->tv_usec = now.tv_nsec / 1000;
  return status;
}
time_t time(time_t *t) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (t) *t = now.tv_sec;
  return now.tv_sec;
}
"""


def one_line(process):
    """The last line on stderr, which has to be the only one of ours, and no traceback before it."""
    lines = process.stderr.rstrip().splitlines()
    assert process.process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr, process.stderr
    assert sum(line.startswith("keras-lenet: ") for line in lines) == 1, process.stderr
    assert lines[-1].startswith("keras-lenet: "), process.stderr
    return lines[-1]


@contextlib.contextmanager
def mounted(folder, size):
    """A file system of `size` bytes at `folder`."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def may_mount(folder):
    if os.geteuid() != 0 or not shutil.which("mount"):
        return False
    try:
        with mounted(folder, 1 << 20):
            return True
    except subprocess.CalledProcessError:
        return False


def size_of(folder):
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*"))


def used(folder):
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def full_disk(expected, stage, share, folder):
    """Run a stage on a disk with room for `share` of what it needs, then with more room."""
    names = list(pipeline.STAGES)
    before = [name for name in names[: names.index(stage)] if (expected.folder / name).exists()]
    room = size_of(expected.folder / stage)
    until = ["--until", stage]
    with mounted(folder, 64 << 20):
        run = folder / RECIPE.stem
        run.mkdir()
        for name in before:
            shutil.copytree(expected.folder / name, run / name)
        size = int(used(folder) + share * room)
        subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)
        process = Process([*command(folder), *until])
        process.finish()
        line = one_line(process)
        assert "No space left" in line or "disk" in line, line
        assert finished_stages(run) == set(before)
        subprocess.run(["mount", "-o", f"remount,size={64 << 20}", folder], check=True)
        process = Process([*command(folder), *until])
        assert process.finish() == 0, process.stderr
        wanted = {
            name: digest
            for name, digest in expected.contents.items()
            if names.index(name.partition("/")[0]) <= names.index(stage)
        }
        found = contents(run)
        assert not differences(found, wanted), differences(found, wanted)
    return line


def read_only(expected, folder):
    with mounted(folder, 64 << 20):
        run = folder / RECIPE.stem
        shutil.copytree(expected.folder, run)
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        process = Process(command(folder))
        assert process.finish() == 0, process.stderr  # up to date: nothing to write
        process = Process([*command(folder, "seed=1"), "--until", "train"])
        process.finish()
        return one_line(process)


def taken_away(folder):
    """The run's folder is deleted while it trains."""
    process = Process([*command(folder, "train.epochs=50"), "--until", "train"])
    deadline = time.monotonic() + 300
    while "epoch 1/" not in process.stderr:
        assert time.monotonic() < deadline, process.stderr
        time.sleep(0.1)
    shutil.rmtree(folder / RECIPE.stem)
    process.finish()
    return one_line(process)


def no_clock(expected, folder):
    """A run in 1970 ends with the same bytes; False where no compiler is there."""
    if not shutil.which("gcc"):
        return False
    source, library = folder.with_suffix(".c"), folder.with_suffix(".so")
    source.write_text(CLOCK)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, capture_output=True
    )
    done = subprocess.run(
        command(folder),
        env=environment() | {"LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = folder / RECIPE.stem
    started = {artifacts.Record.read(run / name).started[:4] for name in finished_stages(run)}
    assert started == {"1970"}, started
    assert not differences(contents(run), expected.contents)
    return True


def two_at_once(expected, folder):
    """The second says who is there; both then find the same result."""
    first = Process(command(folder))
    deadline = time.monotonic() + 300
    while ": running (" not in first.stderr:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = Process(command(folder))
    second.finish()
    line = one_line(second)
    assert f"in use by process {first.process.pid} since" in line, line
    assert first.finish() == 0, first.stderr
    assert not differences(contents(folder / RECIPE.stem), expected.contents)
    return line


def main() -> None:
    wanted, generator = arguments(5, "full disks")
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        root = Path(scratch)
        expected = reference(root / "whole")
        if may_mount(root / "probe"):
            stages = sorted(finished_stages(expected.folder))
            for number in range(wanted):
                stage, share = stages[number % len(stages)], generator.uniform(0.02, 0.9)
                print(f"{stage}, {share:.0%}: ", end="", flush=True)
                print(full_disk(expected, stage, share, root / f"full{number}"), flush=True)
            row("a full disk", wanted, "one line, lost: none")
            print(read_only(expected, root / "read-only"), flush=True)
            row("a read-only disk", 1, "one line, lost: none")
        else:
            print("full and read-only disks: left out, since this user may mount none", flush=True)
        print(taken_away(root / "taken"), flush=True)
        row("a folder deleted underneath", 1, "one line")
        print(two_at_once(expected, root / "two"), flush=True)
        row("two runs at once", 1, "the second says who holds the folder, and leaves")
        if no_clock(expected, root / "clock"):
            row("a clock that starts in 1970", 1, "the same bytes")


if __name__ == "__main__":
    sys.exit(main())
