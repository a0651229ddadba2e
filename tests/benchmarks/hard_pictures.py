"""Hard pictures: digits on lined paper, cut tightly, beside neighbours and specks; empty cells.

Digits are MNIST training images. The development half has its own papers, images and seeds: the
limits of `edge.prepare` and `edge.page` were set by hand, looking at its contact sheets. The
held-out half gives the reported rows. Each kind of picture has a contact sheet below runs/.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from keras_lenet.edge.classifier import Classifier

CELL = 200  # pixels: side of a cell before it is photographed
PAPERS = {
    "development": ("ruled", "squared", "box", "dotted"),
    "held-out": ("double ruled", "small squares", "comb", "table", "dense dots"),
}
KINDS = ("tight crop", "neighbours and specks", "empty cell")
SHEET = 60  # pictures


def digit_coverage(image, height, generator):
    """Return ink coverage in [0, 1] of an MNIST digit, `height` pixels high, with some pen."""
    large = cv2.resize(image, (224, 224), interpolation=cv2.INTER_CUBIC)
    mask = (large > generator.uniform(90, 160)).astype(np.uint8)
    pen = generator.choice(["thin", "as written", "as written", "thick"])
    if pen == "thin":  # the middle of each stroke, by the distance from its edge
        distance = cv2.distanceTransform(np.pad(mask, 4), cv2.DIST_L2, 5)[4:-4, 4:-4]
        reach = 2 * int(distance.max()) + 1
        ridge = cv2.dilate(distance, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
        mask &= (distance > 0.45 * ridge).astype(np.uint8)
    elif pen == "thick":
        mask = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    x, y, w, h = cv2.boundingRect(mask)
    ink = mask[y : y + h, x : x + w].astype(np.float32)
    scale = height / max(h, w)
    size = (max(2, round(w * scale)), max(2, round(h * scale)))
    return np.clip(cv2.resize(ink, size, interpolation=cv2.INTER_AREA), 0, 1)


def put(page, coverage, x, y):
    """Lay ink on a page, in place; what is off the page is cut."""
    top, left = max(0, y), max(0, x)
    bottom, right = min(len(page), y + len(coverage)), min(page.shape[1], x + coverage.shape[1])
    if top < bottom and left < right:
        part = page[top:bottom, left:right]
        np.maximum(part, coverage[top - y : bottom - y, left - x : right - x], out=part)


def lines(paper, generator):
    """Return coverage by the paper's lines, (3 * CELL, 3 * CELL)."""
    side, zoom = 3 * CELL, 4
    page = np.zeros((side * zoom, side * zoom), np.uint8)
    width = round(zoom * generator.uniform(0.008, 0.025) * CELL)

    def draw(start, end, width=width):
        ends = [(round(zoom * x), round(zoom * y)) for x, y in (start, end)]
        cv2.line(page, *ends, 255, max(2, width))

    def rows(spacing, phase, width=width):
        for y in np.arange(phase, side, spacing):
            draw((0, y), (side, y), width)

    def columns(spacing, phase, width=width):
        for x in np.arange(phase, side, spacing):
            draw((x, 0), (x, side), width)

    def boxes(width_of_box, height_of_box, pitch):
        left, top = (side - width_of_box) / 2, (side - height_of_box) / 2
        for number in range(-3, 4):
            corner = left + number * pitch, top
            opposite = corner[0] + width_of_box, top + height_of_box
            if pitch or not number:
                for x in (corner[0], opposite[0]):
                    draw((x, corner[1]), (x, opposite[1]))
                for y in (corner[1], opposite[1]):
                    draw((corner[0], y), (opposite[0], y))

    baseline = side / 2 + 0.5 * 0.7 * CELL + generator.uniform(-0.1, 0.1) * CELL
    if paper == "ruled":
        spacing = generator.uniform(0.7, 1.2) * CELL
        rows(spacing, baseline % spacing)
    elif paper == "double ruled":
        spacing = generator.uniform(0.9, 1.3) * CELL
        rows(spacing, baseline % spacing)
        rows(spacing, (baseline - generator.uniform(0.3, 0.5) * spacing) % spacing, width // 2)
        draw((0.8 * CELL, 0), (0.8 * CELL, side))  # the margin
    elif paper in ("squared", "small squares"):
        spacing = generator.uniform(*((0.5, 1.1) if paper == "squared" else (0.25, 0.6))) * CELL
        rows(spacing, generator.uniform(0, spacing))
        columns(spacing, generator.uniform(0, spacing))
    elif paper == "box":
        box_width, box_height = generator.uniform(0.85, 1.2, 2) * CELL
        boxes(box_width, box_height, generator.choice([0, 1.3]) * CELL)
    elif paper == "comb":
        box_width = generator.uniform(0.75, 1.1) * CELL
        boxes(box_width, generator.uniform(0.9, 1.2) * CELL, box_width)
    elif paper == "table":
        pitch = generator.uniform(0.9, 1.4) * CELL
        rows(generator.uniform(0.9, 1.2) * CELL, side / 2 + 0.5 * CELL - CELL * 2, width)
        columns(pitch, (side - pitch) / 2 % pitch, width)
    else:
        step = (0.22, 0.4) if paper == "dotted" else (0.14, 0.25)
        spacing, radius = generator.uniform(*step) * CELL, zoom * generator.uniform(1.2, 2.6)
        for y in np.arange(generator.uniform(0, spacing), side, spacing):
            for x in np.arange(generator.uniform(0, spacing), side, spacing):
                cv2.circle(page, (round(zoom * x), round(zoom * y)), round(radius), 255, -1)
    return cv2.resize(page, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def photographed(ink, ruling, crop, generator):
    """Return a photo, uint8 (H, W, 3), of the crop (left, top, right, bottom) of a page.

    Perspective, a slant of up to 3 degrees, uneven light, a shadow's edge, blur, noise and JPEG.
    """
    paper = generator.uniform(190, 250) + generator.uniform(-12, 6, 3)
    pen = generator.uniform(20, 90) + generator.uniform(-15, 40) * np.array([1, 0.4, 0])
    line = paper - generator.uniform(0.2, 0.8) * (paper - generator.uniform(20, 90, 3))
    page = paper + ruling[..., None] * (line - paper)
    page += ink[..., None] * (pen - page)
    left, top, right, bottom = crop
    zoom = generator.uniform(0.5, 3.0)
    width, height = (max(24, round(zoom * side)) for side in (right - left, bottom - top))
    corners = np.float32([(left, top), (right, top), (right, bottom), (left, bottom)])
    middle, angle = corners.mean(axis=0), np.deg2rad(generator.uniform(-3, 3))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    jitter = generator.uniform(-0.02, 0.02, (4, 2)) * (right - left)
    seen = np.float32((corners - middle) @ turn.T + middle + jitter)
    target = np.float32([(0, 0), (width, 0), (width, height), (0, height)])
    matrix = cv2.getPerspectiveTransform(seen, target)
    method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    photo = cv2.warpPerspective(
        page.astype(np.float32),
        matrix,
        (width, height),
        flags=method,
        borderMode=cv2.BORDER_REPLICATE,
    )
    photo = cv2.GaussianBlur(
        photo, (0, 0), generator.uniform(0.3, 0.009 * max(width, height) / 2 + 0.5)
    )
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x / width - 0.5, y / height - 0.5
    slope = generator.uniform(0, 0.35)
    direction = generator.uniform(0, 2 * np.pi)
    light = 1 - slope * (0.5 + x * np.cos(direction) + y * np.sin(direction))
    if generator.random() < 0.3:
        edge = x * np.cos(direction + 1) + y * np.sin(direction + 1) - generator.uniform(-0.3, 0.3)
        light *= 1 - generator.uniform(0.1, 0.4) / (1 + np.exp(-edge * generator.uniform(10, 60)))
    photo = photo * light[..., None] + generator.normal(0, generator.uniform(0, 6), photo.shape)
    photo = np.clip(photo, 0, 255).astype(np.uint8)
    _, content = cv2.imencode(
        ".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, int(generator.integers(50, 96))]
    )
    return cv2.imdecode(content, cv2.IMREAD_COLOR)


def picture(image, neighbours, kind, generator):
    """Return a hard picture of an MNIST digit, uint8 (H, W, 3).

    Args:
        image: uint8 (28, 28).
        neighbours: further digits, uint8 (4, 28, 28).
        kind: a paper, one of `KINDS`, or both for an empty cell, as "empty cell, ruled".
        generator: source of random numbers.
    """
    kind, _, paper = kind.partition(", ")
    if kind not in KINDS:
        paper = kind
    side, height = 3 * CELL, round(generator.uniform(0.55, 0.8) * CELL)
    ink = np.zeros((side, side), np.float32)
    ruling = lines(paper, generator) if paper else np.zeros((side, side), np.float32)
    coverage = digit_coverage(image, height, generator)
    h, w = coverage.shape
    off = generator.uniform(-0.06, 0.06, 2) * CELL
    x, y = round((side - w) / 2 + off[0]), round((side - h) / 2 + off[1])
    margins = generator.uniform(0.08, 0.4, 4) * CELL
    if kind == "tight crop":
        margins = generator.choice([0.0, 0.02, 0.05]) * CELL * np.ones(4)
    box = np.array([x - margins[0], y - margins[1], x + w + margins[2], y + h + margins[3]])
    if paper in ("box", "comb", "table"):  # near the frame, inside or outside
        reach = generator.uniform(0.42, 0.75, 4) * CELL
        box = side / 2 + reach * np.array([-1, -1, 1, 1])
        box[:2] = np.minimum(box[:2], (x, y))
        box[2:] = np.maximum(box[2:], (x + w, y + h))
    if kind != "empty cell":
        put(ink, coverage, x, y)
    if kind == "neighbours and specks" or (kind != "tight crop" and generator.random() < 0.3):
        for number, (dx, dy) in enumerate([(-1, 0), (1, 0), (0, -1), (0, 1)]):
            other = digit_coverage(neighbours[number], height, generator)
            if generator.random() < 0.5:
                continue
            # The crop cuts off all of the neighbour but its rim.
            shown = generator.uniform(0.02, 0.12) * CELL
            across = round((box[0] - other.shape[1] + shown) if dx < 0 else (box[2] - shown))
            down = round((box[1] - len(other) + shown) if dy < 0 else (box[3] - shown))
            put(ink, other, across if dx else x, down if dy else y)
    if kind == "neighbours and specks":
        for _ in range(generator.integers(1, 7)):
            place = generator.uniform(box[:2], box[2:]).astype(int)
            radius = int(generator.integers(1, max(2, 0.022 * CELL)))
            speck = np.zeros((2 * radius + 1,) * 2, np.float32)
            cv2.circle(speck, (radius, radius), radius, 1, -1)
            put(ink, speck, *(place - radius))
    return photographed(ink, ruling, box, generator)


def kinds(half):
    """Return the kinds of pictures of a half."""
    empty = (f"empty cell, {paper}" for paper in PAPERS[half])
    return *PAPERS[half], "tight crop", "neighbours and specks", *empty


def pictures(kind, half, count):
    """Return `count` pictures of a kind and their digits; -1 for an empty cell."""
    from keras_lenet.data import reading

    folder = os.environ.get("KERAS_LENET_DATA")
    train = reading.load("mnist", "train", Path(folder) if folder else None)
    held_out = half == "held-out"
    generator = np.random.default_rng([kinds(half).index(kind), 2 * held_out])
    chosen = generator.integers(30_000 * held_out, 30_000 * (1 + held_out), (count, 5))
    made = [picture(train.images[row[0]], train.images[row[1:]], kind, generator) for row in chosen]
    digits = train.labels[chosen[:, 0]].astype(int)
    return made, np.full(count, -1) if kind.startswith("empty cell") else digits


def measured(kind, half, count, sheet=True):
    """Return the shares of right answers in percent: found by `prepare`, and accepted."""
    cv2.setNumThreads(1)
    made, digits = pictures(kind, half, count)
    classifier = Classifier()
    answers = [classifier.classify(each) for each in made]
    found = np.array([-1 if answer.digit is None else answer.digit for answer in answers])
    accepted = np.where([answer.accepted for answer in answers], found, -1)
    if sheet:
        from measure import ROOT

        # Mistakes first.
        order = np.argsort(found == digits, kind="stable")[:SHEET]
        folder = ROOT / "runs" / "hard pictures"
        folder.mkdir(parents=True, exist_ok=True)
        tiles = [tile(made[i], answers[i].prepared, found[i] == digits[i]) for i in order]
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 15)
        rows_of_tiles = [np.hstack(tiles[i : i + 15]) for i in range(0, len(tiles), 15)]
        cv2.imwrite(str(folder / f"{half}, {kind}.png"), np.vstack(rows_of_tiles))
    return 100 * np.mean(found == digits), 100 * np.mean(accepted == digits)


def tile(photo, prepared, right):
    """Return a picture with the digit's box, above what the model saw; red frames a mistake."""
    page = np.full((200, 100, 3), (128, 128, 128) if right else (0, 0, 255), np.uint8)
    scale = 96 / max(photo.shape[:2])
    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    page[2 : 2 + len(small), 2 : 2 + small.shape[1]] = small
    left, top, right_edge, bottom = (2 + round(scale * edge) for edge in prepared.box)
    cv2.rectangle(page, (left, top), (right_edge, bottom), (0, 0, 255))
    seen = cv2.resize(prepared.image, (96, 96), interpolation=cv2.INTER_NEAREST)
    page[102:198, 2:98] = seen[..., np.newaxis]
    return page


def rows(quick):
    """Return a row for each kind of the held-out half, in percent; a process for each core."""
    from measure import Row, cores

    count = 20 if quick else 500
    names = kinds("held-out")
    found = []
    with ProcessPoolExecutor(cores(), get_context("spawn")) as processes:
        shares = processes.map(partial(measured, half="held-out", count=count), names)
        for name, (share, accepted) in zip(names, shares, strict=True):
            note = f"{accepted:.1f} % with the model's own rejection"
            found.append(Row(f"{count} hard pictures", name, "%", share, note=note))
    return found
