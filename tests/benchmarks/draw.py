"""From stroke to answer: what the server of the drawing page takes for a drawing, step by step.

Ten digits in six styles: the server's own time for a picture, split into preparation and inference,
the time until a client on the same machine has its answer, and the same for the 784 pixels that the
page sends.
"""

import http.client
import io
import json
import sys
import threading
import time
from pathlib import Path

import measure
import numpy as np
from measure import Row
from PIL import Image, ImageDraw

from keras_lenet import console
from keras_lenet.draw.server import listen
from keras_lenet.edge.classifier import Classifier, reference_model

sys.path.insert(0, str(Path(__file__).parents[1]))
from drawing import DIGITS, STYLES, strokes

COUNT, QUICK = 300, 10
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


def rows(quick):
    """Return rows of medians, with quartiles and the 95th percentile."""
    with console.without_information():
        path = reference_model()
        serving = listen("127.0.0.1", 0, path, Classifier(path))
    threading.Thread(target=serving.run, daemon=True).start()
    pictures = [drawn(digit, style) for style in STYLES for digit in range(len(DIGITS))]
    taken = {
        "a picture: preparation": [],
        "a picture: inference": [],
        "a picture: until the answer is there": [],
        "784 pixels: inference": [],
        "784 pixels: until the answer is there": [],
    }
    for number in range(QUICK if quick else COUNT):
        answer, whole = ask(serving.effective_port, pictures[number % len(pictures)], "image/png")
        pixels = json.dumps({"pixels": answer["pixels"]})
        again, short = ask(serving.effective_port, pixels, "application/json")
        split = answer["milliseconds"]
        times = (
            split["preparation"],
            split["inference"],
            whole,
            again["milliseconds"]["inference"],
            short,
        )
        for row, value in zip(taken.values(), times, strict=True):
            row.append(value)
    serving.close()
    return [
        Row("drawing", name, "ms", *measure.spread(row), note=f"95 % within {high:.2f} ms")
        for name, row in taken.items()
        for high in [np.percentile(row, 95)]
    ]
