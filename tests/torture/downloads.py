"""Downloads through servers that fail at random, and by two processes at once.

    python tests/torture/downloads.py [DOWNLOADS [SEED]]

Whatever happens, a download ends in the published bytes, or in one line and nothing in their place;
and within a bounded number of requests.
"""

import hashlib
import multiprocessing
import os
import sys
import tempfile
import types
from dataclasses import replace
from pathlib import Path

import pooch
from common import ROOT, arguments, row

from keras_lenet import console
from keras_lenet.data import catalogue, download, reading
from keras_lenet.errors import Error

sys.path.insert(0, str(ROOT / "tests"))

from faulty import FAULTS, Faulty

CONTENT = hashlib.sha512(b"content").digest() * 2000


def verify(path):
    if path.read_bytes() != CONTENT:
        raise Error("checksum mismatch")


def fetch(cache, url, start):
    """Have a data set of four files of one content from one mirror, in a process of its own."""
    os.environ["XDG_CACHE_HOME"] = cache
    digest = hashlib.sha256(reading.read_bytes(Path(cache) / "published.gz")).hexdigest()
    mnist = catalogue.DATASETS["mnist"]
    images, labels = (
        {split: replace(file, sha256=digest) for split, file in files.items()}
        for files in (mnist.images, mnist.labels)
    )
    mirrors = (url.rpartition("/")[0] + "/",)
    catalogue.DATASETS["x"] = replace(mnist, images=images, labels=labels, mirrors=mirrors)
    start.wait()
    download.download("x")


def two_at_once(scratch):
    """Both end well, and no file is fetched twice; the requests beyond one a file."""
    import gzip

    published = gzip.compress(b"published" * 10_000, mtime=0)
    (scratch / "published.gz").write_bytes(published)
    server = Faulty(published)
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    processes = [
        context.Process(target=fetch, args=(str(scratch), server.url, start)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    server.close()
    folder = scratch / "keras_lenet" / "x"
    assert len([path for path in folder.iterdir() if path.name != ".lock"]) == 4
    return len(server.log) - 4  # a file each


def main() -> None:
    count, generator = arguments(300, "downloads")
    console.console.quiet = True
    download.TIMEOUT = 0.1, 0.1
    pooch.core.time = types.SimpleNamespace(sleep=lambda seconds: None)
    got = refused = faults = requests = 0
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        scratch = Path(folder)
        for number in range(count):
            path = scratch / f"{number}.gz"
            servers = [Faulty(CONTENT, stall=0.2) for _ in range(2)]
            for server in servers:
                server.faults = generator.choices(FAULTS, k=generator.randint(0, 6))
            try:
                download.fetch([server.url for server in servers], path, verify)
                assert path.read_bytes() == CONTENT
                assert not list(scratch.glob(".*"))
                got += 1
            except Error:
                assert not path.exists()
                refused += 1
            for server in servers:
                faults += sum(fault is not None for fault in server.log)
                requests += len(server.log)
                assert len(server.log) < 100, server.log
                server.close()
        again = two_at_once(scratch)
    ends = f"{got:,} of {count:,} downloads end well, {refused} in one line"
    row("faults of servers", faults, ends)
    row("two processes that download the same", 2, f"{again} requests too many")


if __name__ == "__main__":
    main()
