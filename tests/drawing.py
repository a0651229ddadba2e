"""Ten digits as a hand draws them, and a real browser to draw them on the page.

`python tests/drawing.py` draws a 7 and writes the screenshot that the README shows, `page.png`.
"""

import contextlib
import functools
import http.server
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

IN_BROWSER = [pytest.mark.browser, pytest.mark.needs("chromium", "playwright")]
"""Marks of a test that asks for `chromium`."""
DESKTOP, PHONE = (1280, 800), (390, 844)


def arc(x, y, across, down, start, end, count=16):
    """Points on an ellipse around (x, y), clockwise; `start` and `end` are turns from its right."""
    turn = 2 * np.pi * np.linspace(start, end, count)
    points = np.stack([x + across * np.cos(turn), y + down * np.sin(turn)], axis=1)
    return [tuple(point) for point in points.tolist()]


# Strokes in a box of 0.7 by 1.
DIGITS = [
    [arc(0.35, 0.5, 0.3, 0.48, -0.25, -1.25, 32)],
    [[(0.25, 0.16), (0.4, 0.02), (0.4, 1.0)]],
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
]

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


@contextlib.contextmanager
def chromium():
    """A Chromium driven by Playwright, without requests of its own."""
    from playwright.sync_api import sync_playwright  # not installed everywhere

    switches = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    switches += ["--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        with playwright.chromium.launch(executable_path=path, args=switches) as browser:
            yield browser


@contextlib.contextmanager
def visit(browser, address, size=DESKTOP, touch=False, strict=True):
    """The page, ready to draw on; fails at the end if a script has, or the console has an error.

    LiteRT.js logs everything there as an error; hence `strict`.
    """
    viewport = dict(zip(("width", "height"), size, strict=True))
    problems = []
    with browser.new_context(viewport=viewport, has_touch=touch, is_mobile=touch) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        if strict:
            page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.goto(address)
        rest(page, "[data-digit='']")
        yield page
        assert problems == []


def set_width(page, width):
    page.locator("#width").evaluate("(slider, value) => { slider.value = value; }", 100 * width)


def draw(page, digit, style="centred", touch=False):
    """Clear the paper, draw, and return what the page says once it has come to rest."""
    placed, width = strokes(digit, style)
    page.locator("#clear").evaluate("(button) => button.click()")
    rest(page, "[data-digit='']")
    set_width(page, width)
    for stroke in placed:
        points = [on_paper(page, *point) for point in stroke]
        if touch:
            touches = [("touchStart", points[:1])]
            touches += [("touchMove", [point]) for point in points[1:]]
            touch_screen(page, *touches, ("touchEnd", []))
            continue
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()
    return answer(page)


def on_paper(page, x, y):
    box = page.locator("#paper").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def touch_screen(page, *touches):
    """Send touches: their type, and the places of all fingers."""
    session = page.context.new_cdp_session(page)
    for kind, places in touches:
        points = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    session.detach()


def answer(page):
    """What the page answers when it has come to rest."""
    return rest(page, ":not([data-digit=''])").get_attribute("data-digit")


def rest(page, which):
    """Wait until the page has answered all that was drawn, and is as `which` selects it.

    By a selector, for the page's own policy forbids the evaluation of a waiting function.
    """
    body = page.locator(f"body[data-digit]{which}:not([aria-busy])")
    body.wait_for(state="attached")
    return body


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@contextlib.contextmanager
def plain(folder):
    """A folder on a plain file server; yields its address."""
    handler = functools.partial(_Files, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def main():
    """Write a screenshot of the page that answers a drawn 7."""
    from conftest import serving

    from keras_lenet.edge.classifier import Classifier, reference_model

    model = reference_model()
    with serving(model, Classifier(model)) as server, chromium() as browser:
        address = f"http://127.0.0.1:{server.effective_port}/"
        with visit(browser, address, (900, 640)) as page:
            assert draw(page, 7) == "7"
            page.wait_for_timeout(1000)  # the bars move
            page.screenshot(path=Path(__file__).with_name("page.png"))


if __name__ == "__main__":
    main()
