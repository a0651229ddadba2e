"""Break downloads: servers that fail at random, and two processes at once.

A download ends in the published bytes, or in one line and nothing in their place; and within a
bounded number of requests.
"""

import gzip
import hashlib
import multiprocessing
import os
import sys
import tempfile
import types
from dataclasses import replace
from pathlib import Path

import pooch

from keras_lenet.data import catalogue, download, reading
from keras_lenet.errors import Error

sys.path.insert(0, str(Path(__file__).parents[1]))

from faulty import FAULTS, Faulty

CONTENT = hashlib.sha512(b"content").digest() * 2000
REQUESTS = 100  # bound of those of one download to one server


def downloads(count, generator):
    """Download from servers that fail at random; then the same by two processes."""
    download.TIMEOUT = 0.1, 0.1
    pooch.core.time = types.SimpleNamespace(sleep=lambda seconds: None)
    got = faults = 0
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        scratch = Path(folder)
        for number in range(count):
            servers = [Faulty(CONTENT, stall=0.2) for _ in range(2)]
            for server in servers:
                server.faults = generator.choices(FAULTS, k=generator.randint(0, 6))
            got += ends_well(servers, scratch / f"{number}.gz")
            for server in servers:
                faults += sum(fault is not None for fault, _ in server.log)
                assert len(server.log) < REQUESTS, server.log
                server.close()
        ends = f"{got:,} of {count:,} downloads end well, {count - got} in one line"
        yield "faults of servers", faults, ends
        again = two_at_once(scratch)
        yield "two processes that download the same", 2, f"{again} requests too many"


def ends_well(servers, path):
    """Return whether a download ends in the published bytes; if not, nothing may be left."""
    try:
        download.fetch([server.url for server in servers], path, verify)
    except Error:
        assert not path.exists()
        return False
    assert path.read_bytes() == CONTENT
    assert not list(path.parent.glob(".*"))
    return True


def verify(path):
    if path.read_bytes() != CONTENT:
        raise Error("checksum mismatch")


def two_at_once(scratch):
    """Download by two processes, which both have to end well; return the requests too many."""
    published = gzip.compress(b"published" * 10_000, mtime=0)
    (scratch / "published.gz").write_bytes(published)
    server = Faulty(published)
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    arguments = (scratch, server.url, start)
    processes = [context.Process(target=fetch, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    server.close()
    found = list((scratch / "keras_lenet" / "x").glob("[!.]*"))
    assert len(found) == 4, found
    return len(server.log) - len(found)


def fetch(cache, url, start):
    """Download a dataset of four files of one content from one mirror."""
    os.environ["XDG_CACHE_HOME"] = str(cache)
    digest = hashlib.sha256(reading.read_bytes(cache / "published.gz")).hexdigest()
    mnist = catalogue.DATASETS["mnist"]
    images, labels = (
        {split: replace(file, sha256=digest) for split, file in files.items()}
        for files in (mnist.images, mnist.labels)
    )
    mirrors = (url.rpartition("/")[0] + "/",)
    catalogue.DATASETS["x"] = replace(mnist, images=images, labels=labels, mirrors=mirrors)
    start.wait()
    download.download("x")
