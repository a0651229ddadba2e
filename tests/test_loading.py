"""Splits, and batches in which every image names itself."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import write_dataset, write_idx

from keras_lenet.data import augment, loading, outliers, reading
from keras_lenet.errors import Error
from keras_lenet.recipe import Augment, Degrade

# TensorFlow warns that tf.data traces its functions nevertheless.
pytestmark = pytest.mark.filterwarnings("ignore:Even though the .tf.config")

WARPED = Augment(shear=0.1, elastic=0.5)
STILL = Augment(rotate=0.0, shift=0.0, zoom=0.0)


@pytest.fixture(autouse=True)
def _uncompiled():
    """XLA compiles for seconds what is computed in milliseconds."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def examples():
    """53 images of noise; image n has label n, and n as the grey of its corner."""
    images = np.random.default_rng(0).integers(0, 256, (53, 28, 28), np.uint8)
    labels = np.arange(53, dtype=np.uint8)
    images[:, :3, :3] = labels[:, np.newaxis, np.newaxis]
    return loading.Examples(images, labels, np.arange(53), "train")


def batches(
    examples, batch_size=10, epochs=range(1), *, augmentation=WARPED, size=32, seed=0, **rest
):
    """A list of (images, targets)."""
    data = loading.training_batches(
        examples, augmentation, size=size, batch_size=batch_size, seed=seed, epochs=epochs, **rest
    )
    assert data.options().autotune.enabled is False
    return list(data.as_numpy_iterator())


def stream(*args, **kwargs):
    """All images and all targets of `batches`."""
    return tuple(map(np.concatenate, zip(*batches(*args, **kwargs), strict=True)))


def in_order(examples, **settings):
    """All images of `augmented_in_order`."""
    data = loading.augmented_in_order(examples, WARPED, size=32, **settings)
    return np.concatenate(list(data.as_numpy_iterator()))


def test_batches_have_the_promised_shape_and_labels_stay_with_their_images(examples):
    found = batches(examples, 10, range(2), augmentation=STILL, size=28)
    assert len(found) == 2 * loading.steps_per_epoch(examples, 10) == 10
    for images, labels in found:
        assert (images.shape, images.dtype) == ((10, 28, 28, 1), np.float32)
        assert (labels.shape, labels.dtype) == ((10,), np.int32)
        np.testing.assert_allclose(images[..., 0] * 255, examples.images[labels], atol=1e-3)


def test_an_epoch_has_no_image_twice_and_each_epoch_omits_others(examples):
    epochs = np.split(stream(examples, 10, range(4))[1], 4)
    assert [len(set(epoch)) for epoch in epochs] == [50] * 4
    assert set(np.concatenate(epochs)) == set(range(53))
    assert len({frozenset(epoch) for epoch in epochs}) == 4
    assert sorted(stream(examples, 53, range(1))[1]) == list(range(53))


def test_order_and_augmentation_depend_on_seed_and_epoch_and_augmentation_on_the_index(examples):
    images = np.repeat(examples.images[:1], 53, axis=0)
    alike = loading.Examples(images, examples.labels, examples.indices, "train")
    orders, changed = set(), []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        images, labels = stream(alike, 53, range(epoch, epoch + 1), seed=seed)
        orders.add(tuple(labels))
        changed.append(images[np.argsort(labels)])
    assert len(orders) == 3
    assert tuple(range(53)) not in orders
    first = changed[0]
    for other in (*changed[1:], np.roll(first, 1, axis=0)):
        assert np.abs(first - other).max(axis=(1, 2, 3)).min() > 0.05


def test_an_epoch_is_the_same_in_other_batches_and_where_a_run_resumes(examples):
    images, labels = stream(examples, 10, range(3))
    resumed, labels_resumed = stream(examples, 10, range(2, 3))
    np.testing.assert_array_equal(images[100:], resumed)
    np.testing.assert_array_equal(labels[100:], labels_resumed)
    other, labels_other = stream(examples, 25, range(1))
    np.testing.assert_array_equal(labels[:50], labels_other)
    np.testing.assert_allclose(images[:50], other, atol=1e-6)


def test_a_seed_gives_the_order_and_the_augmentation_of_published_runs(examples):
    images, labels = stream(examples, 53, range(1, 2), seed=2)
    assert labels[:6].tolist() == [7, 44, 10, 42, 22, 35]
    found = in_order(examples, seed=2, epoch=1)
    np.testing.assert_allclose(
        found[:6, 16, 16, 0], [0.61019, 0.66631, 0.60073, 0.2369, 0.6121, 0.8718], atol=1e-4
    )
    np.testing.assert_allclose(found[labels], images, atol=1e-6)


def test_degradation_uses_the_image_s_own_draws(examples):
    plain, labels = stream(examples, 53, augmentation=STILL)
    degraded, labels_degraded = stream(
        examples, 53, augmentation=STILL, degradation=Degrade(light=1.0)
    )
    np.testing.assert_array_equal(labels, labels_degraded)
    draws = loading._drawer(53, 0, tf.constant(0, tf.int64))(labels)
    named = dict(zip(augment.DRAWS, tf.unstack(draws, axis=1), strict=True))
    expected = augment.relight(plain[..., 0], 1.0, named)
    np.testing.assert_allclose(degraded[..., 0], expected, atol=1e-5)


@pytest.mark.parametrize(("hosts", "devices"), [(1, 2), (2, 2), (2, 4)])
def test_the_shares_of_all_devices_are_the_batch(examples, hosts, devices):
    shares = []
    for host in range(hosts):
        context = tf.distribute.InputContext(hosts, host, devices)
        found = batches(examples, 12, range(2), context=context)
        shares.append([np.stack(part) for part in zip(*found, strict=True)])
    for part, expected in enumerate(stream(examples, 12, range(2))):
        shape = (8, devices // hosts, 12 // devices, *expected.shape[1:])
        found = np.concatenate([one[part].reshape(shape) for one in shares], axis=1)
        np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)


def test_plain_batches_are_every_example_in_order_and_only_resized(examples):
    teachers = teachers_for(examples)
    expected = augment.resize(augment.to_unit(examples.images[..., np.newaxis]), 32)
    for given, dtype in ((None, np.int32), (teachers, np.float32)):
        plain = loading.plain_batches(examples, 32, batch_size=20, teachers=given)
        assert plain.options().autotune.enabled is False
        images, targets = zip(*plain.as_numpy_iterator(), strict=True)
        assert [len(batch) for batch in images] == [20, 20, 13]
        np.testing.assert_allclose(np.concatenate(images), expected, atol=1e-6)
        targets = np.concatenate(targets)
        assert targets.dtype == dtype
        targets = targets.reshape(53, -1)
        np.testing.assert_array_equal(targets[:, 0], examples.labels)
        if given:
            np.testing.assert_array_equal(targets[:, 1:], given.validation)


def test_validation_is_stratified_disjoint_and_fixed_by_the_seed(synthetic):
    data = reading.load(str(synthetic), "train")
    training, validation = loading.load_training(str(synthetic), None, 0.1, seed=5)
    assert (training.split, validation.split) == ("train", "validation")
    assert np.bincount(validation.labels).tolist() == [4] * 10
    assert sorted([*training.indices, *validation.indices]) == list(range(400))
    for part in (training, validation):
        np.testing.assert_array_equal(part.images, data.images[part.indices])
        np.testing.assert_array_equal(part.labels, data.labels[part.indices])
    again, other = (loading.load_training(str(synthetic), None, 0.1, seed)[1] for seed in (5, 6))
    np.testing.assert_array_equal(validation.indices, again.indices)
    assert validation.indices.tolist() != other.indices.tolist()


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


def test_calibration_examples_are_a_balanced_random_choice_of_training_examples(synthetic):
    training, _ = loading.load_training(str(synthetic), None, 0.1, seed=0)
    chosen, again, other = (loading.calibration_examples(training, 57, seed) for seed in (0, 0, 1))
    assert np.bincount(chosen.labels).tolist() == [5] * 10
    assert chosen.split == "train"
    assert chosen.indices.tolist() == sorted(set(chosen.indices) & set(training.indices))
    data = reading.load(str(synthetic), "train")
    np.testing.assert_array_equal(chosen.images, data.images[chosen.indices])
    np.testing.assert_array_equal(chosen.indices, again.indices)
    assert chosen.indices.tolist() != other.indices.tolist()
    assert chosen.indices.max() > 200  # not the first examples


def test_the_test_set_is_refused_for_training_and_calibration(synthetic):
    test, data = loading.load_test(str(synthetic), None), reading.load(str(synthetic), "test")
    assert test.split == "test"
    np.testing.assert_array_equal(test.indices, np.arange(100))
    np.testing.assert_array_equal(test.images, data.images)
    np.testing.assert_array_equal(test.labels, data.labels)
    for use in (
        lambda: batches(test, 2),
        lambda: loading.augmented_in_order(test, WARPED, size=32, seed=0, epoch=0),
        lambda: loading.calibration_examples(test, 10, seed=0),
    ):
        with pytest.raises(ValueError, match=r"^the test set is for the final score: not for"):
            use()


@pytest.mark.parametrize("folder", ["synthetic", "mapped"])
def test_outliers_follow_the_examples_and_have_no_class(request, folder):
    folder = request.getfixturevalue(folder)
    examples, _ = loading.load_training(str(folder), None, 0.1, seed=0)
    mixed = loading.with_outliers(examples, 0.01, seed=7)
    np.testing.assert_array_equal(mixed.images[:360], examples.images[:])
    np.testing.assert_array_equal(mixed.images[360:], outliers.draw(4, 7))
    np.testing.assert_array_equal(mixed.labels, [*examples.labels, *[loading.NO_CLASS] * 4])
    assert mixed.labels.dtype == np.uint8
    assert mixed.indices.tolist() == [*examples.indices, -1, -1, -1, -1]
    assert (len(mixed), mixed.split) == (364, "train")
    assert loading.with_outliers(examples, 0.001, seed=7) is examples


@pytest.mark.slow
def test_mapped_images_give_the_batches_of_those_in_memory(synthetic, mapped):
    (held, held_validation), (read, read_validation) = (
        loading.load_training(str(folder), None, 0.1, seed=5) for folder in (synthetic, mapped)
    )
    assert isinstance(read.images, loading.Rows)
    np.testing.assert_array_equal(read.indices, held.indices)
    host = tf.distribute.InputContext(2, 1, 2)
    for epochs, context in ((range(2), None), (range(1, 2), None), (range(1), host)):
        found, expected = (stream(one, 48, epochs, context=context) for one in (read, held))
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
    plain = [loading.plain_batches(one, 32, 30) for one in (read_validation, held_validation)]
    for (images, labels), (expected, expected_labels) in zip(*plain, strict=True):
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, expected_labels)


def anonymous():
    """This process's memory in bytes that belongs to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.slow
def test_an_epoch_of_a_mapped_file_takes_less_than_115_bytes_an_image(tmp_path):
    def draw():
        examples, _ = loading.load_training(str(tmp_path), None, 0.1, seed=0)
        next(iter(loading.training_batches(
            examples, STILL, size=28, batch_size=10, seed=0, epochs=range(1)
        )))  # fmt: skip

    peaks = []
    for count in (10_000, 1_010_000):
        labels = np.resize(np.arange(10, dtype=np.uint8), count)
        write_idx(tmp_path / "train-labels-idx1-ubyte", labels)
        with (tmp_path / "train-images-idx3-ubyte").open("wb") as file:
            file.write(bytes([0, 0, 8, 3]) + np.array((count, 28, 28), ">u4").tobytes())
            file.truncate(16 + count * 28 * 28)  # a sparse file
        before, seen = anonymous(), [0]
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(draw)
            while not job.done():
                seen.append(anonymous() - before)
        job.result()
        peaks.append(max(seen))
    assert peaks[1] - peaks[0] < 115 * 1_000_000


def teachers_for(examples, rounds=2, seed=7):
    """Logits that begin with the image's label and the round."""
    logits = np.zeros((rounds, len(examples), 10), np.float16)
    logits[..., 0] = examples.labels
    logits[..., 1] = np.arange(rounds)[:, np.newaxis]
    logits[..., 2:] = np.random.default_rng(0).normal(size=(rounds, len(examples), 8))
    return loading.TeacherLogits(seed, logits, logits[0] + 1)


def test_targets_hold_the_label_and_the_logits_of_that_very_image(examples):
    """The teachers' seed and round decide the augmentation, the run's seed the order."""
    teachers = teachers_for(examples)
    epochs = batches(examples, 53, range(1, 4), teachers=teachers)
    for turn, (images, targets) in zip((1, 0, 1), epochs, strict=True):
        labels = targets[:, 0].astype(int)
        assert targets.dtype == np.float32
        np.testing.assert_array_equal(targets[:, 1:], teachers.training[turn, labels])
        seen = in_order(examples, seed=7, epoch=turn)
        np.testing.assert_allclose(images, seen[labels], atol=1e-5)
    orders = [targets[:, 0].tolist() for _, targets in epochs]
    assert orders[0] != orders[2]  # the same images in another order
    assert orders == [labels.tolist() for _, labels in batches(examples, 53, range(1, 4))]


def test_teacher_logits_are_read_round_by_round(tmp_path):
    for number in range(3):  # of which the recipe may use fewer
        np.save(tmp_path / f"round-{number:03}.npy", np.full((4, 10), number, np.float16))
    np.save(tmp_path / "validation.npy", np.full((2, 10), -1, np.float16))
    teachers = loading.TeacherLogits.read(tmp_path, 3, 2)
    assert teachers.seed == 3
    assert teachers.training[:, 0, 0].tolist() == [0, 1]
    np.testing.assert_array_equal(teachers.validation, np.full((2, 10), -1))
