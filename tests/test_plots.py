"""Plots show what their data say: every point, on the axis that names it."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from keras_lenet.evaluation.metrics import Coverage, OodRejection, Rejection, TestRejection
from keras_lenet.reporting import feature_maps, plots

DIGITS = list("0123456789")
COVERAGE = Coverage(coverage=(0.5, 1.0), accuracy=(1.0, 0.75))


@pytest.fixture
def axis():
    return Figure().subplots()


def labels(axis):
    return axis.get_xlabel(), axis.get_ylabel()


def points(axis):
    """What is drawn by line: its label, and its points as rows."""
    return {line.get_label(): line.get_xydata().tolist() for line in axis.lines}


def rows(axis):
    """The names at the y axis, by height."""
    ticks = zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)
    return {height: text.get_text() for height, text in ticks}


def test_a_confusion_matrix_writes_true_classes_in_rows(axis):
    matrix = np.diag([5, 0, 7])
    matrix[0, 2], matrix[2, 1] = 4, 2
    plots.confusion(axis, matrix, 4, ["a", "b", "c"])
    assert labels(axis) == ("answer", "true class")
    written = {text.get_text(): text.get_position() for text in axis.texts}
    assert written == {"5": (0, 0), "7": (2, 2), "4": (2, 0), "2": (1, 2)}
    # Only mistakes have colour, by their share of the greatest.
    shades = {
        (patch.get_x() + 0.5, patch.get_y() + 0.5): patch.get_alpha() for patch in axis.patches
    }
    assert shades == {(2, 0): pytest.approx(0.65), (1, 2): pytest.approx(0.375)}
    assert rows(axis) == {0: "a", 1: "b", 2: "c"}
    assert axis.get_ylim() == (2.5, -0.5)  # the first class on top


def test_confusion_matrices_share_a_scale_and_count_their_mistakes():
    good, bad = np.diag([5, 5]), np.array([[2, 3], [1, 4]])
    figure = plots.confusion_matrices({"good": good, "bad": bad}, "mnist", ["a", "b"])
    assert [axis.get_title() for axis in figure.axes] == [
        "good: 0 of 10 wrong",
        "bad: 4 of 10 wrong",
    ]
    assert figure.get_suptitle() == "mnist"
    assert plots.most_confused([good, bad]) == 3


def test_flips_have_a_bar_for_each_class_and_pair(axis):
    plots.flips(axis, {"a / b": [0, 3, 1], "b / c": [2, 0, 0]}, ["x", "y", "z"])
    bars = {
        bar.get_label(): [(patch.get_x(), patch.get_width(), patch.get_height()) for patch in bar]
        for bar in axis.containers
    }
    assert [height for _, _, height in bars["a / b"]] == [0, 3, 1]
    assert [height for _, _, height in bars["b / c"]] == [2, 0, 0]
    for place, (first, second) in enumerate(zip(*bars.values(), strict=True)):
        assert first[0] + first[1] == pytest.approx(second[0]) == pytest.approx(place)
    assert labels(axis) == ("true class", "images")


def test_noise_is_drawn_by_op_from_top_to_bottom(axis):
    plots.signal_to_noise(axis, {"ptq": [40.0, None, 30.0], "qat": [41.0, 35.0, 20.0]}, list("ABC"))
    found = points(axis)
    assert found["qat"] == [[41, 0], [35, 1], [20, 2]]
    assert found["ptq"][::2] == [[40, 0], [30, 2]]
    assert np.isnan(found["ptq"][1][0])
    assert rows(axis) == {0: "A", 1: "B", 2: "C"}
    assert axis.get_ylim() == (2.5, -0.5)
    assert labels(axis)[0] == "signal to quantization noise ratio, dB"


def test_every_output_channel_is_a_point_beside_its_op(axis):
    plots.channel_ranges(axis, {"ptq": [[1.0, 2.0], [3.0]], "qat": [[4.0, 5.0], [6.0]]}, ["A", "B"])
    assert {label: np.round(found, 3).tolist() for label, found in points(axis).items()} == {
        "ptq": [[1, -0.15], [2, -0.15], [3, 0.85]],
        "qat": [[4, 0.15], [5, 0.15], [6, 1.15]],
    }
    assert labels(axis)[0] == "greatest absolute weight"
    assert axis.get_xlim()[0] == 0


def test_reliability_draws_accuracy_by_confidence_in_percent(axis):
    plots.reliability(axis, [(0.5, 0.25, 0.125, 0.75), (0.75, 1.0, 0.5, 1.0)])
    diagonal, line = (found for found in points(axis).values())
    assert diagonal == [[0, 0], [100, 100]]
    assert line == [[50, 25], [75, 100]]
    (bars,) = axis.collections
    assert [bar.tolist() for bar in bars.get_segments()] == [
        [[50, 12.5], [50, 75]], [[75, 50], [75, 100]],
    ]  # fmt: skip
    assert labels(axis) == ("confidence, %", "accuracy, %")


def test_coverage_draws_accuracy_by_share_in_percent(axis):
    other = Coverage(coverage=(0.5, 1.0), accuracy=(0.25, 0.5))
    plots.coverage(axis, {"a": COVERAGE, "b": other})
    assert points(axis) == {"a": [[50, 100], [100, 75]], "b": [[50, 25], [100, 50]]}
    assert labels(axis) == ("most confident answers, % of all", "accuracy, %")


def test_rejection_draws_other_pictures_by_test_images(axis):
    found = Rejection(
        threshold=0.25,
        test=TestRejection(rejected=5, total=200),
        ood=dict.fromkeys(
            ("letters", "noise"), OodRejection(total=1, rejected=0, rejected_by_threshold=0)
        ),
        curve={"test": (0, 0.25), "letters": (0.5, 0.75), "noise": (1.0, 1.0)},
    )
    plots.rejection_curve(axis, found)
    *curves, chosen = axis.lines
    assert {line.get_label(): line.get_xydata().tolist() for line in curves} == {
        "letters": [[0, 50], [25, 75]], "noise": [[0, 100], [25, 100]],
    }  # fmt: skip
    assert list(chosen.get_xdata()) == [2.5, 2.5]
    assert axis.texts[0].get_text() == " threshold 0.250"
    assert axis.get_xlim() == (0, 3.75)
    assert labels(axis) == ("test images refused, %", "other pictures refused, %")


def test_robustness_draws_the_hardest_corruption_last(axis):
    means = {"a": [0.9, 0.5], "a, prepared": [0.8, 0.6]}
    plots.robustness(axis, means, ["gaussian_noise", "fog"])
    assert points(axis) == {"a": [[90, 1], [50, 0]], "a, prepared": [[80, 1], [60, 0]]}
    assert rows(axis) == {1: "gaussian noise", 0: "fog"}
    assert [line.get_fillstyle() for line in axis.lines] == ["full", "none"]
    assert labels(axis)[0] == "accuracy, %"


def test_a_curve_draws_training_and_validation_by_epoch(axis):
    history = {
        "epoch": [1.0, 2.0], "loss": [1.0, 0.5], "val_loss": [0.75, 0.25],
        "val_accuracy": [0.5, 0.875],
    }  # fmt: skip
    plots.curve(axis, history, "loss", kept=2)
    assert axis.lines[0].get_xydata().tolist() == [[1, 1], [2, 0.5]]
    assert axis.lines[1].get_xydata().tolist() == [[1, 0.75], [2, 0.25]]
    assert [line.get_label() for line in axis.lines[:2]] == ["training, augmented", "validation"]
    assert list(axis.lines[2].get_xdata()) == [2, 2]
    assert labels(axis) == ("epoch", "loss")


def test_series_differ_in_colour_line_and_marker(axis):
    plots.coverage(axis, dict.fromkeys("abcdef", COVERAGE))
    assert len({to_rgba(line.get_color()) for line in axis.lines}) == 6


def test_weights_share_one_scale_about_zero():
    figure = feature_maps.draw_filters(
        np.array([[[1.0, -4.0]], [[2.0, 0.0]], [[0.0, 0.5]]]), columns=2
    )
    drawn = [axis.images[0] for axis in figure.axes if axis.images]
    assert [image.get_array().tolist() for image in drawn] == [[[1, -4]], [[2, 0]], [[0, 0.5]]]
    assert {image.get_clim() for image in drawn} == {(-4, 4)}


def test_the_contact_sheet_shows_every_image():
    images = np.linspace(0, 1, 20, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2))
    figure = plots.contact_sheet(images)
    drawn = [axis.images[0] for axis in figure.axes if axis.images]
    assert [image.get_array()[0, 0] for image in drawn] == pytest.approx(images[:, 0, 0])
    assert {image.get_clim() for image in drawn} == {(0, 1)}


def test_an_svg_names_its_ids_and_keeps_the_pages_colours():
    drawn = plots.svg(lambda axis: axis.plot([0, 1], [0, 1], color="black"), "name")
    assert drawn.startswith("<svg ")
    assert 'id="name-' in drawn
    assert "currentColor" in drawn
    assert "#000000" not in drawn
    assert drawn == plots.svg(lambda axis: axis.plot([0, 1], [0, 1], color="black"), "name")
