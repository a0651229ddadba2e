"""prepare.js held to prepare.py: the same drawings, run by Node.js, to the same 28×28 pixels."""

import base64
import json
import subprocess

import numpy as np
import pytest
from drawing import DIGITS, STYLES, strokes
from PIL import Image, ImageDraw
from test_prepare import paper

from keras_lenet.draw import PAGE
from keras_lenet.edge.classifier import Classifier
from keras_lenet.edge.prepare import prepare

pytestmark = pytest.mark.needs("node")

PROGRAM = """
import { readFileSync } from "node:fs";
const { prepare } = await import(process.argv[1]);
const drawings = JSON.parse(readFileSync(0, "utf8")).map(({ ink, ...size }) => {
  const prepared = prepare({ ...size, ink: new Uint8Array(Buffer.from(ink, "base64")) });
  return { ...prepared, image: [...prepared.image] };
});
console.log(JSON.stringify(drawings));
"""


def prepared_in_javascript(drawings):
    """What prepare.js makes of drawings, uint8 (H, W), 255 = ink."""
    sent = [
        {"height": len(ink), "width": ink.shape[1], "ink": base64.b64encode(ink).decode()}
        for ink in map(np.ascontiguousarray, drawings)
    ]
    command = ["node", "--input-type=module", "--eval", PROGRAM, (PAGE / "prepare.js").as_uri()]
    result = subprocess.run(
        command, input=json.dumps(sent), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def assert_alike(drawings):
    """At most two grey levels apart in any pixel; returns the images of prepare.js."""
    javascript = prepared_in_javascript(drawings)
    assert all(result["found"] for result in javascript)
    found = np.array([result["image"] for result in javascript], np.uint8).reshape(-1, 28, 28)
    expected = np.stack([prepare(255 - ink).image for ink in drawings])
    np.testing.assert_allclose(found.astype(int), expected.astype(int), rtol=0, atol=2)
    return found


@pytest.mark.parametrize("style", STYLES)
def test_drawings_are_prepared_as_in_python(style):
    drawings = []
    for digit in range(len(DIGITS)):
        picture = Image.new("L", (800, 800))
        placed, width = strokes(digit, style)
        for stroke in placed:
            points = [(800 * x, 800 * y) for x, y in stroke]
            ImageDraw.Draw(picture).line(points, 255, max(4, round(800 * width)), "curve")
        drawings.append(np.asarray(picture.reduce(4)))
    answers = Classifier().predict(assert_alike(drawings)).argmax(axis=1)
    assert np.sum(answers == np.arange(10)) >= 9


def test_ties_go_the_same_way():
    """Symmetric digits, whose centre of mass lies right between two pixels."""
    sizes = ((20, 2), (20, 3), (20, 6), (20, 7), (40, 4), (60, 12), (99, 31))
    assert_alike(
        [paper((h + 20, w + 20), (10, 10, h + 10, w + 10), ink=255, page=0) for h, w in sizes]
    )


def test_an_empty_drawing_has_no_digit():
    (result,) = prepared_in_javascript([np.zeros((30, 40), np.uint8)])
    assert result == {"image": [0] * 784, "found": False}
