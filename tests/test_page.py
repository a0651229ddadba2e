"""The drawing page in a real browser: drawn on, answered, and looked at by its words."""

import re
from pathlib import Path

import drawing
import numpy as np
import pytest
from conftest import draw_digits, serving
from drawing import DESKTOP, IN_BROWSER, PHONE, answer, draw, rest, set_width, visit
from PIL import Image

from keras_lenet.edge.classifier import Classifier, reference_model
from keras_lenet.edge.prepare import load, prepare
from keras_lenet.tflite import metadata_writer

pytestmark = IN_BROWSER


@pytest.fixture(scope="module")
def browser():
    with drawing.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def address():
    with serving(reference_model(), Classifier()) as opened:
        yield f"http://127.0.0.1:{opened.effective_port}/"


@pytest.fixture
def page(browser, address):
    with visit(browser, address) as opened:
        yield opened


def test_digits_are_answered_and_no_other_host_is_asked(page, address):
    asked = set()
    page.on("request", lambda request: asked.add(request.url))
    styles = [*drawing.STYLES, *drawing.STYLES]
    answers = [draw(page, digit, styles[digit]) for digit in range(10)]
    page.reload()
    rest(page, "[data-digit='']")
    assert answers == list("0123456789")
    assert {url.rsplit("/", 1)[1] for url in asked} >= {"classify", "draw.js", "prepare.js"}
    assert all(url.startswith(address) for url in asked)


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


@pytest.mark.parametrize(
    ("sizes", "touch"), [([DESKTOP, (1024, 600)], False), ([PHONE, (360, 640)], True)]
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


def test_touch_draws_with_one_finger_and_does_not_scroll(browser, address):
    with visit(browser, address, (390, 500), touch=True) as page:
        assert [draw(page, digit, touch=True) for digit in (4, 5, 1)] == ["4", "5", "1"]
        assert page.evaluate("scrollY") == 0
        two = [drawing.on_paper(page, 0.1, 0.1), drawing.on_paper(page, 0.6, 0.3)]
        drawing.touch_screen(page, ("touchStart", two), ("touchMove", two), ("touchEnd", []))
        rest(page, "")
        page.locator("#undo").click()
        page.locator("#undo").click()
        rest(page, "[data-digit='']")


def test_undo_and_clear(page):
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


def test_the_arrow_keys_draw(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "paper"
    seven = ["ArrowLeft"] * 3 + ["ArrowUp"] * 5 + ["Space"] + ["ArrowRight"] * 6
    for key in [*seven, *["ArrowDown", "ArrowDown", "ArrowLeft"] * 5, "Space"]:
        page.keyboard.press(key)
    assert answer(page) == "7"
    page.get_by_role("status").filter(has_text="7, ").wait_for(state="attached")
    page.keyboard.press("Backspace")
    rest(page, "[data-digit='']")


def test_it_says_what_it_shows(page):
    draw(page, 8)
    bars = page.get_by_role("list", name="Probability of each digit").get_by_role("listitem")
    texts = bars.all_inner_texts()
    values = [float(re.search(r"([\d.]+) %", text)[1]) for text in texts]
    assert [text.split()[0] for text in texts] == [str(digit) for digit in range(10)]
    assert np.argmax(values) == 8
    assert abs(sum(values) - 100) < 1
    model = page.locator("#model").inner_text()
    assert re.match(r"lenet5_int8\.tflite, [\d.]+ kB, LiteRT on the server; ", model)
    assert re.search(r"prepared in \d+ ms, classified in [\d.]+ ms", model)
    names = {"button": ["Undo", "Clear"], "slider": ["Stroke"], "application": ["Drawing area"]}
    for role, labels in names.items():
        assert all(page.get_by_role(role, name=label).count() == 1 for label in labels)
    assert page.get_by_label("Photo").count() == 1


def seen(page):
    """The 28×28 pixels that the page shows."""
    levels = page.evaluate(
        "[...document.getElementById('seen').getContext('2d').getImageData(0, 0, 28, 28).data]"
    )
    return np.array(levels, np.uint8).reshape(28, 28, 4)[..., 0]


@pytest.mark.parametrize("name", ["photo.png", "turned.jpg"])
def test_a_photo_is_seen_as_python_sees_it(page, tmp_path, name):
    exif, turned = Image.Exif(), name == "turned.jpg"
    exif[0x0112] = 6 if turned else 1
    paper = Image.new("RGB", (800, 600), (240, 235, 220))
    digit = Image.fromarray(np.kron(draw_digits(10, 3)[0][5], np.ones((9, 9), np.uint8)))
    paper.paste((30, 40, 120), (350, 200), digit)
    paper.rotate(90 * turned, expand=True).save(tmp_path / name, exif=exif, quality=95)
    draw(page, 1)
    page.locator("#photo").set_input_files(tmp_path / name)
    rest(page, "[data-digit='5']")
    np.testing.assert_array_equal(seen(page), prepare(load(tmp_path / name)).image)
    page.locator("#photo").set_input_files(Path(__file__))
    page.get_by_text("no picture that the browser can read").first.wait_for()
    page.locator("#undo").click()
    rest(page, "[data-digit='']")


def test_below_the_files_threshold_there_is_no_digit(browser, tmp_path):
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


def test_a_server_that_has_gone_is_told_of(browser):
    with browser.new_context() as context:
        page = context.new_page()
        with serving(reference_model(), Classifier()) as opened:
            page.goto(f"http://127.0.0.1:{opened.effective_port}/")
            rest(page, "[data-digit='']")
        page.locator("#paper").click()
        page.get_by_text("Is it still running?").first.wait_for(timeout=5000)


PAINTED = """(() => {
  const paper = document.getElementById("paper"), side = paper.width;
  const { data } = paper.getContext("2d").getImageData(0, 0, side, side);
  return Array.from({ length: side * side }, (_, i) => data[4 * i + 3] > 127);
})()"""


def test_a_tap_draws_a_dot_as_wide_as_the_stroke(browser, address):
    with visit(browser, address, PHONE, touch=True) as page:
        set_width(page, 0.2)
        page.locator("#paper").tap()
        answer(page)
        painted = np.array(page.evaluate(PAINTED), bool)
        side = round(len(painted) ** 0.5)
        for places in np.nonzero(painted.reshape(side, side)):
            assert abs(np.ptp(places) - 0.2 * side) <= 3
            assert abs(places.mean() - side / 2) <= 1
        image = seen(page)
        assert image[14, 14] == 255
        assert 0.7 < (image > 127).sum() / (np.pi * 10**2) < 1.1  # a disc of 20 pixels


ASK = """async (address) => {
  const body = JSON.stringify({ pixels: Array(784).fill(9) });
  const headers = { "Content-Type": "application/json" };
  const outcomes = [
    fetch(address + "model.json"),
    fetch(address + "model.json", { mode: "no-cors" }),
    fetch(address + "classify", { method: "POST", headers, body }),
    fetch(address + "classify", { method: "POST", body }),
    fetch(address + "classify", { method: "POST", body, mode: "no-cors" }),
  ];
  return (await Promise.allSettled(outcomes)).map(({ status }) => status);
}"""


def test_a_page_of_another_origin_reads_nothing(browser, address, tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html><title>elsewhere</title>")
    with drawing.plain(tmp_path) as elsewhere, browser.new_context() as context:
        page = context.new_page()
        page.goto(elsewhere)
        assert page.evaluate(ASK, address) == ["rejected"] * 5
