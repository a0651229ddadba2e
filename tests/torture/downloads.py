"""Break downloads: servers that fail at random.

A download ends in the published bytes, or in one line and nothing in their place; and within a
bounded number of requests.
"""

import hashlib
import sys
import tempfile
import types
from pathlib import Path

import pooch

from keras_lenet.data import download
from keras_lenet.errors import Error

sys.path.insert(0, str(Path(__file__).parents[1]))

from faulty import FAULTS, Faulty

CONTENT = hashlib.sha512(b"content").digest() * 2000
REQUESTS = 100  # bound for one download from one server


def downloads(count, generator):
    """Download from servers that fail at random."""
    download.TIMEOUT = 0.1, 0.1
    pooch.core.time = types.SimpleNamespace(sleep=lambda seconds: None)
    got = faults = 0
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        for number in range(count):
            servers = [Faulty(CONTENT, stall=0.2) for _ in range(2)]
            for server in servers:
                server.faults = generator.choices(FAULTS, k=generator.randint(0, 6))
            got += ends_well(servers, Path(folder) / f"{number}.gz")
            for server in servers:
                faults += sum(fault is not None for fault in server.log)
                assert len(server.log) < REQUESTS, server.log
                server.close()
    ends = f"{got:,} of {count:,} downloads end well, {count - got} in one line"
    yield "faults of servers", faults, ends


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
