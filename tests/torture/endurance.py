"""Memory and open files of what runs for long: a stream of pictures, and a session of drawing.

    python tests/torture/endurance.py [PICTURES]

After a warm-up, neither resident memory nor the number of open files may grow with the number of
pictures, good and bad ones, that `classify` and the server of `draw` answer.
"""

import gc
import http.client
import io
import json
import os
import resource
import threading
from pathlib import Path

from common import arguments, row
from PIL import Image

from keras_lenet.cli import pictures
from keras_lenet.draw import server
from keras_lenet.edge.classifier import Classifier, reference_model

GROWTH = 16 << 20  # bytes: fragmentation, not a leak of every picture


def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def open_files():
    return len(os.listdir("/proc/self/fd"))


def page(digit):
    drawn = Image.new("L", (200, 200), 240)
    drawn.paste(20, (80 + digit, 40, 110, 160))
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG")
    return buffer.getvalue()


def classify_stream(count, folder):
    good, bad = folder / "good.png", folder / "bad.png"
    good.write_bytes(page(3))
    bad.write_bytes(page(3)[:200])
    classifier = Classifier()
    answered = sum(1 for _ in pictures.classify(classifier, [good, bad] * (count // 20)))
    memory, files = resident(), open_files()
    answered += sum(1 for _ in pictures.classify(classifier, [good, bad] * (count // 2)))
    return answered, resident() - memory, open_files() - files


def session(count):
    opened = server.listen("127.0.0.1", 0, reference_model(), Classifier())
    threading.Thread(target=opened.run, daemon=True).start()
    pixels = json.dumps({"pixels": [0] * 400 + [255] * 20 + [0] * 364}).encode()
    bodies = (
        (pixels, "application/json"),
        (page(1), "image/png"),
        (b"{", "application/json"),
        (page(1)[:90], "image/png"),
    )

    def ask(number):
        for i in range(number):
            body, kind = bodies[i % len(bodies)]
            connection = http.client.HTTPConnection("127.0.0.1", opened.effective_port, timeout=60)
            connection.request("POST", "/classify", body, {"Content-Type": kind})
            assert connection.getresponse().read()
            connection.close()

    ask(count // 10)
    memory, files = resident(), open_files()
    ask(count)
    grown = resident() - memory, open_files() - files
    opened.close()
    return count, *grown


def main() -> None:
    import tempfile

    count, _ = arguments(4_000, "pictures")
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        for what, (number, memory, files) in (
            ("pictures in one `classify`", classify_stream(count, Path(scratch))),
            ("requests in one `draw`", session(count)),
        ):
            row(what, number, f"{memory / 2**20:+.1f} MiB, {files:+d} open files")
            assert memory < GROWTH, f"{memory} bytes more"
            assert files <= 2, f"{files} files more"


if __name__ == "__main__":
    main()
