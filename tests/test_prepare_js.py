"""prepare.js held to prepare.py: the same pictures, run by Node.js, to the same 28×28 pixels."""

import base64
import json
import subprocess

import numpy as np
import pytest
from benchmarks import placements
from conftest import draw_digits
from drawing import DIGITS, STYLES, strokes
from PIL import Image, ImageDraw
from test_prepare import blank_pages, paper, uint8

from keras_lenet.data import reading
from keras_lenet.draw import PAGE
from keras_lenet.edge.classifier import Classifier
from keras_lenet.edge.prepare import prepare

pytestmark = pytest.mark.needs("node")

PROGRAM = """
import { readFileSync } from "node:fs";
const { prepare } = await import(process.argv[1]);
const pictures = JSON.parse(readFileSync(0, "utf8")).map(({ data, ...size }) => {
  const prepared = prepare({ ...size, data: new Uint8Array(Buffer.from(data, "base64")) });
  return { ...prepared, image: [...prepared.image] };
});
console.log(JSON.stringify(pictures));
"""


def prepared_in_javascript(pictures):
    """What prepare.js makes of uint8 pictures, grey (H, W) or RGBA (H, W, 4)."""
    sent = [
        {"height": len(picture), "width": picture.shape[1], "data": base64.b64encode(picture)}
        for picture in map(np.ascontiguousarray, pictures)
    ]
    command = ["node", "--input-type=module", "--eval", PROGRAM, (PAGE / "prepare.js").as_uri()]
    content = json.dumps(sent, default=bytes.decode)
    result = subprocess.run(command, input=content, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def assert_alike(pictures):
    """At most two grey levels apart in any pixel, and answered alike; returns the answers."""
    python = [prepare(picture) for picture in pictures]
    images = np.stack([result.image for result in python])
    javascript = prepared_in_javascript(pictures)
    for number, (expected, found) in enumerate(zip(python, javascript, strict=True)):
        same = (found["found"], found["polarity"], tuple(found["box"]))
        assert same == (expected.found, expected.polarity, expected.box), number
    found = np.array([result["image"] for result in javascript], np.uint8).reshape(-1, 28, 28)
    np.testing.assert_allclose(found.astype(int), images.astype(int), rtol=0, atol=2)
    answers, expected = (Classifier().predict(same).argmax(axis=1) for same in (found, images))
    np.testing.assert_array_equal(answers, expected)
    return answers


def opaque(picture):
    """As a browser hands it over: grey as it is, colours as RGBA."""
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    return picture if picture.ndim == 2 else np.dstack([picture, alpha])


@pytest.mark.slow
@pytest.mark.parametrize("name", placements.CONDITIONS)
def test_pictures_of_all_kinds(name):
    draw = np.random.default_rng(5)
    condition = placements.CONDITIONS[name]
    assert_alike([opaque(np.asarray(condition(image, draw))) for image in draw_digits(40, 5)[0]])


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_drawings(style):
    pictures = []
    for digit in range(len(DIGITS)):
        picture = Image.new("L", (200, 200), 255)
        placed, width = strokes(digit, style)
        for stroke in placed:
            points = [(200 * x, 200 * y) for x, y in stroke]
            ImageDraw.Draw(picture).line(points, 0, max(1, round(200 * width)), "curve")
        pictures.append(np.asarray(picture))
    answers = assert_alike(pictures)
    assert np.sum(answers == np.arange(10)) >= 9


def test_ties_go_the_same_way():
    """Symmetric digits, whose centre of mass lies right between two pixels."""
    sizes = ((20, 2), (20, 3), (20, 6), (20, 7), (8, 20), (60, 12), (99, 31))
    pictures = [paper((h + 20, w + 20), (10, 10, h + 10, w + 10)) for h, w in sizes]
    assert_alike([*pictures, *(255 - picture for picture in pictures)])


def test_noise_and_blank_pages():
    noise = np.random.default_rng(0).normal(0, 20, (100, 120))
    pages = blank_pages()
    for digit, image in enumerate(draw_digits(10, 7)[0]):
        drawn = np.full((100, 120), 200.0)
        drawn[30:86, 40:96] -= 0.6 * np.kron(image, np.ones((2, 2)))
        pages.append(uint8(drawn + noise * digit / 9))
    pages += [np.zeros((3, 200), np.uint8), np.arange(12, dtype=np.uint8).reshape(12, 1)]
    assert_alike(pages)


@pytest.mark.slow
def test_small_on_a_large_photo():
    photos = np.full((10, 901, 1203), 210, np.uint8)
    for at, photo, image in zip(range(100, 500, 40), photos, draw_digits(10, 8)[0], strict=True):
        photo[at : at + 28, 2 * at : 2 * at + 28] -= np.uint8(0.7 * image)
    assert_alike(photos)


def test_transparent_pages():
    pictures = []
    for image in draw_digits(10, 9)[0]:
        alpha = np.kron(image, np.ones((3, 3), np.uint8))
        for level in (0, 40, 255):
            pictures.append(np.dstack([np.full((84, 84, 3), level, np.uint8), alpha]))
    assert_alike(pictures)


@pytest.mark.slow
@pytest.mark.mnist
def test_a_thousand_test_images_are_answered_alike(mnist_dir):
    assert_alike(list(reading.load("mnist", "test", mnist_dir).images[:1000]))
