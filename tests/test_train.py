"""The train stage: what it minimizes, by which steps, on which images, and what it keeps."""

import contextlib
import importlib.util
import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from conftest import SMOKE, keras_lenet, write_dataset, write_idx
from PIL import Image
from scipy.special import log_softmax, softmax

from keras_lenet import models, pipeline, recipe
from keras_lenet.artifacts import TEMPORARY
from keras_lenet.data import loading, reading
from keras_lenet.errors import Error
from keras_lenet.evaluation import confidence
from keras_lenet.recipe import Degrade, Distill, Model, Recipe, Train
from keras_lenet.reporting import plots
from keras_lenet.stages import train
from keras_lenet.training import devices, inputs, losses, optimizer, setup

pytestmark = pytest.mark.slow  # seconds each, for they train

UNMOVED = {"learning_rate": 1e-30, "weight_decay": 0.0, "warmup_epochs": 0, "batch_size": 15}
"""What leaves the weights as they begin."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """40 training images; 30 are left to train on and 10 to validate."""
    return write_dataset(tmp_path_factory.mktemp("few"), train=40, test=10)


@pytest.fixture
def _tiny(monkeypatch):
    tiny.register(monkeypatch)


# The learning rate.


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, {0: 0.2, 9: 2.0, 10: 2.0, 99: 2.0}),
        ({"schedule": "cosine"}, {4: 1.0, 9: 2.0, 10: 2.0, 55: 1.0, 100: 0.0}),
        ({"schedule": "cosine", "warmup_epochs": 2}, {0: 0.1, 19: 2.0, 60: 1.0, 100: 0.0}),
        (
            {"schedule": "cosine", "warmup_epochs": 0},
            {0: 2.0, 50: 1.0, 75: 2 * 0.1464466, 100: 0.0},
        ),
        (
            {"schedule": "step", "step_epochs": 2, "step_factor": 0.5},
            {4: 1.0, 10: 2.0, 29: 2.0, 30: 1.0, 50: 0.5},
        ),
    ],
)
def test_schedules_at_known_steps(settings, expected):
    settings = {"warmup_epochs": 1} | settings
    schedule = optimizer.Schedule(Train(epochs=10, learning_rate=2.0, **settings), steps=10)
    found = {step: float(schedule(step)) for step in expected}
    assert found == pytest.approx(expected, abs=1e-6)


# Steps, of the weights 1, -2 and the bias 3.


def stepped(settings, *gradients, steps=1):
    """The weights and the bias after one step for each gradient."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    setup.compile_model(model, settings, steps, keras.losses.mean_squared_error)
    model.set_weights([np.array([[1.0], [-2.0]]), np.array([3.0])])
    for first, second, third in gradients:
        gradient = [tf.constant([[first], [second]], tf.float32), tf.constant([third], tf.float32)]
        model.optimizer.apply(gradient)
    return np.concatenate([values.ravel() for values in model.get_weights()])


def settings(optimizer, **more):
    steady = {"schedule": "constant", "warmup_epochs": 0, "learning_rate": 0.1, "weight_decay": 0.0}
    return Train(optimizer=optimizer, **(steady | more))


def test_gradient_descent_steps_against_the_gradient():
    found = stepped(settings("sgd", momentum=0.0), (1, 2, -3), (1, 2, -3))
    np.testing.assert_allclose(found, [0.8, -2.4, 3.6], rtol=1e-6)


def test_momentum_is_nesterovs():
    """v = 0.9 v - 0.1 g, and 0.9 v - 0.1 g is added: -0.19 g, then -0.271 g."""
    found = stepped(settings("sgd", momentum=0.9), (1, 2, -3), (1, 2, -3))
    np.testing.assert_allclose(found, [1 - 0.461, -2 - 0.922, 3 + 1.383], rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_weight_decay_shrinks_every_weight_apart_from_its_gradient(optimizer):
    """By the learning rate times the decay: 0.1 · 0.5."""
    found = stepped(settings(optimizer, weight_decay=0.5), (0, 0, 0))
    np.testing.assert_allclose(found, [0.95, -1.9, 2.85], rtol=1e-6)
    np.testing.assert_array_equal(stepped(settings(optimizer), (0, 0, 0)), [1.0, -2.0, 3.0])


def test_adam_steps_by_the_learning_rate_whatever_the_gradients_size():
    found = stepped(settings("adamw", weight_decay=0.5), (1e-3, 5, -100))
    np.testing.assert_allclose(found, [0.85, -2.0, 2.95], rtol=1e-3)


def test_muon_steps_kernels_along_their_direction():
    """Of one column, (3, 4) / 5; its singular value comes near to 1, times 0.2 · √2."""
    found = stepped(settings("muon"), (3, 4, 7)) - [1, -2, 3]
    np.testing.assert_allclose(found[:2] / -np.linalg.norm(found[:2]), [0.6, 0.8], rtol=1e-4)
    assert 0.5 < np.linalg.norm(found[:2]) / (0.1 * 0.2 * np.sqrt(2)) < 1.3
    assert found[2] == pytest.approx(-0.1, rel=1e-3)


def test_each_step_is_taken_at_its_own_rate_of_the_schedule():
    """Of two epochs of two steps: 1/2, 1; then cosine from 1 through 1/2 to 0."""
    plan = settings(
        "sgd", momentum=0.0, learning_rate=1.0, schedule="cosine", warmup_epochs=1, epochs=2
    )
    ones = [(1, 0, 0)] * 4
    found = [1 - stepped(plan, *ones[:count], steps=2)[0] for count in range(1, 5)]
    np.testing.assert_allclose(found, [0.5, 1.5, 2.5, 3.0], rtol=1e-6)


@pytest.mark.parametrize("averaging", [0.0, 0.75])
def test_weights_are_averaged_with_the_recipes_momentum(averaging):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    chosen = settings("adamw", weight_averaging=averaging)
    setup.compile_model(model, chosen, 1, keras.losses.mean_squared_error)
    assert model.optimizer.use_ema == (averaging > 0)
    assert not averaging or model.optimizer.ema_momentum == averaging
    assert model.optimizer.built  # its state can be set


@pytest.mark.parametrize(("gpus", "jit"), [(0, False), (1, True), (2, False)])
def test_xla_is_for_a_single_gpu(monkeypatch, gpus, jit):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU"] * gpus)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    setup.compile_model(model, Train(), 64, keras.losses.mean_squared_error)
    assert model.jit_compile == jit
    assert model.steps_per_execution == 1


# The loss.

LOGITS = np.random.default_rng(0).normal(0, 3, (4, 10)).astype(np.float32)
TEACHERS = np.random.default_rng(1).normal(0, 3, (4, 10)).astype(np.float32)
LABELS = np.array([0, 3, 9, 5])


def test_labels_are_smoothed_by_the_recipes_share():
    found = losses.chosen(Recipe(name="test", train=Train(label_smoothing=0.2)))(LABELS, LOGITS)
    expected = losses.cross_entropy(LABELS, LOGITS, label_smoothing=0.2)
    np.testing.assert_array_equal(found, expected)
    plain = losses.chosen(Recipe(name="test"))(LABELS, LOGITS)
    np.testing.assert_array_equal(plain, losses.cross_entropy(LABELS, LOGITS))


@pytest.mark.parametrize("deployed", [False, True])
def test_students_learn_at_the_recipes_temperature(deployed):
    wanted = Recipe(name="test", distill=Distill(temperature=2.5))
    targets = np.concatenate([LABELS[:, np.newaxis], TEACHERS], axis=1).astype(np.float32)
    p, q = softmax(TEACHERS / 2.5, axis=1), softmax(LOGITS / 2.5, axis=1)
    expected = 2.5**2 * (p * np.log(p / q)).sum(axis=1)
    np.testing.assert_allclose(
        losses.chosen(wanted, deployed)(targets, LOGITS), expected, rtol=1e-4
    )


def test_an_architecture_is_trained_by_its_own_loss_and_fine_tuned_by_cross_entropy():
    wanted = Recipe(name="test", model=Model(name="lenet5_1998"))
    assert losses.chosen(wanted) is models.find("lenet5_1998").loss
    found = losses.chosen(wanted, deployed=True)(LABELS, LOGITS)
    np.testing.assert_array_equal(found, losses.cross_entropy(LABELS, LOGITS))


@pytest.mark.parametrize("section", [{"train": Train(label_smoothing=0.1)}, {"distill": Distill()}])
def test_a_loss_of_its_own_takes_labels_as_they_are(section):
    wanted = Recipe(name="test", model=Model(name="lenet5_1998"), **section)
    complaint = (
        r"^lenet5_1998 is trained by a loss of its own, which takes labels as they are; leave out "
        r"train.label_smoothing and \[distill\]$"
    )
    with pytest.raises(Error, match=complaint):
        losses.chosen(wanted)


# A fit.


def fitted(wanted, out, lessons=None):
    training, validation = tiny.splits(wanted)
    mixed = loading.with_outliers(training, wanted.data.outliers, 0)
    batches = inputs.augmented(wanted, mixed, wanted.train.batch_size, 0, lessons)
    return setup.train_model(wanted, batches, mixed, validation, lessons, out)


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize(("initializer", "seed"), [("glorot", 5), ("fan_in", 5), ("fan_in", 6)])
def test_the_recipes_seed_and_initializer_decide_where_weights_begin(
    dataset, tmp_path, initializer, seed
):
    model = Model(name="tiny", initializer=initializer)
    wanted = tiny.recipe(dataset, seed=seed, model=model, train=Train(epochs=1, **UNMOVED))
    keras.utils.set_random_seed(99)
    kept, _ = fitted(wanted, tmp_path)
    keras.utils.set_random_seed(seed)
    expected = models.build(keras, model)
    if initializer == "fan_in":
        models.initialize_by_fan_in(expected, seed)
    for found, value in zip(kept.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-12)


@pytest.mark.usefixtures("_tiny")
def test_standardization_by_the_digits_alone_is_folded_into_the_first_layer(dataset, tmp_path):
    data = {"standardize": True, "outliers": 0.5}
    wanted = tiny.recipe(dataset, data=data, train=Train(epochs=1, **UNMOVED))
    kept, _ = fitted(wanted, tmp_path)
    keras.utils.set_random_seed(0)
    kernel, bias, *_ = models.build(keras, wanted.model).get_weights()
    pixels = tiny.splits(wanted)[0].images / 255
    found = kept.get_layer("dense1").get_weights()
    np.testing.assert_allclose(found[0], kernel / pixels.std(), rtol=1e-4)
    folded = bias - pixels.mean() / pixels.std() * kernel.sum(axis=0)
    np.testing.assert_allclose(found[1], folded, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("_tiny")
def test_images_that_are_all_alike_cannot_be_standardized(tmp_path):
    folder = write_dataset(tmp_path / "alike", train=40, test=10)
    for path in folder.glob("*images*"):
        write_idx(path, np.full_like(reading.read(path, 3), 7))
    wanted = tiny.recipe(folder, data={"standardize": True}, train=Train(batch_size=15))
    complaint = (
        r"^data.standardize = true: every pixel of the 30 training images is 7, so their "
        r"deviation is 0; expected images that differ$"
    )
    with pytest.raises(Error, match=complaint):
        fitted(wanted, tmp_path / "out")


@pytest.mark.usefixtures("_tiny")
def test_averages_of_the_weights_are_kept(dataset, tmp_path):
    """After two steps: 3/4 of the weights after the first, 1/4 of those after the second."""

    def weights(name, rate=0.01, **more):
        train = Train(
            epochs=1,
            warmup_epochs=0,
            batch_size=15,
            schedule="constant",
            learning_rate=rate,
            **more,
        )
        kept, state = fitted(tiny.recipe(dataset, train=train), tmp_path / name)
        return kept.get_layer("logits").get_weights()[0], state.history[0]["loss"]

    initial, _ = weights("initial", rate=1e-12)
    last, loss = weights("last")
    averaged, same_loss = weights("averaged", weight_averaging=0.75)
    assert same_loss == loss
    first = (averaged - last / 4) / 0.75
    # Adam's first step has the size of the learning rate.
    assert np.median(np.abs(first - initial)) == pytest.approx(0.01, rel=0.01)
    assert np.median(np.abs(last - initial)) > 0.012


@pytest.mark.usefixtures("_tiny")
def test_the_epoch_nearest_to_the_teachers_is_kept(dataset, tmp_path):
    """They are always wrong by one class: the nearer to them, the less accurate."""
    wanted = tiny.recipe(
        dataset,
        distill=Distill(model="tiny"),
        train=Train(epochs=30, warmup_epochs=0, learning_rate=0.02, batch_size=5),
    )
    wrong = [20 * np.eye(10)[(part.labels + 1) % 10] for part in tiny.splits(wanted)]
    lessons = loading.Lessons(0, *(np.asarray(one, np.float16) for one in ([wrong[0]], wrong[1])))
    _, state = fitted(wanted, tmp_path, lessons)
    losses = [row["val_loss"] for row in state.history]
    accuracies = [row["val_accuracy"] for row in state.history]
    assert losses[state.best] == min(losses)
    assert accuracies[state.best] < max(accuracies)


@pytest.mark.usefixtures("_tiny")
def test_mixed_precision_trains_and_keeps_a_float32_model(dataset, tmp_path):
    losses = []
    for precision in ("mixed_bfloat16", "float32"):
        chosen = Train(epochs=1, warmup_epochs=0, batch_size=15, precision=precision)
        model, state = fitted(tiny.recipe(dataset, train=chosen), tmp_path / precision)
        assert {layer.compute_dtype for layer in model.layers} == {"float32"}
        assert keras.config.dtype_policy().name == "float32"
        losses.append(state.history[0]["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.usefixtures("_tiny")
def test_tensorboard_says_how_to_install_it(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    wanted = tiny.recipe(dataset, train=Train(tensorboard=True, batch_size=15))
    complaint = (
        r"^train.tensorboard = true needs a package that is not installed: "
        r"pip install 'keras-lenet\[tensorboard\]'$"
    )
    with pytest.raises(Error, match=complaint):
        fitted(wanted, tmp_path)


@pytest.mark.usefixtures("_tiny")
def test_tensorboard_writes_beside_the_model(dataset, tmp_path, monkeypatch):
    made = []

    class TensorBoard(keras.callbacks.Callback):
        def __init__(self, folder):
            super().__init__()
            made.append(folder)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "tensorboard")
    monkeypatch.setattr(keras.callbacks, "TensorBoard", TensorBoard)
    fitted(tiny.recipe(dataset, train=Train(epochs=1, tensorboard=True, **UNMOVED)), tmp_path)
    assert made == [tmp_path / "tensorboard"]


# Batches.


@pytest.mark.usefixtures("_tiny")
def test_batches_are_augmented_degraded_and_answered_as_the_recipe_says(dataset):
    wanted = tiny.recipe(
        dataset, augment=recipe.Augment(rotate=30.0), degrade=Degrade(noise=0.5), seed=4
    )
    training, _ = tiny.splits(wanted)
    answers = np.random.default_rng(0).normal(size=(2, 30, 10)).astype(np.float16)
    lessons = loading.Lessons(7, answers, answers[0])
    found = inputs.augmented(wanted, training, 15, 6, lessons)(range(1, 2))
    expected = loading.training_batches(
        training, wanted.augment, wanted.degrade,
        size=28, batch_size=15, seed=6, epochs=range(1, 2), lessons=lessons,
    )  # fmt: skip
    for batch, other in zip(found, expected, strict=True):
        for values, wanted_values in zip(batch, other, strict=True):
            np.testing.assert_array_equal(values, wanted_values)


def test_a_batch_larger_than_the_training_split_is_refused(dataset, tmp_path):
    wanted = tiny.recipe(dataset)
    complaint = rf"^batch_size = 31: {dataset} has only 30 training images; choose a smaller batch$"
    with pytest.raises(Error, match=complaint):
        tiny.context(wanted, tmp_path).splits(31)
    assert len(tiny.context(wanted, tmp_path).splits(30)[0]) == 30


def test_the_held_out_images_are_those_of_the_splits_own_seed(dataset, tmp_path):
    for seed in (0, 1):
        wanted = tiny.recipe(dataset, data={"split_seed": seed, "validation_split": 0.5}, seed=8)
        found = tiny.context(wanted, tmp_path).splits(1)
        for part, expected in zip(
            found, loading.load_training(str(dataset), None, 0.5, seed), strict=True
        ):
            np.testing.assert_array_equal(part.indices, expected.indices)


# The stage.


@pytest.fixture
def shown(monkeypatch):
    """The images of each contact sheet that is drawn."""
    found, draw = [], plots.contact_sheet

    def contact_sheet(images):
        found.append(images)
        return draw(images[:1])

    monkeypatch.setattr(plots, "contact_sheet", contact_sheet)
    return found


def first_batch(wanted, outlier_seed):
    """The images that a model is to see first: 30 of 30 digits and 15 outliers."""
    mixed = loading.with_outliers(tiny.splits(wanted)[0], 0.5, outlier_seed)
    batches = loading.training_batches(
        mixed, wanted.augment, size=28, batch_size=30, seed=wanted.seed, epochs=range(1)
    )
    return next(iter(batches))[0].numpy()[..., 0]


@pytest.mark.usefixtures("_tiny")
def test_the_stage_keeps_its_best_epoch_calibrated(dataset, tmp_path, shown, capsys):
    """Multiplied by its temperature again, the model has the validation loss of its best row."""
    chosen = Train(epochs=6, warmup_epochs=0, learning_rate=0.1, batch_size=15, schedule="constant")
    wanted = tiny.recipe(dataset, train=chosen, data={"outliers": 0.1})
    _, validation = tiny.splits(wanted)
    summary = train.run(tiny.context(wanted, tmp_path))
    said = " ".join(capsys.readouterr().err.split())
    assert "device: CPU" in said
    assert "train epoch 1/6: loss" in said
    names = {"augmentation.png", "checkpoint.npz", "example.png", "history.csv", "model.keras"}
    assert {path.name for path in tmp_path.iterdir()} == names
    rows = tiny.history(tmp_path)
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert best is not rows[-1]
    temperature = summary.pop("temperature")
    assert summary == {
        "epochs": 6,
        "best_epoch": int(best["epoch"]),
        "validation_accuracy": best["val_accuracy"],
        "validation_images": 10,
        "training_images": 30,
        "outliers": 3,
    }
    kept = keras.models.load_model(tmp_path / "model.keras")
    logits = kept.predict(validation.images[..., np.newaxis] / 255, verbose=0)
    probabilities = log_softmax(logits * temperature, axis=1)
    loss = -probabilities[np.arange(10), validation.labels].mean()
    assert loss == pytest.approx(best["val_loss"], rel=1e-3)
    assert temperature != pytest.approx(1, rel=0.01)
    assert confidence.temperature(logits, validation.labels) == pytest.approx(1, rel=0.01)
    example = np.asarray(Image.open(tmp_path / "example.png"))
    np.testing.assert_array_equal(example, validation.images[0])


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("seed", [3, 4])
def test_the_recipes_seed_decides_outliers_and_order(dataset, tmp_path, shown, seed):
    chosen = Train(epochs=1, **(UNMOVED | {"batch_size": 30}))
    wanted = tiny.recipe(dataset, seed=seed, data={"outliers": 0.5}, train=chosen)
    train.run(tiny.context(wanted, tmp_path))
    np.testing.assert_array_equal(shown[0], first_batch(wanted, outlier_seed=seed))


@pytest.mark.usefixtures("_tiny")
def test_the_contact_sheet_shows_64_images(synthetic, tmp_path, shown):
    wanted = tiny.recipe(synthetic, train=Train(epochs=1, **(UNMOVED | {"batch_size": 100})))
    train.run(tiny.context(wanted, tmp_path))
    assert shown[0].shape == (64, 28, 28)


@pytest.mark.usefixtures("_tiny")
def test_a_student_is_judged_by_the_teachers_answers(dataset, tmp_path, shown):
    """And sees the outliers of their seed, in an order of its own."""
    distill = Distill(model="tiny", seed=7, rounds=1, temperature=2.0)
    chosen = Train(epochs=1, **(UNMOVED | {"batch_size": 30}))
    wanted = tiny.recipe(dataset, distill=distill, data={"outliers": 0.5}, train=chosen)
    _, validation = tiny.splits(wanted)
    generator = np.random.default_rng(0)
    tiny.write_lessons(
        tmp_path / "distill",
        generator.normal(size=(1, 45, 10)),
        teachers := generator.normal(0, 3, (10, 10)).astype(np.float16),
    )
    summary = train.run(tiny.context(wanted, tmp_path / "train", distill=tmp_path / "distill"))
    np.testing.assert_array_equal(shown[0], first_batch(wanted, outlier_seed=7))
    kept = keras.models.load_model(tmp_path / "train" / "model.keras")
    logits = kept.predict(validation.images[..., np.newaxis] / 255, verbose=0)
    p = softmax(teachers.astype(np.float32) / 2, axis=1)
    q = softmax(logits * summary["temperature"] / 2, axis=1)
    divergence = 4 * (p * np.log(p / q)).sum(axis=1).mean()
    assert tiny.history(tmp_path / "train")[0]["val_loss"] == pytest.approx(divergence, rel=1e-3)


def test_teachers_answers_are_read_with_their_seed_and_rounds(tmp_path):
    answers = np.arange(60).reshape(3, 2, 10)
    tiny.write_lessons(tmp_path, answers, answers[0] + 100)
    wanted = Recipe(name="test", seed=1, distill=Distill(seed=7, rounds=2))
    found = tiny.context(wanted, tmp_path, distill=tmp_path).lessons()
    assert found.seed == 7
    np.testing.assert_array_equal(found.training, answers[:2])
    np.testing.assert_array_equal(found.validation, answers[0] + 100)
    assert tiny.context(Recipe(name="test"), tmp_path).lessons() is None


def test_outliers_are_those_that_the_teachers_answered():
    assert inputs.outlier_seed(Recipe(name="test", seed=3)) == 3
    assert inputs.outlier_seed(Recipe(name="test", seed=3, distill=Distill(seed=5))) == 5


# Devices.


def on(monkeypatch, *names):
    """Let this machine have such GPUs; returns what is told about them."""
    told, known = [], dict(enumerate(names))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: list(known))
    experimental = types.SimpleNamespace(
        get_device_details=lambda gpu: {"device_name": known[gpu]} if known[gpu] else {},
        set_memory_growth=lambda gpu, on: told.append((gpu, on)),
    )
    monkeypatch.setattr(tf.config, "experimental", experimental)
    return told


def test_devices_are_named(monkeypatch):
    on(monkeypatch)
    assert devices.device() == "CPU"
    on(monkeypatch, "A100", "", "T4")
    assert devices.device() == "GPU: A100, , T4"


def test_memory_of_every_gpu_is_taken_as_needed(monkeypatch):
    told = on(monkeypatch, "A100", "T4")
    devices.prepare_devices()
    assert told == [(0, True), (1, True)]


def test_all_devices_are_mirrored_and_one_is_not(monkeypatch):
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: "mirrored")
    cluster = types.SimpleNamespace(strategy="of the cluster")
    plain = tf.distribute.get_strategy()
    on(monkeypatch, "A100")
    assert devices.strategy("all", None) is plain
    on(monkeypatch, "A100", "T4")
    assert devices.strategy("all", None) == "mirrored"
    assert devices.strategy("all", cluster) == "of the cluster"
    assert devices.strategy("one", None) is devices.strategy("one", cluster) is plain


@pytest.mark.usefixtures("_tiny")
def test_a_fit_goes_by_the_recipes_devices(dataset, tmp_path):
    """Which its batch has to divide among."""
    seven = types.SimpleNamespace(strategy=types.SimpleNamespace(num_replicas_in_sync=7))
    for kind, refused in (("all", True), ("one", False)):
        wanted = tiny.recipe(dataset, devices=kind, train=Train(epochs=1, **UNMOVED))
        training, validation = tiny.splits(wanted)
        batches = inputs.augmented(wanted, training, 15, 0)
        expected = (
            pytest.raises(Error, match="batch_size = 15 does not divide evenly among 7 devices")
            if refused
            else contextlib.nullcontext()
        )
        with expected:
            setup.train_model(wanted, batches, training, validation, None, tmp_path, cluster=seven)


# Files.


def test_the_same_model_gives_the_same_file(tmp_path, monkeypatch):
    def saved(name):
        keras.utils.set_random_seed(0)
        setup.save(models.build(keras, Model(name="teacher")), tmp_path / name)
        return (tmp_path / name).read_bytes()

    first = saved("first.keras")
    keep = [object() for _ in range(1000)]  # other addresses in memory
    assert saved("second.keras") == first
    assert len(keep) == 1000
    assert not list(tmp_path.glob(f"{TEMPORARY}*"))
    loaded = keras.models.load_model(tmp_path / "first.keras")
    keras.utils.set_random_seed(0)
    expected = models.build(keras, Model(name="teacher"))
    for found, value in zip(loaded.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(found, value)


# What goes with other backends and with mapped images.


def training(tmp_path, synthetic, *overrides):
    loaded = recipe.load(SMOKE, [f"data.dataset={synthetic}", "train.epochs=2", *overrides])
    run = pipeline.open_run(loaded, tmp_path, None)
    return pipeline.execute(run, pipeline.select("train", "train")).stage_folder("train")


@pytest.mark.parametrize(("steps", "together"), [(1, 1), (5, 5), (64, 32), (210, 30), (211, 1)])
def test_steps_that_keras_takes_together_make_up_an_epoch(steps, together):
    assert setup._in_one_go(steps) == together


@pytest.mark.slow
@pytest.mark.needs("jax")
def test_what_jax_trains_tensorflow_quantizes(tmp_path, synthetic, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    settings = ("--set", f"data.dataset={synthetic}", "--set", "train.optimizer=muon")
    result = keras_lenet("train", SMOKE, "--runs", tmp_path, *settings)
    assert result.returncode == 0, result.stderr
    assert "device: jax" in result.stderr
    monkeypatch.delenv("KERAS_BACKEND")
    result = keras_lenet("quantize", SMOKE, "--runs", tmp_path, *settings)
    assert result.returncode == 0, result.stderr
    for stage in ("train", "quantize"):
        record = json.loads((tmp_path / "smoke" / stage / "stage.json").read_text())
        assert record["summary"]["validation_accuracy"] > 0.8


@pytest.mark.slow
@pytest.mark.usefixtures("_tiny")
def test_mapped_images_train_to_the_weights_of_those_in_memory(tmp_path, synthetic, mapped):
    whole = training(tmp_path / "whole", synthetic, "model.name=tiny", "data.standardize=true")
    parts = training(tmp_path / "parts", mapped, "model.name=tiny", "data.standardize=true")
    for name in ("model.keras", "history.csv", train.CONTACT_SHEET, train.EXAMPLE):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
