"""Teachers: their training and their logits."""

import keras
import numpy as np
import pytest
import tiny
from conftest import SMOKE, write_dataset

from keras_lenet import pipeline, recipe
from keras_lenet.data import loading
from keras_lenet.errors import Error
from keras_lenet.recipe import Augment, Degrade, Distill, Model, Train
from keras_lenet.stages import STAGES, distill, train

pytestmark = pytest.mark.slow

STUDENT, OWN = Augment(rotate=40.0), Augment(shift=5.0)
TEACHERS_TRAINING = Train(epochs=2, batch_size=15, learning_rate=0.05, warmup_epochs=0)


@pytest.fixture(autouse=True, scope="module")
def _tiny():
    with pytest.MonkeyPatch.context() as patch:
        tiny.register(patch)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """40 training images; 30 are left to train on and 10 to validate."""
    return write_dataset(tmp_path_factory.mktemp("few"), train=40, test=10)


def distilled(dataset, augment=OWN, outliers=0.1):
    """A recipe of two teachers, none of whose settings but `augment` are the student's."""
    distill = Distill(
        model="tiny", teachers=2, seed=3, rounds=2, augment=augment, train=TEACHERS_TRAINING
    )
    return tiny.recipe(
        dataset,
        distill=distill,
        augment=STUDENT,
        degrade=Degrade(noise=0.5),
        seed=9,
        model=Model(name="lenet5", pad=True, initializer="fan_in"),
        train=Train(optimizer="sgd", epochs=4),
        data={"outliers": outliers},
    )


def teachers_of(folder):
    return [keras.models.load_model(folder / f"teacher-{k}" / "model.keras") for k in (0, 1)]


@pytest.fixture(scope="module")
def taught(dataset, tmp_path_factory):
    """The recipe, what the stage says of it, and its folder; not to be changed."""
    folder, wanted = tmp_path_factory.mktemp("taught"), distilled(dataset)
    return wanted, distill.run(tiny.context(wanted, folder)), folder


@pytest.mark.parametrize(
    ("number", "augment", "outliers"), [(0, OWN, 0.1), (1, None, 0.0)], ids=["own", "student's"]
)
def test_a_teacher_is_trained_on_labels_with_its_own_settings(
    dataset, tmp_path, number, augment, outliers
):
    """Without an augmentation of its own, with the student's; never on degraded images."""
    found, alone = tmp_path / "found", tmp_path / "alone"
    distill.run(tiny.context(distilled(dataset, augment, outliers), found))
    wanted = tiny.recipe(
        dataset,
        augment=augment or STUDENT,
        seed=3 + number,
        train=TEACHERS_TRAINING,
        data={"outliers": outliers},
    )
    train.run(tiny.context(wanted, alone))
    expected = keras.models.load_model(alone / "model.keras").get_weights()
    for values, others in zip(teachers_of(found)[number].get_weights(), expected, strict=True):
        np.testing.assert_array_equal(values, others)


def mean_logits(folder, images):
    first, second = (model(images).numpy() for model in teachers_of(folder))
    assert not np.allclose(first, second, atol=0.1)
    return (first + second) / 2


@pytest.mark.parametrize("number", [0, 1])
def test_logits_are_means_for_the_images_as_the_student_sees_them(taught, number):
    """Augmented by the student's settings and the round, in order, outliers last, not degraded."""
    wanted, _, folder = taught
    mixed = loading.with_outliers(tiny.splits(wanted)[0], 0.1, 3)
    seen = loading.augmented_in_order(mixed, STUDENT, size=28, seed=3, epoch=number)
    images = np.concatenate(list(seen.as_numpy_iterator()))
    found = np.load(folder / f"round-{number:03}.npy")
    assert (found.shape, found.dtype) == ((33, 10), np.float16)
    np.testing.assert_allclose(found, mean_logits(folder, images), rtol=2e-3, atol=2e-3)


def test_validation_images_are_not_augmented(taught):
    wanted, summary, folder = taught
    validation = tiny.splits(wanted)[1]
    expected = mean_logits(folder, validation.images[..., np.newaxis] / np.float32(255))
    found = np.load(folder / "validation.npy")
    assert (found.shape, found.dtype) == ((10, 10), np.float16)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    best = [
        max(row["val_accuracy"] for row in tiny.history(folder / f"teacher-{k}")) for k in (0, 1)
    ]
    assert summary == {
        "validation_accuracies": best,
        "validation_accuracy": pytest.approx((expected.argmax(1) == validation.labels).mean()),
        "validation_images": 10,
    }


def test_an_interrupted_stage_resumes(taught, tmp_path, capsys):
    """Finished teachers and rounds are kept; the others are as they would have been."""
    wanted, summary, whole = taught
    context = tiny.context(wanted, tmp_path)
    distill.run(context)
    said = " ".join(capsys.readouterr().err.split())
    assert "device: CPU" in said
    assert "teacher 2 of 2 epoch 2/2: loss" in said
    np.save(tmp_path / "round-000.npy", np.zeros(3))
    (tmp_path / "round-001.npy").unlink()
    assert distill.run(context) == summary
    said = capsys.readouterr().err
    assert "teacher 1 of 2: resuming after epoch 2" in said
    assert "teacher 2 of 2: resuming after epoch 2" in said
    np.testing.assert_array_equal(np.load(tmp_path / "round-000.npy"), np.zeros(3))
    for name in ("round-001.npy", "validation.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / name), np.load(whole / name))


def test_a_recipe_without_teachers_has_nothing_to_distill(dataset, tmp_path):
    with pytest.raises(Error, match=r"^no \[distill\] section: nothing to distill$"):
        distill.run(tiny.context(tiny.recipe(dataset), tmp_path))
    run = pipeline.open_run(recipe.load_recipe(SMOKE, [f"data.dataset={dataset}"]), tmp_path, None)
    with pytest.raises(Error, match=r"has no \[distill\] section: add one to distill"):
        pipeline.execute(run, pipeline.select("distill", "distill"))


def load(dataset, *overrides):
    return recipe.load_recipe(
        SMOKE,
        [
            f"data.dataset={dataset}", "data.validation_split=0.25", "model.name=tiny",
            "train.epochs=2", "train.batch_size=15", "distill.model=tiny", "distill.rounds=2",
            "distill.train.epochs=2", "distill.train.batch_size=15", *overrides,
        ],
    )  # fmt: skip


def test_runs_of_other_seeds_share_the_teachers(dataset, tmp_path):
    """As a whole run has it: the student learns from what the distill stage left."""
    run = pipeline.open_run(load(dataset), tmp_path, None)
    run = pipeline.execute(run, pipeline.select(None, "train"))
    stages = STAGES
    other = pipeline.open_run(load(dataset, "seed=5", "name=other"), tmp_path, None)
    assert other.stage_folder("distill") == run.stage_folder("distill")
    assert other.why_stale(stages["distill"]) is None
    assert other.why_stale(stages["train"]) == pipeline.NOT_RUN
    changed = pipeline.open_run(load(dataset, "distill.rounds=3"), tmp_path, None)
    assert changed.why_stale(stages["distill"]) == pipeline.NOT_RUN
    assert changed.why_stale(stages["train"]) == "the recipe changed"
