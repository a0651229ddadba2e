"""Out-of-distribution (OOD) examples: outliers to train with, probes to evaluate with.

A network trained on digits alone is as sure of a letter as of a digit. Outliers with the uniform
distribution as target teach low confidence (outlier exposure: Hendrycks, Mazeika and Dietterich,
"Deep Anomaly Detection with Outlier Exposure", ICLR 2019). As the paper demands, probes differ from
the outliers: letters of other typefaces, scribbles by another method.

The fonts are those that matplotlib carries. Outliers leave out everything that looks like a digit,
such as O, l, Z, S, B or a plain circle.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from keras_lenet.edge.prepare import prepare

Drawing = NDArray[np.uint8]  # (72, 72) or (28, 28), 0 = background, 255 = ink

SIZE = 28
LETTERS = "AEFHKLMNPRTUVWXYadefhkmnprtuvwxy"
"""Latin letters that look like no digit."""
AMBIGUOUS = "COQDISZBGJocijlsqzbg"
"""Latin letters that look like digits."""
LIKE_DIGITS = "letters like digits"
"""Kind of probe that a classifier may take for digits."""
SIGNS = "ΔΘΛΞΠΣΦΨΩηκλμπφχψωЖШЩЮФЯЦДЫЙ#&@%+=<>*^~€£¶♥♦♠♣☺→←↑↓∞∫√∇∈∀∃⊕△□◇"
LEARNT_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
)
OTHER_FONTS = ("STIXGeneral", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10")

_CANVAS = 72  # pixels a side of a drawing, before `prepare` makes it 28×28


def draw(count: int, seed: int) -> NDArray[np.uint8]:
    """Draw outliers to train with: letters and signs (half), scribbles, and some noise.

    The result is uint8, (count, 28, 28), 0 = background, 255 = ink, centred as MNIST's digits.
    """
    generator = np.random.default_rng(seed)
    images = np.zeros((count, SIZE, SIZE), np.uint8)
    for image in images:
        kind = generator.random()
        if kind < 0.5:
            drawing = _glyph(generator, LETTERS * 2 + SIGNS, LEARNT_FONTS)
        elif kind < 0.9:
            drawing = _curves(generator)
        else:
            drawing = _texture(generator)
        image[:] = fitted(drawing)
    return images


def probes(count: int, seed: int) -> dict[str, list[Drawing]]:
    """Draw probes to evaluate with: `count` drawings of each kind. `draw` draws no such kind."""
    generator = np.random.default_rng(seed)
    kinds: dict[str, Callable[[], Drawing]] = {
        "blank": lambda: _noise(generator, 0, generator.uniform(0, 4)),
        "full ink": lambda: _noise(generator, 255, generator.uniform(0, 4)),
        "noise": lambda: _noise(generator, generator.uniform(0, 255), generator.uniform(20, 120)),
        "letters": lambda: _glyph(generator, LETTERS, OTHER_FONTS),
        "scribbles": lambda: _wander(generator),
        LIKE_DIGITS: lambda: _glyph(generator, AMBIGUOUS, OTHER_FONTS),
    }
    return {kind: [drawing() for _ in range(count)] for kind, drawing in kinds.items()}


def fitted(drawing: Drawing) -> NDArray[np.uint8]:
    """Return a drawing as a model gets it: unchanged if 28×28, else prepared."""
    return drawing if drawing.shape == (SIZE, SIZE) else prepare(drawing).image


def _glyph(generator: np.random.Generator, characters: str, fonts: tuple[str, ...]) -> Drawing:
    """Draw a letter or a sign, rotated, sheared, squeezed, and sometimes thicker."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    font = ImageFont.truetype(folder / f"{fonts[generator.integers(len(fonts))]}.ttf", 40)
    character = characters[generator.integers(len(characters))]
    drawing = Image.new("L", (_CANVAS, _CANVAS))
    ImageDraw.Draw(drawing).text((_CANVAS / 2, _CANVAS / 2), character, 255, font, anchor="mm")
    if generator.integers(2):
        drawing = drawing.filter(ImageFilter.MaxFilter(3))
    angle, shear = np.deg2rad(generator.uniform(-15, 15)), generator.uniform(-0.3, 0.3)
    across, down = generator.uniform(0.8, 1.25, 2)
    a = across * (np.cos(angle) + shear * np.sin(angle))
    b = across * (shear * np.cos(angle) - np.sin(angle))
    c, d = down * np.sin(angle), down * np.cos(angle)
    middle = _CANVAS / 2
    matrix = (a, b, middle * (1 - a - b), c, d, middle * (1 - c - d))
    return np.asarray(
        drawing.transform(drawing.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    )


def _curves(generator: np.random.Generator) -> Drawing:
    """Draw one long stroke or several short ones, each a smooth curve through random points."""
    strokes = generator.integers(1, 5)
    curves = []
    for _ in range(strokes):
        points = generator.integers(7, 12) if strokes == 1 else generator.integers(3, 7)
        curves.append(_spline(generator.uniform(10, _CANVAS - 10, (points, 2))))
    return _draw_lines(curves, int(generator.integers(3, 9)))


def _spline(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a Catmull-Rom curve through `points`, (N, 2): twelve positions between neighbours."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    before, start, end, after = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = np.linspace(0, 1, 12)[:, np.newaxis, np.newaxis]
    cubic = 3 * (start - end) + after - before
    curve = start + t / 2 * (
        end - before + t * (2 * before - 5 * start + 4 * end - after + t * cubic)
    )
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def _wander(generator: np.random.Generator) -> Drawing:
    """Draw a random walk that turns back at the edge; now and then the pen is lifted."""
    place, speed = generator.uniform(20, _CANVAS - 20, 2), np.zeros(2)
    lines: list[list[NDArray[np.float64]]] = [[]]
    for _ in range(generator.integers(60, 200)):
        speed = 0.85 * speed + generator.normal(0, 1.6, 2)
        outside = (place + speed < 10) | (place + speed > _CANVAS - 10)
        speed = np.where(outside, -speed, speed)
        place = place + speed
        if generator.random() < 0.01:
            lines.append([])
            place = generator.uniform(20, _CANVAS - 20, 2)
        lines[-1].append(place)
    return _draw_lines([np.array(line) for line in lines if len(line) > 1], 4)


def _draw_lines(lines: list[NDArray[np.float64]], width: int) -> Drawing:
    drawing = Image.new("L", (_CANVAS, _CANVAS))
    pen = ImageDraw.Draw(drawing)
    for line in lines:
        pen.line([tuple(point) for point in line], 255, width, joint="curve")
    return np.asarray(drawing)


def _texture(generator: np.random.Generator) -> Drawing:
    """Draw an even grey, or cells of random greys, fine or coarse, dense or sparse."""
    grain = int(generator.choice([1, 2, 4, 7, 28]))
    cells = generator.uniform(0, 1, (SIZE // grain, SIZE // grain))
    if generator.integers(2):
        cells = (cells < generator.uniform(0.02, 1)).astype(float)
    level = generator.uniform(0, 255)
    return np.rint(level * cells.repeat(grain, 0).repeat(grain, 1)).astype(np.uint8)


def _noise(generator: np.random.Generator, level: float, deviation: float) -> Drawing:
    values = generator.normal(level, deviation, (SIZE, SIZE))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
