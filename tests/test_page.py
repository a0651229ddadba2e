"""The drawing page in a real browser: drawn on, answered, and looked at by its words."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_digits, serving
from drawing import (
    DESKTOP,
    DIGITS,
    IN_BROWSER,
    PHONE,
    STYLES,
    answer,
    chromium,
    draw,
    plain,
    rest,
    set_width,
    visit,
)
from PIL import Image

from keras_lenet.edge.classifier import Classifier, reference_model
from keras_lenet.edge.prepare import load, prepare
from keras_lenet.tflite import metadata_writer

pytestmark = IN_BROWSER


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def server():
    with serving(reference_model(), Classifier()) as opened:
        yield opened


@pytest.fixture
def address(server):
    return f"http://127.0.0.1:{server.effective_port}/"


@pytest.mark.parametrize(
    ("size", "touch", "styles"),
    [(DESKTOP, False, list(STYLES)), (PHONE, True, ["centred"])],
    ids=["desktop, mouse", "phone, touch"],
)
def test_digits_are_answered_as_they_are_drawn(browser, address, size, touch, styles):
    """And no other host is asked, not even when the page is loaded again."""
    asked, digits = set(), range(len(DIGITS))
    with visit(browser, address, size, touch) as page:
        page.on("request", lambda request: asked.add(request.url))
        answers = [draw(page, digit, styles[digit % len(styles)], touch) for digit in digits]
        page.reload()
        rest(page, "[data-digit='']")
    assert answers == [str(digit) for digit in digits]
    assert {url.rsplit("/", 1)[1] for url in asked} >= {"classify", "draw.js", "prepare.js"}
    assert all(url.startswith(address) for url in asked)


@pytest.mark.parametrize(
    ("sizes", "touch"),
    [([DESKTOP, (1024, 600)], False), ([PHONE, (360, 640)], True)],
    ids=["window", "phone"],
)
def test_it_fits_and_reads_well(browser, address, sizes, touch):
    with visit(browser, address, sizes[0], touch) as page:
        draw(page, 3, touch=touch)
        for width, height in sizes:
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            for name in ("#paper", "#undo", "#clear", "#width", "#digit"):
                box = page.locator(name).bounding_box()
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= width
                assert box["y"] + box["height"] <= height
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                pairs = page.evaluate(CONTRASTS)
                assert len(pairs) > 10
                assert [pair for pair in pairs if pair[1] < 4.5] == []


# Contrast of every text that shows, as WCAG 2 defines it.
CONTRASTS = """() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((value) => value / 255)
      .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const ground = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    const clear = colour === "rgba(0, 0, 0, 0)" && element.parentElement;
    return clear ? ground(element.parentElement) : colour;
  };
  const text = (node) => node.nodeType === 3 && node.data.trim();
  return [...document.querySelectorAll("body *")]
    .filter((element) => [...element.childNodes].some(text))
    .map((element) => {
      const [a, b] = [light(getComputedStyle(element).color), light(ground(element))];
      return [element.outerHTML, Math.max(a, b) / Math.min(a, b)];
    });
}"""


def test_touch_draws_and_does_not_scroll(browser, address):
    with visit(browser, address, (390, 500), touch=True) as page:
        assert draw(page, 1, touch=True) == "1"
        assert page.evaluate("scrollY") == 0
        second = page.context.new_cdp_session(page)
        box = page.locator("#paper").bounding_box()
        places = [
            {"x": box["x"] + 40, "y": box["y"] + 40},
            {"x": box["x"] + 200, "y": box["y"] + 90},
        ]
        places = [place | {"id": number} for number, place in enumerate(places)]
        for kind, points in (("touchStart", places), ("touchMove", places), ("touchEnd", [])):
            second.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        rest(page, "")
        page.locator("#undo").click()  # of two fingers, one drew
        page.locator("#undo").click()
        rest(page, "[data-digit='']")


def test_undo_and_clear(browser, address):
    with visit(browser, address) as page:
        assert page.locator("#undo").is_disabled()
        assert draw(page, 4) == "4"
        page.locator("#undo").click()
        assert answer(page) != "4"  # an angle is left
        page.keyboard.press("Control+z")
        rest(page, "[data-digit='']")
        assert draw(page, 2) == "2"
        page.locator("#clear").click()
        rest(page, "[data-digit='']")
        assert page.locator("#clear").is_disabled()
        assert "Draw in the square" in page.locator("#verdict").inner_text()


def test_the_keyboard_draws(browser, address):
    """A seven, by the arrow keys."""
    with visit(browser, address) as page:
        for _ in range(3):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "paper":
                break
        for keys in (["ArrowLeft"] * 3, ["ArrowUp"] * 5, ["Space"], ["ArrowRight"] * 6):
            for key in keys:
                page.keyboard.press(key)
        for _ in range(5):
            page.keyboard.press("ArrowDown")
            page.keyboard.press("ArrowDown")
            page.keyboard.press("ArrowLeft")
        page.keyboard.press("Space")
        assert answer(page) == "7"
        spoken = page.get_by_role("status")
        spoken.filter(has_text="7, ").wait_for(state="attached")
        page.keyboard.press("Backspace")
        rest(page, "[data-digit='']")


def test_it_says_what_it_shows(browser, address, server):
    with visit(browser, address) as page:
        draw(page, 8)
        bars = page.get_by_role("list", name="Probability of each digit").get_by_role("listitem")
        texts = bars.all_inner_texts()
        values = [float(re.search(r"([\d.]+) %", text)[1]) for text in texts]
        assert [text.split()[0] for text in texts] == [str(digit) for digit in range(10)]
        assert np.argmax(values) == 8
        assert abs(sum(values) - 100) < 1
        told = page.locator("#model").inner_text()
        assert re.match(r"lenet5_int8\.tflite, [\d.]+ kB, LiteRT on the server; ", told)
        assert re.search(r"prepared in \d+ ms, classified in [\d.]+ ms", told)
        for role, name in (("button", "Undo"), ("button", "Clear"), ("slider", "Stroke")):
            assert page.get_by_role(role, name=name).count() == 1
        assert page.get_by_label("Photo").count() == 1
        assert page.get_by_role("application", name="Drawing area").count() == 1


def seen(page):
    """The 28×28 pixels that the page shows."""
    levels = page.evaluate(
        "[...document.getElementById('seen').getContext('2d').getImageData(0, 0, 28, 28).data]"
    )
    return np.array(levels, np.uint8).reshape(28, 28, 4)[..., 0]


def test_a_photo(browser, address, tmp_path):
    """Is seen as Python sees it, and answered; what is no photo is told of."""
    exif = Image.Exif()
    exif[0x0112] = 6
    paper = Image.new("RGB", (800, 600), (240, 235, 220))
    digit = Image.fromarray(np.kron(draw_digits(10, 3)[0][5], np.ones((9, 9), np.uint8)))
    paper.paste((30, 40, 120), (350, 200), digit)
    stored = paper.rotate(90, expand=True)
    for name, image, options in (
        ("photo.png", paper, {}),
        ("turned.jpg", stored, {"exif": exif, "quality": 95}),
    ):
        image.save(tmp_path / name, **options)
        with visit(browser, address) as page:
            draw(page, 1)
            page.locator("#photo").set_input_files(tmp_path / name)
            rest(page, "[data-digit='5']")
            expected = prepare(load(tmp_path / name)).image
            assert np.abs(seen(page).astype(int) - expected).max() <= (
                2 if name == "photo.png" else 12
            )
            page.locator("#photo").set_input_files(Path(__file__))
            page.get_by_text("no picture that the browser can read").first.wait_for()
            page.locator("#undo").click()
            rest(page, "[data-digit='']")


def test_no_digit_and_a_threshold(browser, tmp_path):
    """Below the file's threshold the page says that it is no digit, as Python does."""
    described = metadata_writer.describe("lenet5", "", "1", "", 1.0)
    path = tmp_path / "strict.tflite"
    path.write_bytes(metadata_writer.attach(reference_model().read_bytes(), described, {}))
    with (
        serving(path, Classifier(path)) as opened,
        visit(browser, f"http://localhost:{opened.effective_port}/") as page,
    ):
        assert draw(page, 6) == "none"
        assert page.locator("#verdict").inner_text() == "No digit"
        assert "none that is clear: at best" in page.locator("#note").inner_text()
        assert page.locator("#bars .best").count() == 0


def test_a_server_that_has_gone(browser):
    with serving(reference_model(), Classifier()) as opened:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{opened.effective_port}/")
        rest(page, "[data-digit='']")
    page.locator("#paper").click()
    page.get_by_text("Is it still running?").first.wait_for(timeout=5000)
    context.close()


def test_a_tap_draws_a_dot(browser, address):
    """As wide as the stroke, on the paper and in what the model sees."""
    with visit(browser, address, PHONE, touch=True) as page:
        set_width(page, 0.2)
        page.locator("#paper").tap()
        answer(page)
        painted = np.array(page.evaluate(PAINTED), bool)
        side = round(len(painted) ** 0.5)
        rows, columns = np.nonzero(painted.reshape(side, side))
        for places in (rows, columns):
            assert abs(np.ptp(places) - 0.2 * side) <= 3
            assert abs(places.mean() - side / 2) <= 1
        image = seen(page)
        assert image[14, 14] == 255
        assert 0.7 < (image > 127).sum() / (np.pi * 10**2) < 1.1  # a disc of 20 pixels


PAINTED = """(() => {
  const paper = document.getElementById("paper"), side = paper.width;
  const { data } = paper.getContext("2d").getImageData(0, 0, side, side);
  return Array.from({ length: side * side }, (_, i) => data[4 * i + 3] > 127);
})()"""


def test_another_origin_reads_nothing(browser, address, tmp_path):
    """A page of another origin may ask, but gets no answer that it could read."""
    (tmp_path / "index.html").write_text("<!doctype html><title>elsewhere</title>")
    context = browser.new_context()
    page = context.new_page()
    with plain(tmp_path) as elsewhere:
        page.goto(elsewhere)
        outcomes = page.evaluate(ASK, address)
    context.close()
    assert outcomes == ["refused"] * 5


ASK = """async (address) => {
  const ask = async (path, options) => {
    try {
      return (await fetch(address + path, options)).type;
    } catch {
      return "refused";
    }
  };
  const body = JSON.stringify({ pixels: Array(784).fill(9) });
  const headers = { "Content-Type": "application/json" };
  return [
    await ask("model.json"),
    await ask("model.json", { mode: "no-cors" }),
    await ask("classify", { method: "POST", headers, body }),
    await ask("classify", { method: "POST", body }),
    await ask("classify", { method: "POST", body, mode: "no-cors" }),
  ];
}"""
