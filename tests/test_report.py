"""The report page: complete, self-contained, and true to the metrics."""

import functools
import html
import itertools
import json
import re
from html.parser import HTMLParser

import figures
import numpy as np
import pytest
from figures import changed

from keras_lenet.evaluation.metrics import Gate, Metrics
from keras_lenet.recipe import Recipe
from keras_lenet.reporting import page, plots, results
from keras_lenet.reporting.page import RunDetails


def check(text):
    """Check the properties that every page has; return its sections and the number of images."""
    elements = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: elements.append((tag, dict(attributes)))
    parser.feed(text)

    def every(tag, attribute):
        return [attributes.get(attribute) for found, attributes in elements if found == tag]

    # The page loads nothing and runs nothing.
    assert not re.search(r"https?:|@import|url\(", text)
    sources, sections = every("img", "src"), every("section", "id")
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not {tag for tag, _ in elements} & {"script", "link", "iframe", "object"}
    assert every("a", "href") == [f"#{section}" for section in sections]
    # Assistive technology finds names, captions and a proper outline.
    assert every("html", "lang") == ["en"]
    assert all(every("img", "alt") + every("th", "scope"))
    assert len(every("table", "class")) == len(every("caption", "class"))
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    return sections, len(sources)


def test_page_of_a_run_shows_its_metrics_files_and_recipe(finished):
    report, evaluation = finished.folder / "report", finished.folder / "evaluate"
    written = (report / "report.html").read_text()
    sections, images = check(written)
    assert sections == [
        "models", "training", "inside", "mistakes", "layers", "confidence", "rejection",
        "robustness", "speed", "origin",
    ]  # fmt: skip
    assert len(written) < 2_000_000
    pictures = sorted(path.name for path in report.glob("*.png"))
    assert pictures == ["feature_maps.png", "filters.png", "training.png"]
    metrics = Metrics.read(evaluation)
    with np.load(evaluation / "predictions.npz") as stored:
        predictions = dict(stored)
    for pair in metrics.paired:
        for part in pair.verdict.split(": ", 1):
            assert html.escape(part) in written
    for key, model in metrics.models.items():
        assert model.title in written
        assert f"{metrics.timings.models[key].p95_us:,.1f}" in written
    wrong = predictions["int8"].argmax(1) != predictions["labels"]
    flipped = predictions["int8"].argmax(1) != predictions["keras"].argmax(1)
    assert images == min(wrong.sum(), 10) + flipped.sum() + 9
    manifest = json.loads((finished.folder / "export" / "manifest.json").read_text())
    for name, described in manifest["files"].items():
        assert name in written
        assert described["sha256"] in written
    assert "&#34;epochs&#34;: 8" in written


DETAILS = RunDetails(Recipe(name="run"), {"curves": b"1"}, {"filters": b"2"}, {"a": "b"})


def everything(metrics=None, run=None):
    """The page of `figures.everything`, or of a change of it."""
    models = {"b.tflite": (4,), "a.tflite": (3, 4)}
    return page.page(metrics or figures.everything(), figures.predictions(**models), run)


def alone(title="a.keras", wrong=(3,)):
    """The page of one model file, of which only the accuracy was measured."""
    metrics = figures.metrics(figures.score(title, wrong))
    return page.page(metrics, figures.predictions(**{title: wrong}))


@pytest.fixture
def undrawn(monkeypatch):
    """Pages without their drawings, which take most of the time."""
    monkeypatch.setattr(plots, "png", lambda figure: b"")


def test_page_is_the_same_for_the_same_metrics():
    text = everything(run=DETAILS)
    assert text == everything(run=DETAILS)
    assert {"training", "inside"} <= set(check(text)[0])


@pytest.mark.parametrize("wrong", [(), (3,), (3, 4, 9)])
def test_page_of_one_file_has_no_empty_sections(wrong):
    text = alone(wrong=wrong)
    assert check(text)[0] == ["models", "mistakes", "confidence", "speed", "origin"]
    assert f"{len(wrong)} of {len(wrong)} mistakes, the most confident first." in text
    assert f"a.keras is right on {20 - len(wrong)} of 20 images." in text
    assert "No gates are set." in text
    assert "Disagreement" not in text


@pytest.mark.usefixtures("undrawn")
def test_another_dataset_than_the_recipes_is_a_warning():
    other = changed(figures.everything(), "dataset", "digits")
    assert "The recipe asks for mnist, which could not be had." in everything(other, DETAILS)
    assert "could not be had" not in everything(run=DETAILS)
    assert "could not be had" not in everything(other)


def test_names_are_text_and_never_markup():
    hostile = '<script>alert(1)</script>" $x$ \\frac $'
    text = alone(hostile)
    check(text)
    assert html.escape(hostile).replace("&quot;", "&#34;") in text


@pytest.mark.usefixtures("undrawn")
def test_galleries_end_after_a_number_of_images(monkeypatch):
    monkeypatch.setattr(page, "GALLERY", 2)
    wrong = (1, 2, 3, 4)
    metrics = figures.metrics(figures.score("b.tflite", ()), figures.score("a.keras", wrong))
    text = page.page(metrics, figures.predictions(**{"b.tflite": (), "a.keras": wrong}))
    assert "2 of 4 images, in the order of the test set." in text
    assert "2 of 4 mistakes, the most confident first." in text
    assert check(text)[1] == 4 + 2


@pytest.mark.usefixtures("undrawn")
def test_the_most_confident_mistakes_come_first():
    metrics = figures.metrics(figures.score("a.keras", (1, 2, 3)))
    predictions = figures.predictions(**{"a.keras": (1, 2, 3)})
    for position, confidence in ((1, 0.5), (2, 0.75), (3, 0.6)):
        predictions["a.keras"][position, position + 1] = confidence
    text = page.page(metrics, predictions)
    assert re.findall(r"image (\d+)</small>", text) == ["2", "3", "1"]
    assert re.findall(r"✗ (\d)</span>, (\d+%)", text) == [("3", "75%"), ("4", "60%"), ("2", "50%")]


@pytest.mark.usefixtures("undrawn")
def test_missed_gates_stand_at_the_top():
    gates = (
        Gate(gate="min_accuracy", figure=0.9, limit=0.99, met=False),
        Gate(gate="max_accuracy_drop", figure=-0.0, limit=0.001, met=True),
    )
    text = everything(changed(figures.everything(), "gates", gates))
    assert "Gates missed:</strong> min_accuracy." in text
    assert 'class="lead">a.tflite and b.tflite are indistinguishable<small>1.<' in text
    assert "1 of 2 met" in text
    assert re.search(r"max_accuracy_drop</th>\s*<td class=\"words\">✓ met</td>\s*<td>0</td>", text)


@pytest.mark.usefixtures("undrawn")
def test_op_with_the_greatest_loss_is_named():
    metrics, way = figures.everything(), "quantization_noise a.tflite"
    assert "a.tflite loses the most in SOFTMAX: 10.0 dB, down to 30.0 dB." in everything(metrics)
    (first, _) = metrics.quantization_noise["a.tflite"]
    other = first.model_copy(update={"drop_db": 30.0, "sqnr_db": 12.0})
    text = everything(changed(metrics, way, (first, other)))
    assert "a.tflite loses the most in CONV_2D 2: 30.0 dB, down to 12.0 dB." in text
    gains = tuple(first.model_copy(update={"drop_db": drop}) for drop in (None, -1.0))
    assert "a.tflite loses nothing." in everything(changed(metrics, way, gains))


def lines(text):
    """The captions and the rows of the tables of a page; cells stand between bars."""
    found = re.findall(r"<caption>.*?</caption>|<tr>.*?</tr>", text, re.DOTALL)
    return [
        html.unescape(" | ".join(re.findall(r"<(?:t[hd]|caption)[^>]*>(.*?)</", line)))
        for line in found
    ]


@pytest.mark.usefixtures("undrawn")
def test_every_table_and_sentence_shows_the_metrics():
    first = figures.everything().robustness.corruptions["fog"]["a.tflite"]
    better = first.model_copy(update={"raw": (1.0, 0.875), "prepared": (0.5, 0.5)})
    times = {"p50_us": 1234.5, "p95_us": 2345.6, "batched_images_per_second": 4567}
    metrics = functools.reduce(
        lambda metrics, change: changed(metrics, *change),
        [
            ("models a.tflite difference", -0.0625),
            ("models a.tflite agreement", 0.75),
            ("models a.tflite bytes", 250),
            ("models a.tflite calibration error", 0.0625),
            ("models b.tflite calibration error", 0.5),
            ("timings models a.tflite", figures.timing(**times)),
            ("robustness corruptions", lambda found: found | {
                "gaussian_noise": {"b.tflite": first, "a.tflite": better}}),
        ],
        figures.everything(),
    )  # fmt: skip
    text = everything(metrics)
    facts = re.findall(r"<d[td][^>]*>(.*?)</d[td]>", text)
    assert [re.sub("</?small>", "", fact) for fact in facts] == [
        "Accuracy of a.tflite", "90.00%", "95 % interval: 70.00 to 100.00",
        "Difference from b.tflite", "-6.25 points", "another answer on 5 of 20",
        "Size", "250 bytes", "25% of b.tflite",
        "Gates", "1 of 1 met",
    ]  # fmt: skip
    for part in (
        "another answer on 5 of 20",
        "give the same class on 50.00% of the images.",
        "Test set of mnist, 20 images.",
        "from b.tflite, and share of the same class. Time: median of one image at a time, on CPU;",
        ".tflite: 1 thread, a CPU. a.tflite has an optimized layout; its outputs differ on 3 ",
        "by at most 2 (reference kernels)",
        "confidence of 0.25 or more are accepted. Of the accepted test images, 75.00% are right.",
        "20 test images, corrupted in every way and severity; 10 of them,",
        "Arena, the memory on a microcontroller: 500 bytes. measured.",
    ):
        assert part in text, part
    found = lines(text)
    assert found[: found.index("Versions")] == [
        "Gates", "gate | verdict | figure | limit", "min_accuracy | ✓ met | 0.9 | at least 0.75",
        "Accuracy, size and time", " | ".join(results.HEADER),
        "b.tflite | 19 | 95.00% | 70.00 to 100.00 | +0.00 pt | 100.00% | 1,000 | 1 µs | XNNPACK",
        "a.tflite | 18 | 90.00% | 70.00 to 100.00 | -6.25 pt | 75.00% | 250 | 1,234 µs | XNNPACK",
        "a.tflite",
        "op | values | SQNR, dB | loss, dB | largest error | saturated | range",
        "CONV_2D | 4 × 4 | 40.0 | 8.0 | 0.25 | 12.50% | -1 to 1",
        "SOFTMAX | 10 | 30.0 | 10.0 | 0.5 | 25.00% | 0 to 1",
        "Expected calibration error", "model | ECE, points", "b.tflite | 50.00", "a.tflite | 6.25",
        "Pictures that a.tflite rejects",
        "picture of | rejected by classify | rejected by the threshold | of",
        "letters | 50.0% | 25.0% | 8", "test images |  | 5.00% | 20",
        "Mean over all corruptions and severities",
        "model | as they come | prepared | mean corruption error",
        "b.tflite | 50.0% | 25.0% | 0.750", "a.tflite | 50.0% | 25.0% | 0.750",
        "a.tflite, images as they come; last column: prepared",
        "corruption | severity 1 | severity 2 | mean | prepared",
        "gaussian noise | 100.0% | 87.5% | 93.8% | 50.0%", "fog | 75.0% | 50.0% | 62.5% | 37.5%",
        "Time of one image, and images a second",
        "model | kernel set | median, µs | 95th percentile, µs | images/s in batches",
        "b.tflite | XNNPACK | 1.0 | 2.0 | 3", "a.tflite | XNNPACK | 1,234.5 | 2,345.6 | 4,567",
    ]  # fmt: skip
