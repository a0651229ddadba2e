"""Splits, and batches in which every image names itself."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from conftest import write_dataset

from keras_lenet.data import augment, idx, loading, outliers, reading
from keras_lenet.errors import Error
from keras_lenet.recipe import Augment, Degrade, Recipe
from keras_lenet.stages import Context

# TensorFlow's warning that tf.data traces its functions nevertheless, which is what is wanted.
pytestmark = pytest.mark.filterwarnings("ignore:Even though the .tf.config")

WARPS = Augment(shear=0.1, elastic=0.5)
STILL = Augment(rotate=0.0, shift=0.0, zoom=0.0)


@pytest.fixture(autouse=True)
def _uncompiled():
    """XLA compiles for seconds what is computed in milliseconds."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def examples():
    """Noise, but for the corner, whose grey is the image's label; each label is of one image."""
    images = np.random.default_rng(0).integers(0, 256, (53, 28, 28), np.uint8)
    labels = np.random.default_rng(1).permutation(53).astype(np.uint8)
    images[:, :3, :3] = labels[:, np.newaxis, np.newaxis]
    return loading.Examples(images, labels, np.arange(53), "train")


def batches(examples, batch_size=10, epochs=range(1), *, warps=WARPS, seed=0, **rest):
    """A list of (images, targets)."""
    data = loading.training_batches(
        examples, warps, size=rest.pop("size", 32), batch_size=batch_size, seed=seed,
        epochs=epochs, **rest,
    )  # fmt: skip
    return list(data.as_numpy_iterator())


def stream(*args, **kwargs):
    """All images and all targets of `batches`."""
    images, targets = zip(*batches(*args, **kwargs), strict=True)
    return np.concatenate(images), np.concatenate(targets)


def test_batches_have_the_promised_shape(examples):
    found = batches(examples, 10, range(2), warps=Augment(rotate=45.0))
    assert len(found) == 2 * loading.steps_per_epoch(examples, 10) == 10
    for images, labels in found:
        assert images.shape == (10, 32, 32, 1)
        assert images.dtype == np.float32
        assert labels.shape == (10,)
        assert labels.dtype == np.int32
        assert 0 <= images.min() <= images.max() <= 1


def test_labels_stay_with_their_images(examples):
    images, labels = stream(examples, 10, range(2), warps=STILL, size=28)
    np.testing.assert_allclose(images[:, 0, 0, 0] * 255, labels, atol=1e-3)
    where = np.argsort(examples.labels)
    np.testing.assert_allclose(images[..., 0] * 255, examples.images[where[labels]], atol=1e-3)


def test_an_epoch_has_no_image_twice_and_leaves_out_others_than_the_next(examples):
    _, labels = stream(examples, 10, range(4))
    epochs = [set(labels[start : start + 50]) for start in range(0, 200, 50)]
    assert [len(epoch) for epoch in epochs] == [50] * 4
    assert len(set.union(*epochs)) == 53
    assert len({frozenset(epoch) for epoch in epochs}) == 4


def test_every_image_is_in_an_epoch_of_whole_batches(examples):
    _, labels = stream(examples, 53, range(1))
    assert sorted(labels) == list(range(53))


def test_order_depends_on_seed_and_epoch(examples):
    orders = {
        (seed, epoch): tuple(stream(examples, 53, range(epoch, epoch + 1), seed=seed)[1])
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    assert tuple(examples.labels) not in orders.values()


def test_warps_depend_on_seed_epoch_and_index(examples):
    """All images are alike here, so that they differ by their warps alone."""
    alike = loading.Examples(
        np.repeat(examples.images[:1], 53, axis=0), examples.labels, examples.indices, "train"
    )

    def in_order(epoch, seed=0):
        images, labels = stream(alike, 53, range(epoch, epoch + 1), seed=seed)
        return images[np.argsort(labels)][examples.labels]

    first = in_order(0)
    np.testing.assert_array_equal(first, in_order(0))
    for other in (in_order(1), in_order(0, seed=1), np.roll(first, 1, axis=0)):
        assert np.abs(first - other).max(axis=(1, 2, 3)).min() > 0.05


def test_an_epoch_is_the_same_in_other_batches_and_where_a_run_resumes(examples):
    images, labels = stream(examples, 10, range(3))
    resumed, labels_resumed = stream(examples, 10, range(2, 3))
    np.testing.assert_array_equal(images[100:], resumed)
    np.testing.assert_array_equal(labels[100:], labels_resumed)
    other, labels_other = stream(examples, 25, range(1))
    np.testing.assert_array_equal(labels[:50], labels_other)
    np.testing.assert_allclose(images[:50], other, atol=1e-6)


def test_a_seed_gives_the_order_and_the_warps_that_it_always_gave(examples):
    """Otherwise a published recipe no longer gives its published weights."""
    _, labels = stream(examples, 53, range(1, 2), seed=2)
    assert labels[:6].tolist() == [25, 5, 40, 10, 30, 42]
    warped = loading.warped_in_order(examples, WARPS, size=32, seed=2, epoch=1)
    found = np.concatenate(list(warped.as_numpy_iterator()))
    np.testing.assert_allclose(
        found[:6, 16, 16, 0], [0.61019, 0.66631, 0.60073, 0.2369, 0.6121, 0.8718], atol=1e-4
    )


def test_images_warped_in_order_are_those_of_the_same_epoch(examples):
    images, labels = stream(examples, 53, range(1, 2), seed=2)
    warped = loading.warped_in_order(examples, WARPS, size=32, seed=2, epoch=1, batch_size=20)
    parts = list(warped.as_numpy_iterator())
    assert [len(part) for part in parts] == [20, 20, 13]
    order = np.argsort(labels)[examples.labels]
    np.testing.assert_allclose(np.concatenate(parts), images[order], atol=1e-6)


def test_training_images_are_degraded_and_those_that_teachers_answer_are_not(examples):
    inverted = Degrade(light=1.0)
    plain, labels = stream(examples, 53, warps=STILL)
    degraded, labels_degraded = stream(examples, 53, warps=STILL, harms=inverted)
    np.testing.assert_array_equal(labels, labels_degraded)
    draws = loading._draws(53, 0, tf.constant(0, tf.int64)).numpy()[np.argsort(examples.labels)]
    by_name = {name: draws[labels, place] for place, name in enumerate(augment.DRAWS)}
    expected = augment.relight(plain[..., 0], 1.0, by_name)
    np.testing.assert_allclose(degraded[..., 0], expected, atol=1e-5)


@pytest.mark.parametrize(("hosts", "devices"), [(1, 2), (2, 2), (2, 4)])
def test_the_shares_of_all_devices_are_the_batch(examples, hosts, devices):
    """Each host yields one share for each of its devices in turn."""
    images, labels = stream(examples, 12, range(2))
    shares = []
    for host in range(hosts):
        context = tf.distribute.InputContext(hosts, host, devices)
        found = batches(examples, 12, range(2), context=context)
        shares.append([np.stack(part) for part in zip(*found, strict=True)])
    for part, expected in enumerate((images, labels)):
        found = [
            one[part].reshape(8, devices // hosts, 12 // devices, *expected.shape[1:])
            for one in shares
        ]
        np.testing.assert_allclose(
            np.concatenate(found, axis=1).reshape(expected.shape), expected, atol=1e-5
        )


def test_plain_batches_are_every_example_in_order_and_only_resized(examples):
    plain = loading.plain_batches(examples, 32, batch_size=20)
    for _ in range(2):  # from the cache, the second time
        images, labels = zip(*plain.as_numpy_iterator(), strict=True)
        assert [len(batch) for batch in images] == [20, 20, 13]
        np.testing.assert_array_equal(np.concatenate(labels), examples.labels)
        expected = augment.resize(augment.to_unit(examples.images[..., np.newaxis]), 32)
        np.testing.assert_allclose(np.concatenate(images), expected, atol=1e-6)
    assert labels[0].dtype == np.int32


def test_no_batches_wait_at_their_end_for_the_tuner(examples):
    training = loading.training_batches(
        examples, WARPS, size=32, batch_size=10, seed=0, epochs=range(2)
    )
    warped = loading.warped_in_order(examples, WARPS, size=32, seed=0, epoch=0)
    for batches in (training, warped, loading.plain_batches(examples, 32)):
        assert batches.options().autotune.enabled is False


def test_validation_is_stratified_disjoint_and_fixed_by_the_seed(synthetic):
    data = reading.load(str(synthetic), "train")
    training, validation = loading.load_training(str(synthetic), None, 0.1, seed=5)
    assert (training.split, validation.split) == ("train", "validation")
    assert np.bincount(validation.labels).tolist() == [4] * 10
    both = np.concatenate([training.indices, validation.indices])
    assert sorted(both) == list(range(400))
    for part in (training, validation):
        np.testing.assert_array_equal(part.images, data.images[part.indices])
        np.testing.assert_array_equal(part.labels, data.labels[part.indices])
    _, again = loading.load_training(str(synthetic), None, 0.1, seed=5)
    _, other = loading.load_training(str(synthetic), None, 0.1, seed=6)
    np.testing.assert_array_equal(validation.indices, again.indices)
    assert validation.indices.tolist() != other.indices.tolist()


def test_the_run_s_seed_does_not_move_the_validation_split(synthetic, tmp_path):
    def held_out(**data):
        seed = data.pop("seed", 0)
        recipe = Recipe.model_validate({"name": "one", "seed": seed, "data": data})
        context = Context(recipe, str(synthetic), None, {}, tmp_path)
        training, validation = context.splits(1)
        assert len(training) + len(validation) == 400
        return validation.indices.tolist()

    assert held_out(seed=1) == held_out(seed=2)
    assert len(held_out(validation_split=0.25)) == 100


def test_training_opens_no_file_of_the_test_set(tmp_path):
    write_dataset(tmp_path, 40, 20)
    for path in tmp_path.glob("t10k*"):
        path.unlink()
    training, validation = loading.load_training(str(tmp_path), None, 0.5, seed=0)
    assert (len(training), len(validation)) == (20, 20)


def test_classes_of_one_image_leave_none_to_hold_out(tmp_path):
    write_dataset(tmp_path, 10, 10)
    complaint = "no class has two images, so none can be held out .* more than its 10 training"
    with pytest.raises(Error, match=f"^{tmp_path}: {complaint}"):
        loading.load_training(str(tmp_path), None, 0.5, seed=0)


@pytest.mark.parametrize(
    ("share", "held_out"),
    [(0.25, [3, 1, 1, 0]), (0.01, [1, 1, 1, 0]), (0.99, [11, 3, 1, 0]), (0.5, [6, 2, 1, 0])],
)
def test_a_share_of_each_class_is_held_out_and_at_least_one_is_left(share, held_out):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [12, 4, 2, 1]))
    mask = loading.stratified_mask(labels.astype(np.uint8), share, 0)
    assert np.bincount(labels[mask], minlength=4).tolist() == held_out


def test_which_of_a_class_are_held_out_is_random():
    labels = np.zeros(100, np.uint8)
    masks = [loading.stratified_mask(labels, 0.5, seed) for seed in range(3)]
    positions = [np.flatnonzero(mask) for mask in masks]
    assert len({tuple(found) for found in positions}) == 3
    assert all(35 < found.mean() < 65 for found in positions)


def test_calibration_images_are_balanced_and_a_random_choice_of_the_training_images(synthetic):
    training, _ = loading.load_training(str(synthetic), None, 0.1, seed=0)
    chosen = loading.calibration_examples(training, 57, seed=0)
    assert np.bincount(chosen.labels).tolist() == [5] * 10
    assert chosen.split == "train"
    assert set(chosen.indices) <= set(training.indices)
    assert chosen.indices.tolist() == sorted(set(chosen.indices))
    data = reading.load(str(synthetic), "train")
    np.testing.assert_array_equal(chosen.images, data.images[chosen.indices])
    np.testing.assert_array_equal(chosen.labels, data.labels[chosen.indices])
    again, other = (loading.calibration_examples(training, 57, seed) for seed in (0, 1))
    np.testing.assert_array_equal(chosen.indices, again.indices)
    assert chosen.indices.tolist() != other.indices.tolist()
    assert chosen.indices.max() > 200  # not the first ones


def test_the_test_set_is_refused_for_training_and_calibration(synthetic):
    test = loading.load_test(str(synthetic), None)
    assert test.split == "test"
    assert test.indices.tolist() == list(range(100))
    np.testing.assert_array_equal(test.images, reading.load(str(synthetic), "test").images)
    np.testing.assert_array_equal(test.labels, reading.load(str(synthetic), "test").labels)
    for use in (
        lambda: batches(test, 2),
        lambda: loading.warped_in_order(test, WARPS, size=32, seed=0, epoch=0),
        lambda: loading.calibration_examples(test, 10, seed=0),
    ):
        with pytest.raises(ValueError, match=r"^the test set is for the final score: not for"):
            use()


def test_outliers_come_after_the_examples_and_have_no_class(examples):
    mixed = loading.with_outliers(examples, 0.05, seed=7)
    assert len(mixed) == 53 + 3
    np.testing.assert_array_equal(mixed.images[:53], examples.images)
    np.testing.assert_array_equal(mixed.images[53:], outliers.draw(3, 7))
    np.testing.assert_array_equal(mixed.labels[:53], examples.labels)
    assert mixed.labels[53:].tolist() == [loading.NO_CLASS] * 3
    assert mixed.labels.dtype == np.uint8
    assert mixed.indices.tolist() == [*range(53), -1, -1, -1]
    assert mixed.split == "train"
    assert loading.with_outliers(examples, 0.009, seed=7) is examples


def test_an_empty_test_set_is_named(synthetic, tmp_path):
    shutil.copytree(synthetic, tmp_path / "empty")
    for path in (tmp_path / "empty").glob("t10k*"):
        path.unlink()
    idx.write(tmp_path / "empty" / "t10k-images-idx3-ubyte", np.zeros((0, 28, 28), np.uint8))
    idx.write(tmp_path / "empty" / "t10k-labels-idx1-ubyte", np.zeros(0, np.uint8))
    with pytest.raises(Error, match="empty"):
        loading.load_test(str(tmp_path / "empty"), None)


@pytest.mark.slow
def test_mapped_images_give_the_batches_of_those_in_memory(synthetic, mapped):
    """To the bit, every epoch, wherever a run resumes, and for every host."""
    whole, _ = loading.load_training(str(synthetic), None, 0.1, seed=5)
    parts, _ = loading.load_training(str(mapped), None, 0.1, seed=5)
    np.testing.assert_array_equal(parts.indices, whole.indices)
    hosts = [tf.distribute.InputContext(2, host, 2) for host in range(2)]
    for epochs, context in [(range(2), None), (range(1, 2), None)] + [
        (range(1), host) for host in hosts
    ]:
        found, expected = (stream(one, 48, epochs, context=context) for one in (parts, whole))
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_mapped_images_give_the_validation_batches_of_those_in_memory(synthetic, mapped):
    found, expected = (
        loading.plain_batches(loading.load_training(str(one), None, 0.2, seed=0)[1], 32, 30)
        for one in (mapped, synthetic)
    )
    for ours, theirs in zip(found, expected, strict=True):
        for part, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(part, other)


def test_an_epoch_of_mapped_images_has_each_once(tmp_path):
    """Each image names itself, and is not warped."""
    images = np.zeros((60, 28, 28), np.uint8)
    images[:] = np.arange(60)[:, np.newaxis, np.newaxis]
    idx.write(tmp_path / "train-images-idx3-ubyte", images)
    idx.write(tmp_path / "train-labels-idx1-ubyte", np.arange(60, dtype=np.uint8) % 10)
    examples, held_out = loading.load_training(str(tmp_path), None, 1 / 3, seed=0)
    data = batches(examples, 20, range(2), warps=STILL)
    seen = [np.round(images[:, 9, 9, 0] * 255).astype(int) for images, _ in data]
    first, second = np.concatenate(seen[:2]), np.concatenate(seen[2:])
    assert sorted(first) == sorted(second) == sorted(set(range(60)) - set(held_out.indices))
    assert list(first) != list(second)


def test_mapped_images_go_with_outliers(mapped):
    examples, _ = loading.load_training(str(mapped), None, 0.1, seed=0)
    assert isinstance(examples.images, loading.Rows)
    mixed = loading.with_outliers(examples, 0.1, seed=0)
    np.testing.assert_array_equal(mixed.images[: len(examples)], examples.images[:])


def lessons_for(examples, rounds=2, seed=7):
    """Teachers who answer an image of label n in round r with logits that begin with n and r."""
    logits = np.zeros((rounds, len(examples), 10), np.float16)
    logits[..., 0] = examples.labels
    logits[..., 1] = np.arange(rounds)[:, np.newaxis]
    logits[..., 2:] = np.random.default_rng(0).normal(size=(rounds, len(examples), 8))
    return loading.Lessons(seed, logits, logits[0] + 1)


def test_targets_hold_the_label_and_what_teachers_said_of_that_very_image(examples):
    """The image is warped by the teachers' seed and round, and comes when the run's seed says."""
    lessons = lessons_for(examples)
    place = np.argsort(examples.labels)
    epochs = batches(examples, 53, range(1, 4), lessons=lessons)
    for turn, (images, targets) in zip((1, 0, 1), epochs, strict=True):
        labels = targets[:, 0].astype(int)
        assert targets.dtype == np.float32
        np.testing.assert_array_equal(targets[:, 1:], lessons.training[turn, place[labels]])
        answered = loading.warped_in_order(
            examples, WARPS, size=32, seed=7, epoch=turn, batch_size=20
        )
        answered = np.concatenate(list(answered.as_numpy_iterator()))
        np.testing.assert_allclose(images, answered[place[labels]], atol=1e-5)
    orders = [targets[:, 0].tolist() for _, targets in epochs]
    assert orders[0] != orders[2]  # the same images in another order
    assert orders == [labels.tolist() for _, labels in batches(examples, 53, range(1, 4))]


def test_plain_targets_hold_what_teachers_said(examples):
    lessons = lessons_for(examples)
    plain = loading.plain_batches(examples, 32, batch_size=20, lessons=lessons)
    targets = np.concatenate([targets for _, targets in plain.as_numpy_iterator()])
    np.testing.assert_array_equal(targets[:, 0], examples.labels)
    np.testing.assert_array_equal(targets[:, 1:], lessons.validation)


def test_lessons_are_read_round_by_round(tmp_path):
    for number in range(12):  # of which the recipe may use fewer
        np.save(tmp_path / f"round-{number:03}.npy", np.full((4, 10), number, np.float16))
    np.save(tmp_path / "validation.npy", np.full((2, 10), -1, np.float16))
    lessons = loading.Lessons.read(tmp_path, 3, 11)
    assert lessons.seed == 3
    assert lessons.training.shape == (11, 4, 10)
    assert lessons.training[:, 0, 0].tolist() == list(range(11))
    np.testing.assert_array_equal(lessons.validation, np.full((2, 10), -1))
