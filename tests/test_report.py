"""The page of a run: whole, self-contained, and true to what was measured."""

import copy
import functools
import html
import itertools
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from keras_lenet import artifacts
from keras_lenet.evaluation import confidence, results
from keras_lenet.recipe import Recipe
from keras_lenet.reporting import plots
from keras_lenet.stages import report


class Page(HTMLParser):
    """What a page is made of: its elements in order, and its ids."""

    def __init__(self, text):
        super().__init__()
        self.text, self.elements = text, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def all(self, tag, attribute):
        return [attributes.get(attribute) for found, attributes in self.elements if found == tag]

    @property
    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    @property
    def sections(self):
        return self.all("section", "id")


@pytest.fixture(scope="module")
def written(finished):
    return (finished.folder / "report" / "report.html").read_text()


@pytest.fixture(scope="module")
def measured(finished):
    """What the evaluation found, and the arrays beside it; to be copied before it is changed."""
    with np.load(finished.folder / "evaluate" / "predictions.npz") as stored:
        return results.read(finished.folder / "evaluate"), dict(stored)


def check(text):
    """Hold a page to what every one must be; returns it parsed."""
    page = Page(text)
    # Nothing is asked for from anywhere, and nothing runs.
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    sources = [value for _, found in page.elements for key, value in found.items() if key == "src"]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not any(tag in ("script", "link", "iframe", "object") for tag, _ in page.elements)
    # Every id is one, and every reference has its target.
    assert len(page.ids) == len(set(page.ids))
    targets = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
    assert set(targets) <= set(page.ids)
    # Whoever can't see it is told.
    assert page.all("html", "lang") == ["en"]
    assert "viewport" in page.all("meta", "name")
    assert all(page.all("img", "alt"))
    assert all(role for role in page.all("th", "scope"))
    drawings = [found for _, found in page.elements if found.get("role") == "img"]
    assert len(drawings) == len(page.all("svg", "viewbox"))
    assert all(found["aria-label"] for found in drawings)
    assert len(page.all("table", "class")) == len(page.all("caption", "class"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    return page


def test_the_page_is_whole_and_self_contained(finished, written):
    page = check(written)
    assert page.sections == [
        "models", "training", "inside", "mistakes", "layers", "confidence", "rejection",
        "robustness", "speed", "origin",
    ]  # fmt: skip
    assert page.all("a", "href") == [f"#{section}" for section in page.sections]
    assert len(written) < 1_500_000
    pictures = sorted(path.name for path in (finished.folder / "report").glob("*.png"))
    assert pictures == ["feature_maps.png", "filters.png", "training.png"]


def test_the_page_says_what_was_measured(measured, written):
    metrics, predictions = measured
    for pair in metrics["paired"]:
        for part in pair["verdict"].split(": ", 1):
            assert html.escape(part) in written
    for key, model in metrics["models"].items():
        assert model["title"] in written
        assert f"{metrics['timings']['models'][key]['p95_us']:,.1f}" in written
    wrong = predictions["int8"].argmax(1) != predictions["labels"]
    flipped = predictions["int8"].argmax(1) != predictions["keras"].argmax(1)
    images = Page(written).all("img", "alt")
    assert len(images) == min(wrong.sum(), 10) + flipped.sum() + 3
    for kind in metrics["rejection"]["outliers"]:
        assert kind in written
    assert "&#34;epochs&#34;: 8" in written


def test_the_page_names_the_files_it_stands_for(finished, written):
    manifest = json.loads((finished.folder / "export" / "manifest.json").read_text())
    for name, described in manifest["files"].items():
        assert name in written
        assert described["sha256"] in written


def test_a_run_of_an_earlier_version_has_no_image_to_follow(finished, tmp_path):
    shutil.copy(finished.folder / "train" / "model.keras", tmp_path)
    drawn = report._inside(tmp_path, list("0123456789"), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["filters.png"]
    assert list(drawn) == ["conv1: 6 filters of 5×5. Red adds where there is ink, blue takes away"]


def test_the_same_page_twice(measured):
    assert report.page(*measured) == report.page(*copy.deepcopy(measured))


def test_the_worst_layer_is_named(measured):
    metrics, predictions = copy.deepcopy(measured)
    metrics["layers"]["int8"][3] |= {"op": "CONV_2D", "drop_db": 30.0, "sqnr_db": 12.0}
    text = report.page(metrics, predictions)
    assert "the most is lost after CONV_2D 2: 30.0 dB, down to 12.0 dB." in text


def test_the_deployed_model_has_the_first_word(measured):
    metrics, predictions = copy.deepcopy(measured)
    metrics["paired"].reverse()
    verdict = metrics["paired"][-1]["verdict"].partition(": ")[0]
    assert re.search(r'class="lead">([^<]*)', report.page(metrics, predictions))[1] == verdict


def test_a_missed_gate_stands_at_the_top(measured):
    metrics, predictions = copy.deepcopy(measured)
    metrics["gates"] = [
        {"gate": "min_accuracy", "figure": 0.9, "limit": 0.99, "met": False},
        {"gate": "max_accuracy_drop", "figure": -0.0, "limit": 0.001, "met": True},
    ]
    text = report.page(metrics, predictions)
    assert "Gates missed:</strong> min_accuracy." in text
    assert "1 of 2 met" in text
    assert re.search(r"max_accuracy_drop</th>\s*<td class=\"words\">✓ met</td>\s*<td>0</td>", text)


@pytest.mark.parametrize("faster", [False, True])
def test_no_gain_in_speed_is_admitted(measured, faster):
    metrics, predictions = copy.deepcopy(measured)
    metrics["timings"]["models"]["int8"]["p50_us"] = 30.0
    metrics["timings"]["models"]["float32"]["p50_us"] = 60.0 if faster else 20.0
    text = report.page(metrics, predictions)
    assert ("lenet5_int8.tflite is not faster than lenet5_float32.tflite" in text) != faster


def test_another_dataset_than_asked_for_is_said_loudly(measured):
    text = report.page(*measured, recipe=Recipe(name="run"))
    assert "The recipe asks for mnist, which could not be had." in text
    assert "could not be had" not in report.page(*measured)


def answers(labels, wrong, confidence=0.9):
    """Probabilities for `labels`, with another digit at the positions `wrong`."""
    digits = labels.copy().astype(int)
    digits[wrong] = (digits[wrong] + 1) % 10
    probabilities = np.full((len(labels), 10), (1 - confidence) / 9, np.float32)
    probabilities[np.arange(len(labels)), digits] = confidence
    return probabilities


def minimal(title="a.keras", wrong=(3,)):
    """What an evaluation of one model file finds: no pairs, no layers, no rejection, no gates."""
    labels = np.arange(20, dtype=np.uint8) % 10
    probabilities, wrong = answers(labels, list(wrong)), np.array(wrong, int)
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (labels, probabilities.argmax(1)), 1)
    model = {
        "title": title,
        "correct": 20 - len(wrong),
        "total": 20,
        "accuracy": 1 - len(wrong) / 20,
        "interval": [0.7, 1.0],
        "difference": 0.0,
        "agreement": 1.0,
        "bytes": 1000,
        "confusion": matrix.tolist(),
        "calibration": confidence.calibration(probabilities, labels),
        "coverage": confidence.coverage(probabilities, labels),
    }
    timing = {"kernels": "XNNPACK", "p50_us": 1.0, "p95_us": 2.0, "batched_images_per_second": 3}
    metrics = {
        "schema": results.SCHEMA,
        "dataset": "mnist",
        "images": 20,
        "labels": list("0123456789"),
        "reference": title,
        "deployed": title,
        "models": {title: model},
        "paired": [],
        "layers": {},
        "timings": {"cpu": "a CPU", "device": "CPU", "threads": 1, "models": {title: timing}},
        "gates": [],
    }
    images = np.zeros((len(wrong), 28, 28), np.uint8)
    return metrics, {"labels": labels, "shown": wrong, "shown_images": images, title: probabilities}


@pytest.mark.parametrize("wrong", [(), (3,), (3, 4, 9)])
def test_one_file_and_nothing_else(wrong):
    text = report.page(*minimal(wrong=wrong))
    page = check(text)
    assert page.sections == ["models", "mistakes", "confidence", "speed", "origin"]
    assert f"{len(wrong)} of {len(wrong)}, the most confident first." in text
    assert f"a.keras is right on {20 - len(wrong)} of 20 images." in text
    assert "No gates are set." in text
    assert "disagree" not in text


def test_names_are_text_never_markup():
    hostile = '<script>alert(1)</script>" $x$ \\frac url(#000000'
    text = report.page(*minimal(hostile))
    page = check(text.replace("url(#000000", ""))
    assert "script" not in [tag for tag, _ in page.elements]
    assert html.escape(hostile).replace("&quot;", "&#34;") in text


def test_a_gallery_has_an_end(monkeypatch):
    monkeypatch.setattr(report, "GALLERY", 2)
    metrics, predictions = minimal(wrong=(1, 2, 3, 4))
    other = copy.deepcopy(metrics["models"]["a.keras"]) | {"title": "b.tflite"}
    metrics["models"]["b.tflite"] = other
    metrics["timings"]["models"]["b.tflite"] = metrics["timings"]["models"]["a.keras"]
    metrics["reference"] = "b.tflite"
    predictions["b.tflite"] = answers(predictions["labels"], [])
    text = report.page(metrics, predictions)
    assert "The first 2 of 4 images" in text
    assert "2 of 4, the most confident first." in text
    assert len(check(text).all("img", "alt")) == 4


def test_training_alone_adds_its_section():
    history = {
        "epoch": [1.0, 2.0],
        "loss": [1.0, 0.5],
        "accuracy": [0.5, 0.8],
        "val_loss": [1.0, 0.6],
        "val_accuracy": [0.5, 0.7],
        "learning_rate": [0.1, 0.0],
    }
    text = report.page(*minimal(), histories={"train": history}, kept={"train": 1})
    assert "training" in check(text).sections
    assert "marked by a dotted line: 50.00% in train." in text


def everything():
    """The metrics of two models with every part that an evaluation may measure, and predictions."""
    metrics, predictions = minimal("a.tflite", wrong=(3, 4))
    other, _ = minimal("b.tflite", wrong=(4,))
    ops = [
        {"op": "CONV_2D", "shape": [4, 4], "sqnr_db": 40.0, "drop_db": 8.0, "max_error": 0.25,
         "saturated": 0.125, "range": [-1.0, 1.0], "channels": [0.5, 0.75]},
        {"op": "SOFTMAX", "shape": [10], "sqnr_db": 30.0, "drop_db": 10.0, "max_error": 0.5,
         "saturated": 0.25, "range": [0.0, 1.0], "channels": None},
    ]  # fmt: skip
    scores = {"raw": [0.75, 0.5], "prepared": [0.5, 0.25]}
    summary = {
        "mean_accuracy": 0.5, "mean_accuracy_prepared": 0.25, "mean_corruption_error": 0.75,
    }  # fmt: skip
    names = ("a.tflite", "b.tflite")
    metrics |= {
        "reference": "b.tflite",
        "models": metrics["models"] | other["models"],
        "paired": [
            {"first": "a.tflite", "second": "b.tflite", "only_first": 0, "only_second": 1, "p": 1.0,
             "differ": 1, "differ_by_class": [0, 0, 0, 1, 0, 0, 0, 0, 0, 0], "agreement": 0.95,
             "verdict": "a.tflite and b.tflite are indistinguishable: 1."},
        ],
        "fake_quantized_agreement": 0.5,
        "layers": {"a.tflite": ops},
        "rejection": {
            "threshold": 0.25,
            "digits": {"total": 20, "refused": 1, "accuracy_of_accepted": 0.75},
            "outliers": {"letters": {"total": 8, "refused": 4, "refused_by_threshold": 2}},
            "curve": {"threshold": [0.0, 0.5], "digits": [0.0, 0.25], "letters": [0.25, 0.5]},
        },
        "robustness": {
            "images": 20, "prepared_images": 10, "severities": [1, 2],
            "corruptions": {"fog": dict.fromkeys(names, scores)},
            "summary": dict.fromkeys(names, summary),
        },
        "arena": {"bytes": 500, "how": "measured"},
        "layout": {"kernels": "reference", "images": 20, "unequal": 3, "largest": 2},
        "gates": [{"gate": "min_accuracy", "figure": 0.9, "limit": 0.75, "met": True}],
    }  # fmt: skip
    for model in metrics["models"].values():
        model["coverage"] = {"coverage": [0.5, 1.0], "accuracy": [1.0, 0.75]}
    metrics["timings"]["models"] |= other["timings"]["models"]
    predictions["b.tflite"] = answers(predictions["labels"], [4])
    return json.loads(json.dumps(metrics)), predictions


def leaves(value, path=()):
    """Every figure and text of nested lists and objects, as the path that leads to it."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            yield from leaves(part, (*path, key))
    elif value is not None:
        yield path


def changed(metrics, path):
    """A copy of the metrics in which one figure or text is another."""
    copied = copy.deepcopy(metrics)
    *parents, last = path
    place = functools.reduce(lambda part, key: part[key], parents, copied)
    value = place[last]
    if isinstance(value, bool):
        place[last] = not value
    elif isinstance(value, str):
        place[last] = value + "!"
    else:
        place[last] = value + (1 if isinstance(value, int) else 0.0625)
    return copied


class Told:
    """Stands for a plot's axes, and for all that belongs to them: notes what they are told."""

    def __init__(self):
        self.drawn = []

    def __getattr__(self, name):
        return self

    def __call__(self, *arguments, **named):
        self.drawn.append((arguments, named))
        return self


NOT_SHOWN = {
    "schema",
    # The verdict says these in words.
    "paired.0.only_first", "paired.0.only_second", "paired.0.p", "paired.0.differ",
    "paired.0.agreement",
    # The same for all models, and shown with the deployed one.
    "models.b.tflite.total",
    "layout.images",
    # The curve is drawn by what is refused, not by threshold.
    "rejection.curve.threshold.0", "rejection.curve.threshold.1",
}  # fmt: skip


def test_every_figure_of_the_metrics_changes_the_page(monkeypatch):
    """Or is one that the page is known to leave out. Plots are told by what they draw."""

    def told(draw, name, size=None):
        axis = Told()
        draw(axis)
        return re.sub("0x[0-9a-f]+", "", repr(axis.drawn))

    monkeypatch.setattr(plots, "svg", told)
    monkeypatch.setattr(artifacts, "versions", dict)  # slow to look up, a hundred times
    metrics, predictions = everything()
    page = report.page(metrics, predictions)
    assert report.page(copy.deepcopy(metrics), predictions) == page
    keys = ("reference", "deployed", "first", "second", "labels")
    silent = {
        ".".join(map(str, path))
        for path in leaves(metrics)
        if not set(path) & set(keys)
        and ("confusion" not in path or path[-2:] == (3, 4))
        and report.page(changed(metrics, path), predictions) == page
    }
    assert silent == NOT_SHOWN


def tables(text):
    """The rows of each table of a page, by its caption; cells stand between bars."""
    found = {}
    for table in re.findall(r"<table>.*?</table>", text, re.DOTALL):
        title = re.search(r"<caption>(.*?)</caption>", table)[1]
        rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
        found[html.unescape(title)] = [
            html.unescape(" | ".join(re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row))) for row in rows
        ]
    return found


def test_every_table_says_what_was_measured(monkeypatch):
    monkeypatch.setattr(plots, "svg", lambda draw, name, size=None: "")
    metrics, predictions = everything()
    metrics["models"]["a.tflite"] |= {"difference": -0.0625, "agreement": 0.75, "bytes": 12345}
    metrics["models"]["a.tflite"]["calibration"]["error"] = 0.0625
    metrics["models"]["b.tflite"]["calibration"]["error"] = 0.5
    metrics["timings"]["models"]["a.tflite"] = {
        "kernels": "XNNPACK", "p50_us": 1234.5, "p95_us": 2345.6, "batched_images_per_second": 4567,
    }  # fmt: skip
    first = {"raw": [0.75, 0.5], "prepared": [0.25, 0.0]}
    metrics["robustness"]["corruptions"]["gaussian_noise"] = {
        "a.tflite": {"raw": [1.0, 0.875], "prepared": [0.5, 0.5]}, "b.tflite": first,
    }  # fmt: skip
    found = tables(report.page(metrics, predictions))
    del found["Versions"]
    assert found == {
        "Gates": ["gate | verdict | figure | limit", "min_accuracy | ✓ met | 0.9 | at least 0.75"],
        "Accuracy, size and time": [
            " | ".join(results.HEADER),
            "a.tflite | 18 | 90.00% | 70.00 to 100.00 | -6.25 pt | 75.00% | 12,345 | 1,234 µs | "
            "XNNPACK",
            "b.tflite | 19 | 95.00% | 70.00 to 100.00 | +0.00 pt | 100.00% | 1,000 | 1 µs | "
            "XNNPACK",
        ],
        "a.tflite": [
            "op | values | SQNR, dB | lost here, dB | largest error | saturated | range",
            "CONV_2D | 4 × 4 | 40.0 | 8.0 | 0.25 | 12.50% | -1 to 1",
            "SOFTMAX | 10 | 30.0 | 10.0 | 0.5 | 25.00% | 0 to 1",
        ],
        "Calibration": ["model | ECE, points", "a.tflite | 6.25", "b.tflite | 50.00"],
        "What a.tflite refuses": [
            "picture of | refused by classify | by the threshold alone | of",
            "letters | 50.0% | 25.0% | 8",
            "test images |  | 5.00% | 20",
        ],
        "The mean over all corruptions and severities": [
            "model | as they come | prepared | mean corruption error",
            "a.tflite | 50.0% | 25.0% | 0.750",
            "b.tflite | 50.0% | 25.0% | 0.750",
        ],
        "a.tflite, images as they come, but for the last column": [
            "corruption | severity 1 | severity 2 | mean | prepared",
            "gaussian noise | 100.0% | 87.5% | 93.8% | 50.0%",
            "fog | 75.0% | 50.0% | 62.5% | 37.5%",
        ],
        "Time of one image, and images a second": [
            "model | kernel set | median, µs | 95th percentile, µs | images/s in batches",
            "a.tflite | XNNPACK | 1,234.5 | 2,345.6 | 4,567",
            "b.tflite | XNNPACK | 1.0 | 2.0 | 3",
        ],
    }


def test_the_key_figures_are_the_deployed_models(monkeypatch):
    monkeypatch.setattr(plots, "svg", lambda draw, name, size=None: "")
    metrics, predictions = everything()
    metrics["models"]["a.tflite"] |= {"difference": -0.0625, "agreement": 0.75, "bytes": 250}
    facts = re.findall(r"<d[td][^>]*>(.*?)</d[td]>", report.page(metrics, predictions))
    assert [re.sub("</?small>", "", fact) for fact in facts] == [
        "Accuracy of a.tflite", "90.00%", "95 % interval: 70.00 to 100.00",
        "Difference from b.tflite", "-6.25 points", "another answer on 5 of 20",
        "Size", "250 bytes", "25% of b.tflite",
        "Gates", "1 of 1 met",
    ]  # fmt: skip
