"""What preparation costs: MNIST's test digits, as pictures of many kinds, prepared and classified.

The accuracy of the reference int8 model on the test images in each kind of picture, beside that on
the same images as they are. Where no digit is found, that counts as a mistake.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from PIL import Image

from keras_lenet.edge.classifier import Classifier
from keras_lenet.edge.prepare import prepare

LUMA = (0.299, 0.587, 0.114)
CONTRAST = 64  # least difference in luma between ink and paper, of 255
SHADE = 0.4  # share of the light that is left at the dark end of the page


def off_centre(image, draw):
    """Place on a page of 44×44, up to 8 pixels off the centre; in proportion if scaled."""
    room = round(len(image) * 16 / 28)
    top, left = draw.integers(0, room, 2, endpoint=True)
    return np.pad(image, ((top, room - top), (left, room - left)))


def scaled(image, draw):
    """Scale to half or up to three times the size."""
    side = round(len(image) * draw.uniform(0.5, 3))
    method = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[draw.integers(2)]
    return np.asarray(Image.fromarray(image).resize((side, side), method))


def coloured(image, draw):
    """Paint with ink of one colour on paper of another, either of them lighter: (H, W, 3)."""
    while True:
        ink, paper = draw.integers(0, 256, (2, 3))
        if abs((ink - paper) @ LUMA) >= CONTRAST:
            return painted(image, ink, paper)


def lit(image, draw):
    """Paint near black on near white or the reverse, darker towards one side."""
    ink, paper = draw.permutation([(20, 20, 20), (235, 235, 235)])
    return shaded(painted(image, ink, paper), draw)


def together(image, draw):
    return shaded(coloured(off_centre(scaled(image, draw), draw), draw), draw)


def painted(image, ink, paper):
    """Mix colours by how much of each pixel the ink covers: (H, W, 3)."""
    share = image[..., np.newaxis] / 255
    return np.rint(share * ink + (1 - share) * paper).astype(np.uint8)


def shaded(picture, draw):
    """Let the light fall off evenly along a random direction."""
    angle = draw.uniform(0, 2 * np.pi)
    y, x = np.indices(picture.shape[:2])
    along = x * np.cos(angle) + y * np.sin(angle)
    light = SHADE + (1 - SHADE) * (along - along.min()) / np.ptp(along)
    return np.rint(picture * light[..., np.newaxis]).astype(np.uint8)


CONDITIONS = {
    "clean": lambda image, draw: image,
    "off-centre by up to 8 pixels": off_centre,
    "inverted": lambda image, draw: 255 - image,
    "scaled by 0.5 to 3": scaled,
    "coloured ink on coloured paper": coloured,
    "light falling off to 40 %": lit,
    "all of these together": together,
}


def answers(classifier, name, images):
    """Return the digit in a picture of each image under one condition; -1 where none was found.

    The same images always make the same pictures.
    """
    draw = np.random.default_rng(0)
    found = [prepare(CONDITIONS[name](image, draw)) for image in images]
    digits = classifier.predict(np.stack([result.image for result in found])).argmax(axis=1)
    return np.where([result.found for result in found], digits, -1)


def alone(name, images):
    """Return the same, in a process of its own."""
    return answers(Classifier(), name, images)


def rows(quick):
    """Return a row for each condition and kind of hard picture, in percent."""
    import hard_pictures
    from measure import Row, cores, mnist

    test = mnist("test")
    images, labels = (part[: 20 if quick else None] for part in (test.images, test.labels))
    plain = 100 * np.mean(Classifier().predict(images).argmax(axis=1) == labels)
    case = f"{len(images):,} test images"
    found = [Row(case, "as they are, not prepared", "%", plain)]
    with ProcessPoolExecutor(cores(), get_context("spawn")) as processes:
        digits_by_name = processes.map(alone, CONDITIONS, [images] * len(CONDITIONS))
        for name, digits in zip(CONDITIONS, digits_by_name, strict=True):
            accuracy = 100 * np.mean(digits == labels)
            note = f"{accuracy - plain:+.2f} points; no digit found on {np.sum(digits < 0)}"
            found.append(Row(case, name, "%", accuracy, note=note))
    return found + hard_pictures.rows(quick)
