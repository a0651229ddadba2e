"""From stroke to answer: what the server and the page take for a drawing, step by step.

    python tests/benchmarks/draw.py [COUNT]

Prints a Markdown table of medians and 95th percentiles over COUNT drawings (300 by default), ten
digits in six styles: the server's own time for a picture, split into preparation and inference, the
time until a client on the same machine has its answer, and the same for the 784 pixels that the
page sends. Fails where an answer takes longer than `LIMIT`.
"""

import http.client
import io
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from keras_lenet import terminal
from keras_lenet.edge.classifier import Classifier, reference_model
from keras_lenet.edge.server import Server

sys.path.insert(0, str(Path(__file__).parents[1]))
from drawing import DIGITS, STYLES, strokes

LIMIT = 250.0  # ms for a picture, at the 95th percentile
SIDE = 200  # of the picture that the page draws to


def drawn(digit, style):
    """A drawing as a grey PNG."""
    picture = Image.new("L", (SIDE, SIDE), 255)
    placed, width = strokes(digit, style)
    for stroke in placed:
        points = [(SIDE * x, SIDE * y) for x, y in stroke]
        ImageDraw.Draw(picture).line(points, 0, max(1, round(SIDE * width)), "curve")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def ask(port, body, kind):
    """The server's answer, and how long it took to come, in milliseconds."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/classify", body, {"Content-Type": kind})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer, 1000 * (time.perf_counter() - start)


def main():
    """Print the table; exit with 1 where the limit is missed."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with terminal.without_information():
        path = reference_model()
        server = Server("127.0.0.1", 0, path, Classifier(path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pictures = [drawn(digit, style) for style in STYLES for digit in range(len(DIGITS))]
    rows = {
        "a picture: preparation": [],
        "a picture: inference": [],
        "a picture: until the answer is there": [],
        "784 pixels: inference": [],
        "784 pixels: until the answer is there": [],
    }
    with terminal.progress() as bar:
        for number in bar.track(range(count), description="drawings"):
            answer, whole = ask(server.server_port, pictures[number % len(pictures)], "image/png")
            pixels = json.dumps({"pixels": answer["pixels"]})
            again, short = ask(server.server_port, pixels, "application/json")
            split = answer["milliseconds"]
            times = (
                split["preparation"],
                split["inference"],
                whole,
                again["milliseconds"]["inference"],
                short,
            )
            for row, value in zip(rows.values(), times, strict=True):
                row.append(value)
    server.shutdown()
    print("| server | median | 95th percentile |\n|---|---:|---:|")
    for name, row in rows.items():
        median, high = np.percentile(row, [50, 95])
        print(f"| {name} | {median:.2f} ms | {high:.2f} ms |")
    if np.percentile(rows["a picture: until the answer is there"], 95) > LIMIT:
        raise SystemExit(f"an answer should take at most {LIMIT:.0f} ms")


if __name__ == "__main__":
    main()
