"""From stroke to answer: what the server of the drawing page takes for a drawing, step by step."""

import http.client
import io
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
from measure import Row, spread
from PIL import Image, ImageDraw

from keras_lenet import console
from keras_lenet.draw.server import listen
from keras_lenet.edge.classifier import Classifier, reference_model

sys.path.insert(0, str(Path(__file__).parents[1]))
from drawing import DIGITS, STYLES, strokes

SIDE = 200  # of the picture that the page draws to


def rows(quick):
    """Return rows of the server's own times, and of the times until a client has its answer.

    Each of ten digits in six styles is sent as a picture, and then as the 784 pixels that the page
    sends.
    """
    with console.quiet_native_logs():
        path = reference_model()
        server = listen("127.0.0.1", 0, path, Classifier(path))
    threading.Thread(target=server.run, daemon=True).start()
    pictures = [drawn(digit, style) for style in STYLES for digit in range(len(DIGITS))]
    taken = []
    for number in range(10 if quick else 300):
        picture = pictures[number % len(pictures)]
        answer, whole = ask(server.effective_port, picture, "image/png")
        pixels = json.dumps({"pixels": answer["pixels"]})
        again, short = ask(server.effective_port, pixels, "application/json")
        split = answer["milliseconds"]
        taken.append(
            {
                "a picture: preparation": split["preparation"],
                "a picture: inference": split["inference"],
                "a picture: until the answer is there": whole,
                "784 pixels: inference": again["milliseconds"]["inference"],
                "784 pixels: until the answer is there": short,
            }
        )
    server.close()
    found = []
    for name in taken[0]:
        times = [each[name] for each in taken]
        note = f"95 % within {np.percentile(times, 95):.2f} ms"
        found.append(Row("drawing", name, "ms", *spread(times), note=note))
    return found


def drawn(digit, style):
    """Return a drawing as a grey PNG."""
    picture = Image.new("L", (SIDE, SIDE), 255)
    placed, width = strokes(digit, style)
    for stroke in placed:
        points = [(SIDE * x, SIDE * y) for x, y in stroke]
        ImageDraw.Draw(picture).line(points, 0, max(1, round(SIDE * width)), "curve")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def ask(port, body, kind):
    """Return the server's answer, and the milliseconds until it was there."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/classify", body, {"Content-Type": kind})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer, 1000 * (time.perf_counter() - start)
