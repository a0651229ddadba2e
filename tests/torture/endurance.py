"""Answer many pictures, good and bad ones: after a warm-up, memory and open files may not grow."""

import gc
import http.client
import io
import json
import os
import resource
import tempfile
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from keras_lenet.cli import pictures
from keras_lenet.draw import server
from keras_lenet.edge.classifier import Classifier, reference_model

GROWTH = 16 << 20  # bytes: fragmentation, not a leak of every picture


def endurance(count, _):
    """Answer pictures by `classify`, and by the server of `draw`."""
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        yield "pictures in one `classify`", *classify(count, Path(scratch))
    yield "requests in one `draw`", count, draw(count)


def held():
    """Return the bytes of resident memory, and the number of open files."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize(), len(os.listdir("/proc/self/fd"))


def growth(work, warm_up, count):
    """Return what is held after `work` on `count` more than after a warm-up, in words."""
    work(warm_up)
    before = held()
    work(count)
    memory, files = np.subtract(held(), before)
    assert memory < GROWTH, f"{memory} bytes more"
    assert files <= 2, f"{files} files more"
    return f"{memory / 2**20:+.1f} MiB, {files:+d} open files"


def page(digit):
    drawn = Image.new("L", (200, 200), 240)
    drawn.paste(20, (80 + digit, 40, 110, 160))
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG")
    return buffer.getvalue()


def classify(count, folder):
    good, bad = folder / "good.png", folder / "bad.png"
    good.write_bytes(page(3))
    bad.write_bytes(page(3)[:200])
    classifier, answered = Classifier(), 0

    def work(pairs):
        nonlocal answered
        answered += sum(1 for _ in pictures.classify(classifier, [good, bad] * pairs))

    outcome = growth(work, count // 20, count // 2)
    return answered, outcome


def draw(count):
    opened = server.listen("127.0.0.1", 0, reference_model(), Classifier())
    threading.Thread(target=opened.run, daemon=True).start()
    pixels = json.dumps({"pixels": [0] * 400 + [255] * 20 + [0] * 364}).encode()
    bodies = (
        (pixels, "application/json"),
        (page(1), "image/png"),
        (b"{", "application/json"),
        (page(1)[:90], "image/png"),
    )

    def work(requests):
        for i in range(requests):
            body, kind = bodies[i % len(bodies)]
            connection = http.client.HTTPConnection("127.0.0.1", opened.effective_port, timeout=60)
            connection.request("POST", "/classify", body, {"Content-Type": kind})
            assert connection.getresponse().read()
            connection.close()

    outcome = growth(work, count // 10, count)
    opened.close()
    return outcome
