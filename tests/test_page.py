"""The drawing page in a real browser: drawn on, answered, and looked at by its words."""

import contextlib
import threading

import pytest
from drawing import DIGITS, STYLES, chromium, strokes

from keras_lenet.edge.classifier import Classifier, reference_model
from keras_lenet.edge.server import Server

DESKTOP, PHONE = (1280, 800), (390, 844)


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def server():
    path = reference_model()
    opened = Server("127.0.0.1", 0, path, Classifier(path))
    threading.Thread(target=opened.serve_forever, daemon=True).start()
    yield opened
    opened.shutdown()
    opened.server_close()


@contextlib.contextmanager
def visit(browser, address, size=DESKTOP, touch=False, **options):
    """The page, ready to draw on; fails at the end where its console has an error."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, has_touch=touch, is_mobile=touch, **options
    )
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    try:
        page.goto(address)
        rest(page, "[data-digit='']")
        yield page
        assert problems == []
    finally:
        context.close()


@pytest.fixture
def address(server):
    return f"http://127.0.0.1:{server.server_port}/"


def set_width(page, width):
    page.locator("#width").evaluate("(slider, value) => { slider.value = value; }", 100 * width)


def draw(page, digit, style="centred", touch=False):
    """Clear the paper, draw, and return what the page says once it has come to rest."""
    placed, width = strokes(digit, style)
    page.locator("#clear").evaluate("(button) => button.click()")
    rest(page, "[data-digit='']")
    set_width(page, width)
    box = page.locator("#paper").bounding_box()
    at = [
        [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        for stroke in placed
    ]
    (by_touch if touch else by_mouse)(page, at)
    return answer(page)


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


def by_mouse(page, at):
    for stroke in at:
        page.mouse.move(*stroke[0])
        page.mouse.down()
        for point in stroke[1:]:
            page.mouse.move(*point)
        page.mouse.up()


def by_touch(page, at):
    session = page.context.new_cdp_session(page)

    def send(kind, *points):
        session.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]},
        )

    for stroke in at:
        send("touchStart", stroke[0])
        for point in stroke[1:]:
            send("touchMove", point)
        send("touchEnd")
    session.detach()


@pytest.mark.parametrize(
    ("size", "touch"), [(DESKTOP, False), (PHONE, True)], ids=["desktop, mouse", "phone, touch"]
)
def test_digits_are_answered_as_they_are_drawn(browser, address, size, touch):
    with visit(browser, address, size, touch) as page:
        wrong = {
            (digit, style): said
            for style in STYLES
            for digit in range(len(DIGITS))
            if (said := draw(page, digit, style, touch)) != str(digit)
        }
    assert len(wrong) <= 0.05 * len(STYLES) * len(DIGITS), wrong
