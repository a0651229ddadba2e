"""Give strangers' files to every parser of this package.

Each input is a good or a nasty file with a few random changes. A parser has to take the input, or
to refuse it with `keras_lenet.errors.Error`, within seconds and bounds of memory.
"""

import contextlib
import gzip
import io
import itertools
import multiprocessing
import os
import random
import resource
import signal
import struct
import tempfile
import zipfile
from pathlib import Path

from PIL import Image

from keras_lenet import recipe
from keras_lenet.data import reading
from keras_lenet.edge import decoding, metadata, prepare
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error
from keras_lenet.evaluation.metrics import Metrics
from keras_lenet.reporting import compare, results
from keras_lenet.tflite import inspection, metadata_writer

HANG = 20  # seconds
MEMORY = 2 << 30  # bytes of address space that a parser may add to the process
NUMBERS = [0, 1, 2, 27, 28, 29, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]
ROOT = Path(__file__).parents[2]


def header(*shape):
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def file_of(content, name):
    path = Path(name)  # the harness works in a scratch folder
    path.write_bytes(content)
    return path


def bomb(content):
    """Return a .tflite to which a small zip of much is appended."""
    whole = io.BytesIO(content)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("more.txt", bytes(1 << 28))
    return whole.getvalue()


def picture(kind):
    page = Image.new("L", (40, 40), 230)
    page.paste(20, (15, 8, 22, 32))
    buffer = io.BytesIO()
    page.save(buffer, kind)
    return buffer.getvalue()


def read_metrics(content):
    file_of(content, "metrics.json")
    metrics = Metrics.read(Path())
    results.markdown(metrics), results.rejection(metrics)
    one = compare.Evaluated("x", {}, metrics, None, None)
    compare.figures([one, one])
    with contextlib.suppress(Error):
        metrics.check_gates()


def read_metadata(content):
    # `metadata.read` turns these into Errors.
    with contextlib.suppress(ValueError, LookupError, struct.error):
        metadata.decode(content)


def read_tflite(content):
    path = file_of(content, "model.tflite")
    metadata_writer.files(content)
    metadata.score_threshold(content)
    inspection.inspect(path).as_dict()
    Classifier(path)


IDX = [
    header(2, 2, 2) + bytes(8),
    header(3) + bytes(3),
    header(2**31, 28, 28),
    header(2**32 - 1, 2**32 - 1, 0),
    header(0, 0, 0),
    header(0),
]
GZIP = [gzip.compress(content) for content in (*IDX, bytes(4000))] + IDX
TOML = [
    *(path.read_bytes() for path in sorted((ROOT / "pipelines").glob("*.toml"))),
    b"seed = " + b"9" * 5000,
    b"a = " + b"[" * 5000,
    b"a." * 3000 + b"b = 1",
    b"[train]\nepochs = 1e999\nbatch_size = nan",
    b'name = "../../etc"\n[data]\ndataset = "\\u001b[31m"',
    b"[train]\nepochs = 1979-05-27T07:32:00Z",
]
METADATA = [metadata_writer.encode(metadata_writer.describe("lenet5", "digits", "1", "me", 0.5))]
METRICS = [
    (ROOT / "exported" / "metrics.json").read_bytes(),
    b'{"schema_version": 3}',
    b'{"schema": 2, "models": ' + b"[" * 100_000,
    b'{"schema": ' + b"9" * 5000 + b"}",
]
TFLITE = [path.read_bytes() for path in sorted((ROOT / "exported").glob("*.tflite"))]

# By name: the function, what is changed, and the share of the inputs that IDX gets.
TARGETS = {
    "IDX": (lambda content: reading.parse(content, 3 if content[3:4] == b"\3" else 1), IDX, 1),
    "IDX files, gzip": (lambda content: reading.read(file_of(content, "x"), 3), GZIP, 0.001),
    "recipes": (lambda content: recipe.load_recipe(file_of(content, "recipe.toml")), TOML, 0.001),
    "TFLite metadata": (read_metadata, METADATA, 0.001),
    "files appended to a .tflite": (
        metadata_writer.files,
        [TFLITE[0][-600:], bomb(TFLITE[0])],
        0.002,
    ),
    "metrics.json": (read_metrics, METRICS, 0.001),
    "pictures": (
        lambda content: prepare.prepare(decoding.decode(content)),
        [picture(kind) for kind in decoding.FORMATS],
        0.001,
    ),
    ".tflite": (read_tflite, TFLITE, 0.0003),
}
FOREIGN = {"pictures", ".tflite"}
"""Read by C and C++ of others; deaths of the process are counted, and are no failure."""


def inputs(seeds, count, seed):
    """Yield the seeds, and changed ones, `count` in all or more."""
    yield from seeds
    generator = random.Random(seed)
    for _ in range(count - len(seeds)):
        yield changed(generator, seeds)


def changed(generator, seeds):
    """Return a seed with one to six changes, half of them in its header, which decides more."""
    content = bytearray(generator.choice(seeds))
    for _ in range(generator.randint(1, 6)):
        end = len(content) if generator.random() < 0.5 else min(len(content), 64)
        place = generator.randrange(end + 1)
        other = generator.choice(seeds)
        start = generator.randrange(len(other) + 1)
        number = struct.pack(generator.choice(["<I", ">I"]), generator.choice(NUMBERS))
        length, replacement = generator.choice(
            [
                (1, generator.randbytes(1)),
                (4, number),
                (len(content), b""),
                (generator.randint(1, 8), b""),
                (0, other[start : start + generator.randint(1, 16)]),
                (1, content[place : place + 1] * generator.randint(2, 9)),
            ]
        )
        content[place : place + length] = replacement
    return bytes(content)


def problem_of(function, content):
    """Run one input; return what is wrong with its end, in words, or None."""
    signal.alarm(HANG)
    try:
        function(content)
    except Error as error:
        if "\n" in str(error) or len(str(error)) > 5000:
            return f"an error of more than a line: {str(error)[:200]!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
    return None


def try_inputs(name, function, contents, tried, problems):
    """Run inputs; keep problems in the system's temporary folder."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.signal(signal.SIGALRM, expire)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for content in contents:
        tried.value += 1
        if problem := problem_of(function, content):
            keep(name, content, problem)
            problems.value += 1


def expire(number, frame):
    raise AssertionError(f"no end after {HANG} s")


def keep(name, content, problem):
    path = Path(tempfile.gettempdir()) / f"torture-{name.strip('.').replace(' ', '-')}.bin"
    path.write_bytes(content)
    print(f"{name}: {problem} ({path})", flush=True)


def search(name, function, seeds, count, seed):
    """Return problems and deaths; a child runs the inputs, and another one those after a death."""
    context = multiprocessing.get_context("fork")
    tried, problems = (context.Value("Q", 0, lock=False) for _ in range(2))
    deaths = 0
    while tried.value < count:
        contents = itertools.islice(inputs(seeds, count, seed), tried.value, None)
        arguments = name, function, contents, tried, problems
        child = context.Process(target=try_inputs, args=arguments)
        child.start()
        child.join()
        if child.exitcode:
            assert child.exitcode < 0, f"{name}: the child failed before its inputs"
            deaths += 1
            last = next(itertools.islice(inputs(seeds, count, seed), tried.value - 1, None))
            keep(name, last, f"death, status {child.exitcode}")
    return problems.value, deaths


def files(count, generator):
    """Run every parser on changed files; the others get a share of the number that IDX gets."""
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch, contextlib.chdir(scratch):
        for name, (function, seeds, share) in TARGETS.items():
            number = max(int(count * share), len(seeds))
            problems, deaths = search(name, function, seeds, number, generator.random())
            outcome = "no crash, no hang"
            if problems or (deaths and name not in FOREIGN):
                outcome = f"FAILED: {problems} problems"
            if name in FOREIGN or deaths:
                outcome += f"; {deaths} deaths in a library's code"
            yield name, number, outcome
