"""Files from strangers: every parser of this package on inputs that begin as the format does.

    python tests/torture/files.py [IDX INPUTS [SEED]]

Each input is a good or a nasty file, changed at random in a few places. A parser has to take it, or
to refuse it with `keras_lenet.errors.Error`; within seconds, and within the memory that is left to
it. The other parsers get a share of the number that IDX gets. Where atheris is installed, it then
searches for inputs that reach further, by the coverage of what they run.

A .tflite and a picture are opened by C++ and C that are not ours, in processes whose death is
counted apart.
"""

import contextlib
import gzip
import io
import itertools
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import tracemalloc
import zipfile
from pathlib import Path

from common import ROOT, arguments, row

from keras_lenet import artifacts, recipe
from keras_lenet.data import reading
from keras_lenet.edge import decoding, metadata, prepare
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error
from keras_lenet.evaluation import results
from keras_lenet.reporting import compare
from keras_lenet.tflite import inspection, metadata_writer

HANG = 20  # seconds
MEMORY = 2 << 30  # bytes of address space that a parser may add to the process
NUMBERS = [0, 1, 2, 27, 28, 29, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]

SCRATCH = Path(tempfile.mkdtemp(prefix="torture-"))


def changed(generator, seeds):
    """A seed with one to six changes."""
    content = bytearray(generator.choice(seeds))
    for _ in range(generator.randint(1, 6)):
        place = generator.randrange(len(content) + 1)
        # Headers decide more than what follows.
        place = generator.randrange(min(place, 64) + 1) if generator.random() < 0.5 else place
        kind = generator.randrange(6)
        if kind == 0:
            content[place : place + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            order = generator.choice("<>")
            number = struct.pack(f"{order}I", generator.choice(NUMBERS))
            content[place : place + 4] = number
        elif kind == 2:
            del content[place:]
        elif kind == 3:
            del content[place : place + generator.randint(1, 8)]
        elif kind == 4:
            other = generator.choice(seeds)
            start = generator.randrange(len(other) + 1)
            content[place:place] = other[start : start + generator.randint(1, 16)]
        else:
            content[place : place + 1] = content[place : place + 1] * generator.randint(2, 9)
    return bytes(content)


def header(*shape):
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


IDX = [
    header(2, 2, 2) + bytes(8),
    header(3) + bytes(3),
    header(2**31, 28, 28),
    header(2**32 - 1, 2**32 - 1, 0),
    header(0, 0, 0),
    header(0),
]
GZIP = [gzip.compress(content) for content in IDX] + [gzip.compress(bytes(4000)), *IDX]
TOML = [
    *(path.read_bytes() for path in sorted((ROOT / "pipelines").glob("*.toml"))),
    b"seed = " + b"9" * 5000,
    b"a = " + b"[" * 5000,
    b"a." * 3000 + b"b = 1",
    b"[train]\nepochs = 1e999\nbatch_size = nan",
    b'name = "../../etc"\n[data]\ndataset = "\\u001b[31m"',
    b"[train]\nepochs = 1979-05-27T07:32:00Z",
]
DESCRIPTION = metadata_writer.encode(metadata.describe("lenet5", "digits", "1", "me", 0.5))


def shared_offsets(levels=4, width=2000):
    """Metadata whose vectors point to each other: width to the power of levels values."""
    content = bytearray(struct.pack("<I", 8) + b"M001")

    def table(slot, target_from):
        vtable = len(content)
        content.extend(struct.pack("<HH", 6 + 2 * slot, 8) + bytes(2 * slot) + b"\x04\x00")
        content.extend(bytes(-len(content) % 4))
        position = len(content)
        content.extend(struct.pack("<iI", position - vtable, 0))
        target_from.append(position + 4)
        return position

    fixups = []
    position = table(3, fixups)
    struct.pack_into("<I", content, 0, position)
    for slot in (3, 4, 0)[: levels - 1]:
        place = fixups.pop()
        struct.pack_into("<I", content, place, len(content) - place)
        start = len(content)
        content.extend(struct.pack("<I", width) + bytes(4 * width))
        child = table(slot, fixups)
        for i in range(width):
            entry = start + 4 + 4 * i
            struct.pack_into("<I", content, entry, child - entry)
    return bytes(content)


METRICS = [
    (ROOT / "exported" / "metrics.json").read_bytes(),
    b'{"schema": 2}',
    b'{"schema": 2, "models": ' + b"[" * 100_000,
    b'{"schema": ' + b"9" * 5000 + b"}",
]
RECORD = [
    json.dumps(
        {
            "stage": "train", "settings": {"seed": 0}, "inputs": {"a": "0"}, "outputs": {"b": "1"},
            "dataset": "mnist", "seed": 0, "versions": {}, "started": "", "seconds": 0.1,
            "summary": {"temperature": 1.0}, "schema": 1,
        }
    ).encode()
]  # fmt: skip
TFLITE = [path.read_bytes() for path in sorted((ROOT / "exported").glob("*.tflite"))]


def bombs():
    """A .tflite to which a small zip of much is appended."""
    whole = io.BytesIO()
    whole.write(TFLITE[0])
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("more.txt", bytes(1 << 28))
    return whole.getvalue()


def pictures():
    from PIL import Image

    page = Image.new("L", (40, 40), 230)
    page.paste(20, (15, 8, 22, 32))
    found = []
    for kind in decoding.FORMATS:
        buffer = io.BytesIO()
        page.save(buffer, kind)
        found.append(buffer.getvalue())
    return found


def file_of(content, name):
    path = SCRATCH / name
    path.write_bytes(content)
    return path


def read_recipe(content):
    recipe.load(file_of(content, "recipe.toml"))


def set_recipe(content):
    recipe.from_overrides("x", [content.decode(errors="replace")])


def read_record(content):
    file_of(content, artifacts.RECORD)
    record = artifacts.Record.read(SCRATCH)
    if record is not None:
        artifacts.damaged(SCRATCH, record.outputs)


def read_metrics(content):
    file_of(content, results.METRICS)
    metrics = results.read(SCRATCH)
    results.rows(metrics), results.caption(metrics), results.markdown(metrics)
    if "rejection" in metrics:
        results.rejection(metrics)
    one = compare.Evaluated("x", {}, metrics, None, None)
    compare.figures([one, one])
    with contextlib.suppress(Error):
        results.check_gates(metrics)


def read_metadata(content):
    # As it declares; `read` makes Errors of them.
    with contextlib.suppress(ValueError, LookupError, struct.error):
        metadata.decode(content)


def read_tflite(content):
    path = file_of(content, "model.tflite")
    metadata_writer.files(content)
    metadata.score_threshold(content)
    inspection.inspect(path).as_dict()
    Classifier(path)


def read_picture(content):
    prepare.prepare(decoding.decode(content))


def read_appended(content):
    metadata_writer.files(content)


ZIP = [TFLITE[0][-600:], bombs()]

# By name: the function, what is changed, and the share of the inputs that IDX gets.
TARGETS = {
    "IDX": (lambda content: reading.parse(content, 3 if content[3:4] == b"\3" else 1), IDX, 1),
    "IDX files, gzip": (lambda content: reading.read(file_of(content, "x"), 3), GZIP, 0.001),
    "recipes": (read_recipe, TOML, 0.001),
    "--set": (set_recipe, [b"train.epochs=3", b"a=" + b"[" * 5000, b"name='x'"], 0.005),
    "TFLite metadata": (read_metadata, [DESCRIPTION, shared_offsets()], 0.001),
    "files appended to a .tflite": (read_appended, ZIP, 0.002),
    "stage.json": (read_record, RECORD, 0.005),
    "metrics.json": (read_metrics, METRICS, 0.001),
}
FOREIGN = {
    "pictures": (read_picture, pictures(), 0.001),
    ".tflite": (read_tflite, TFLITE, 0.0003),
}


def expire(number, frame):
    raise AssertionError(f"no end after {HANG} s")


def attempt(name, function, content):
    """Run one input; what is wrong with it, in words."""
    signal.alarm(HANG)
    try:
        function(content)
    except Error as error:
        if "\n" in str(error) or len(str(error)) > 5000:
            return f"{name}: an error of more than a line: {str(error)[:200]!r}"
    except BaseException as error:
        where = SCRATCH.parent / f"torture-{name.replace(' ', '-').replace('/', '-')}.bin"
        where.write_bytes(content)
        return f"{name}: {type(error).__name__}: {str(error)[:200]} ({where})"
    finally:
        signal.alarm(0)
    return None


def limit_memory():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def run_ours(name, function, seeds, count, generator):
    problems = []
    inputs = itertools.chain(seeds, (changed(generator, seeds) for _ in range(count - len(seeds))))
    for content in inputs:
        if problem := attempt(name, function, content):
            problems.append(problem)
            if len(problems) > 5:
                break
    return problems


def run_foreign(name, function, seeds, count, generator):
    """In children of 100 inputs each; how many of them died, and what is wrong otherwise."""
    deaths, problems = 0, []
    inputs = iter([*seeds, *(changed(generator, seeds) for _ in range(count - len(seeds)))])
    batch = list(itertools.islice(inputs, 100))
    while batch:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            for content in batch:
                problem = attempt(name, function, content) or ""
                os.write(writer, json.dumps(problem).encode() + b"\n")
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answers:
            found = [json.loads(line) for line in answers]
        _, status = os.waitpid(child, 0)
        problems += filter(None, found)
        if status:
            deaths += 1
            (SCRATCH.parent / f"torture-death-{deaths}.bin").write_bytes(batch[len(found)])
        rest = batch[len(found) + 1 :] if status else []
        batch = rest or list(itertools.islice(inputs, 100))
    return deaths, problems


def declared_is_not_allocated():
    """The bytes that a header of 2^31 images makes the parser allocate."""
    tracemalloc.start()
    with contextlib.suppress(Error):
        reading.parse(header(2**31, 28, 28) + bytes(1000), 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def by_coverage(seconds):
    """Let atheris search each of our parsers; runs in a child, for it never returns."""
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: no coverage-guided search", flush=True)
        return
    for name, (function, seeds, _) in TARGETS.items():
        corpus = Path(tempfile.mkdtemp(dir=SCRATCH))
        for i, seed in enumerate(seeds):
            if len(seed) < 100_000:
                (corpus / str(i)).write_bytes(seed)
        log = SCRATCH / "atheris.log"
        child = os.fork()
        if not child:
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            signal.alarm(0)

            def one(content, name=name, function=function):
                if problem := attempt(name, function, content):
                    raise AssertionError(problem)

            modules = (reading, recipe, metadata, metadata_writer, artifacts, results)
            for module in modules:
                for value in vars(module).values():
                    if getattr(value, "__module__", "") == module.__name__ and hasattr(
                        value, "__code__"
                    ):
                        atheris.instrument_func(value)
            options = [f"-max_total_time={seconds}", "-max_len=20000", str(corpus)]
            atheris.Setup(["files", *options], one)
            atheris.Fuzz()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        lines = log.read_text(errors="replace").splitlines()
        done = [line for line in lines if line.startswith("Done ")]
        assert status == 0, "\n".join(lines[-30:])
        assert done, "\n".join(lines[-30:])
        row(f"{name}, by coverage (atheris)", int(done[-1].split()[1]), "no crash, no hang")


def main() -> None:
    count, generator = arguments(1_000_000, "inputs")
    signal.signal(signal.SIGALRM, expire)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit_memory()
    failed = []
    peak = declared_is_not_allocated()
    assert peak < 10_000, f"{peak} bytes allocated"
    row("an IDX header that declares 2^31 images", 1, f"{peak:,} bytes allocated")
    for name, (function, seeds, share) in TARGETS.items():
        number, clock = max(int(count * share), len(seeds)), time.monotonic()
        problems = run_ours(name, function, seeds, number, random.Random(generator.random()))
        failed += problems
        print(*problems, f"{name}: {time.monotonic() - clock:.0f} s", sep="\n", file=sys.stderr)
        row(name, number, "no crash, no hang" if not problems else f"FAILED: {len(problems)}")
    for name, (function, seeds, share) in FOREIGN.items():
        number = max(int(count * share), len(seeds))
        deaths, problems = run_foreign(
            name, function, seeds, number, random.Random(generator.random())
        )
        failed += problems
        print(*problems, sep="\n", file=sys.stderr)
        ours = f"FAILED: {len(problems)} in our code, " if problems else "no crash, no hang; "
        row(name, number, f"{ours}{deaths} deaths in a library's code")
    by_coverage(max(1, count // 100_000))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
