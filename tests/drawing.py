"""Ten digits as a hand draws them, and a real browser to draw them in."""

import contextlib
import shutil

import numpy as np
import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Nothing that a browser does of its own accord: no look at the network, no updates.
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def chromium():
    """A Chromium driven by Playwright; the test is skipped where one of them is missing."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no Chromium here: none of {', '.join(BROWSERS)} is on PATH")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=SWITCHES)
        try:
            yield browser
        finally:
            browser.close()


def arc(x, y, across, down, start, end, count=16):
    """Points on an ellipse around (x, y), clockwise; `start` and `end` are turns from its right."""
    turn = 2 * np.pi * np.linspace(start, end, count)
    return list(
        zip((x + across * np.cos(turn)).tolist(), (y + down * np.sin(turn)).tolist(), strict=True)
    )


# Strokes in a box of 0.7 by 1.
DIGITS = [
    [arc(0.35, 0.5, 0.3, 0.48, -0.25, -1.25, 32)],
    [[(0.2, 0.2), (0.4, 0.02), (0.4, 1.0)]],
    [[*arc(0.35, 0.28, 0.28, 0.26, -0.5, 0.08), (0.08, 0.98), (0.68, 0.98)]],
    [[*arc(0.33, 0.25, 0.27, 0.23, -0.42, 0.25), *arc(0.33, 0.73, 0.31, 0.25, -0.25, 0.42)]],
    [[(0.2, 0.03), (0.06, 0.55), (0.66, 0.55)], [(0.5, 0.08), (0.48, 1.0)]],
    [
        [(0.14, 0.02), (0.1, 0.42), *arc(0.32, 0.68, 0.3, 0.29, -0.33, 0.38)],
        [(0.14, 0.02), (0.62, 0.02)],
    ],
    [[(0.5, 0.02), (0.22, 0.3), *arc(0.35, 0.7, 0.27, 0.28, 0.5, -0.5, 32)]],
    [[(0.04, 0.04), (0.66, 0.04), (0.28, 1.0)]],
    [[*arc(0.35, 0.25, 0.22, 0.23, 0.25, -0.75), *arc(0.35, 0.74, 0.27, 0.25, -0.25, 0.75)]],
    [[*arc(0.36, 0.28, 0.26, 0.26, -0.05, -1.0, 24), (0.62, 0.3), (0.52, 1.0)]],
]  # fmt: skip

# Height, place of the box's middle, and width of the stroke, all in parts of the paper's side.
STYLES = {
    "centred": (0.6, (0.5, 0.5), 0.07),
    "off-centre": (0.45, (0.28, 0.68), 0.06),
    "small": (0.2, (0.6, 0.4), 0.03),
    "large": (0.88, (0.5, 0.5), 0.08),
    "thick": (0.65, (0.5, 0.5), 0.12),
    "thin": (0.6, (0.5, 0.5), 0.01),
}


def strokes(digit, style):
    """The strokes of a digit on a paper of side 1, and their width."""
    height, (x, y), width = STYLES[style]
    placed = [
        [(x + height * (u - 0.35), y + height * (v - 0.5)) for u, v in stroke]
        for stroke in DIGITS[digit]
    ]
    return placed, width
