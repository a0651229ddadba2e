import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_lenet import cli
from keras_lenet.data import idx, loading, philox
from keras_lenet.errors import Error
from keras_lenet.recipe import Augment

WARPS = Augment(shear=0.1, elastic=0.5)


@pytest.fixture(scope="module")
def examples():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (53, 28, 28), np.uint8)
    labels = np.arange(53).astype(np.uint8)  # each label names its image
    return loading.Examples(images, labels, np.arange(53), "train")


def stream(examples, batch_size, epochs, seed=0):
    data = loading.training_batches(
        examples, WARPS, size=32, batch_size=batch_size, seed=seed, epochs=epochs
    )
    images, labels = zip(*data.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def test_batches_have_the_promised_shape(examples):
    data = loading.training_batches(
        examples, WARPS, size=32, batch_size=10, seed=0, epochs=range(2)
    )
    batches = list(data.as_numpy_iterator())
    assert len(batches) == 2 * loading.steps_per_epoch(examples, 10) == 10
    images, labels = batches[0]
    assert images.shape == (10, 32, 32, 1)
    assert images.dtype == np.float32
    assert labels.dtype == np.int32
    assert images.min() >= 0
    assert images.max() <= 1


def test_an_epoch_has_no_image_twice_and_each_its_own_order(examples):
    _, labels = stream(examples, 10, range(2))
    first, second = labels[:50], labels[50:]
    assert len(set(first)) == len(set(second)) == 50
    assert list(first) != list(second)
    assert list(first) != sorted(first)


def test_seed_epoch_and_index_fix_every_image(examples):
    """Whatever the batch size, and wherever a run resumes."""
    images, labels = stream(examples, 10, range(3))
    again, labels_again = stream(examples, 10, range(3))
    np.testing.assert_array_equal(images, again)
    resumed, labels_resumed = stream(examples, 10, range(2, 3))
    np.testing.assert_array_equal(images[100:], resumed)
    np.testing.assert_array_equal(labels[100:], labels_resumed)
    other, labels_other = stream(examples, 25, range(1))
    np.testing.assert_array_equal(labels[:50], labels_other)
    np.testing.assert_allclose(images[:50], other, atol=1e-6)
    assert (labels == labels_again).all()


@pytest.mark.parametrize(("hosts", "devices"), [(1, 2), (2, 2), (2, 4)])
def test_the_shares_of_all_devices_are_the_batch(examples, hosts, devices):
    """Each host yields one share for each of its devices in turn."""
    images, labels = stream(examples, 12, range(2))
    shares = []
    for host in range(hosts):
        data = loading.training_batches(
            examples,
            WARPS,
            size=32,
            batch_size=12,
            seed=0,
            epochs=range(2),
            context=tf.distribute.InputContext(hosts, host, devices),
        )
        shares.append([np.stack(part) for part in zip(*data.as_numpy_iterator(), strict=True)])
    for part, expected in enumerate((images, labels)):
        found = [
            one[part].reshape(8, devices // hosts, 12 // devices, *expected.shape[1:])
            for one in shares
        ]
        np.testing.assert_allclose(
            np.concatenate(found, axis=1).reshape(expected.shape), expected, atol=1e-5
        )


def test_another_seed_or_epoch_gives_other_warps(examples):
    def of_image_0(*args, **kwargs):
        images, labels = stream(examples, 53, *args, **kwargs)
        return images[labels == 0][0]

    first = of_image_0(range(1))
    assert np.abs(first - of_image_0(range(1, 2))).max() > 0.1
    assert np.abs(first - of_image_0(range(1), seed=1)).max() > 0.1


def test_plain_batches_are_every_example_in_order(examples):
    images, labels = zip(
        *loading.plain_batches(examples, 32, batch_size=20).as_numpy_iterator(), strict=True
    )
    assert [len(batch) for batch in images] == [20, 20, 13]
    np.testing.assert_array_equal(np.concatenate(labels), examples.labels)


def test_no_batches_wait_at_their_end_for_the_tuner(examples):
    training = loading.training_batches(
        examples, WARPS, size=32, batch_size=10, seed=0, epochs=range(2)
    )
    warped = loading.warped_in_order(examples, WARPS, size=32, seed=0, epoch=0)
    for batches in (training, warped, loading.plain_batches(examples, 32)):
        assert batches.options().autotune.enabled is False


def test_validation_is_stratified_disjoint_and_fixed_by_the_seed(synthetic):
    training, validation = loading.load_training(str(synthetic), None, 0.1, seed=5)
    assert len(training) == 360
    assert np.bincount(validation.labels).tolist() == [4] * 10
    assert not set(training.indices) & set(validation.indices)
    _, again = loading.load_training(str(synthetic), None, 0.1, seed=5)
    _, other = loading.load_training(str(synthetic), None, 0.1, seed=6)
    np.testing.assert_array_equal(validation.indices, again.indices)
    assert validation.indices.tolist() != other.indices.tolist()


def test_a_small_share_still_holds_out_one_of_each_class():
    labels = np.repeat(np.arange(10), 3).astype(np.uint8)
    assert np.bincount(labels[loading.stratified_mask(labels, 0.01, 0)]).tolist() == [1] * 10
    assert np.bincount(labels[~loading.stratified_mask(labels, 0.99, 0)]).tolist() == [1] * 10


def test_calibration_images_are_balanced_and_from_training(synthetic):
    training, _ = loading.load_training(str(synthetic), None, 0.1, seed=0)
    chosen = loading.calibration_examples(training, 57, seed=0)
    assert np.bincount(chosen.labels).tolist() == [5] * 10
    assert set(chosen.indices) <= set(training.indices)


def test_the_test_set_is_refused_for_training_and_calibration(synthetic):
    test = loading.load_test(str(synthetic), None)
    with pytest.raises(ValueError, match="final score"):
        loading.training_batches(test, WARPS, size=32, batch_size=2, seed=0, epochs=range(1))
    with pytest.raises(ValueError, match="final score"):
        loading.calibration_examples(test, 10, seed=0)


def test_outliers_come_after_the_examples_and_have_no_class(synthetic):
    examples, _ = loading.load_training(str(synthetic), None, 0.1, seed=0)
    mixed = loading.with_outliers(examples, 0.05, seed=0)
    assert len(mixed) == len(examples) + round(0.05 * len(examples))
    np.testing.assert_array_equal(mixed.images[: len(examples)], examples.images)
    assert set(mixed.labels[len(examples) :]) == {loading.NO_CLASS}
    assert set(mixed.indices[len(examples) :]) == {-1}
    assert mixed.split == "train"


def test_an_empty_test_set_is_named(synthetic, tmp_path):
    shutil.copytree(synthetic, tmp_path / "empty")
    for path in (tmp_path / "empty").glob("t10k*"):
        path.unlink()
    idx.write(tmp_path / "empty" / "t10k-images-idx3-ubyte", np.zeros((0, 28, 28), np.uint8))
    idx.write(tmp_path / "empty" / "t10k-labels-idx1-ubyte", np.zeros(0, np.uint8))
    with pytest.raises(Error, match="empty"):
        loading.load_test(str(tmp_path / "empty"), None)


def rows(examples, epochs, batch_size=48, **context):
    data = loading.training_batches(
        examples, WARPS, size=32, batch_size=batch_size, seed=0, epochs=epochs, **context
    )
    return [np.concatenate(part) for part in zip(*data.as_numpy_iterator(), strict=True)]


def test_shards_give_the_batches_of_one_file(synthetic, sharded):
    """To the bit, every epoch, wherever a run resumes, and for every host."""
    whole, _ = loading.load_training(str(synthetic), None, 0.1, seed=5)
    parts, _ = loading.load_training(str(sharded), None, 0.1, seed=5)
    np.testing.assert_array_equal(parts.indices, whole.indices)
    hosts = [tf.distribute.InputContext(2, host, 2) for host in range(2)]
    for epochs, context in [(range(2), None), (range(1, 2), None)] + [
        (range(1), host) for host in hosts
    ]:
        found, expected = (rows(one, epochs, context=context) for one in (parts, whole))
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_shards_give_the_validation_batches_of_one_file(synthetic, sharded):
    found, expected = (
        loading.plain_batches(loading.load_training(str(one), None, 0.2, seed=0)[1], 32, 30)
        for one in (sharded, synthetic)
    )
    for ours, theirs in zip(found, expected, strict=True):
        for part, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(part, other)


def test_an_epoch_of_shards_has_each_image_once(tmp_path):
    """Each image names itself, and is not warped."""
    images = np.zeros((60, 28, 28), np.uint8)
    images[:] = np.arange(60)[:, np.newaxis, np.newaxis]
    for number in range(4):
        part = slice(15 * number, 15 * number + 15)
        end = f"ubyte-{number:05}-of-00004"
        idx.write(tmp_path / f"train-images-idx3-{end}", images[part])
        idx.write(tmp_path / f"train-labels-idx1-{end}", np.arange(60, dtype=np.uint8)[part] % 10)
    examples, held_out = loading.load_training(str(tmp_path), None, 1 / 3, seed=0)
    data = loading.training_batches(
        examples,
        Augment(rotate=0, shift=0, zoom=0),
        size=32,
        batch_size=20,
        seed=0,
        epochs=range(2),
    )
    seen = [np.round(batch[:, 9, 9, 0] * 255).astype(int) for batch, _ in data.as_numpy_iterator()]
    first, second = np.concatenate(seen[:2]), np.concatenate(seen[2:])
    assert sorted(first) == sorted(second) == sorted(set(range(60)) - set(held_out.indices))
    assert list(first) != list(second)


def test_what_does_not_go_with_shards_is_named(sharded):
    examples, _ = loading.load_training(str(sharded), None, 0.1, seed=0)
    assert loading.with_outliers(examples, 0, seed=0) is examples
    with pytest.raises(Error, match=r"data\.outliers needs the training images in memory"):
        loading.with_outliers(examples, 0.1, seed=0)
    with pytest.raises(Error, match=r"\[distill\] needs the training images in memory"):
        loading.warped_in_order(examples, WARPS, size=32, seed=0, epoch=0)


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 12])
def test_rows_of_draws_are_those_of_the_whole(columns):
    chosen = np.array([0, 999, 17, 17, 500])
    for seed in (tf.constant([3, 4], tf.int64), tf.constant([-(2**62), 2**63 - 1], tf.int64)):
        whole = tf.random.stateless_uniform([1000, columns], seed, -1, 1, alg="philox").numpy()
        np.testing.assert_array_equal(philox.uniform(chosen, columns, seed), whole[chosen])


def lessons_for(examples, rounds=2, seed=7):
    """Teachers who answer an image of label n in round r with logits that begin with n and r."""
    logits = np.zeros((rounds, len(examples), 10), np.float16)
    logits[..., 0] = examples.labels
    logits[..., 1] = np.arange(rounds)[:, np.newaxis]
    return loading.Lessons(seed, logits, logits[0])


def test_targets_hold_the_label_and_what_teachers_said_of_that_very_image(examples):
    lessons = lessons_for(examples)
    data = loading.training_batches(
        examples, WARPS, size=32, batch_size=53, seed=0, epochs=range(3), lessons=lessons
    )
    epochs = list(data.as_numpy_iterator())
    for number, (images, targets) in enumerate(epochs):
        turn = number % 2
        assert targets.shape == (53, 11)
        np.testing.assert_array_equal(targets[:, 0], targets[:, 1])
        assert set(targets[:, 2]) == {turn}
        answered = np.concatenate(
            list(
                loading.warped_in_order(
                    examples, WARPS, size=32, seed=7, epoch=turn, batch_size=20
                ).as_numpy_iterator()
            )
        )
        np.testing.assert_allclose(images, answered[targets[:, 0].astype(int)], atol=1e-5)
    assert list(epochs[0][1][:, 0]) != list(epochs[2][1][:, 0])  # the same images in another order


def test_plain_targets_hold_what_teachers_said(examples):
    lessons = lessons_for(examples)
    batches = loading.plain_batches(examples, 32, batch_size=20, lessons=lessons)
    targets = np.concatenate([batch for _, batch in batches.as_numpy_iterator()])
    np.testing.assert_array_equal(targets[:, 0], examples.labels)
    np.testing.assert_array_equal(targets[:, 1:], lessons.validation)


def test_a_shard_that_changes_while_in_training_is_named_in_one_line(tmp_path, sharded, capsys):
    folder = Path(shutil.copytree(sharded, tmp_path / "copy"))
    examples, _ = loading.load_training(str(folder), None, 0.1, seed=0)
    path = folder / "train-images-idx3-ubyte-00002-of-00007"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(tf.errors.OpError) as raised:
        rows(examples, range(1))
    with pytest.raises(SystemExit):
        cli._explain(raised.value)
    complaint = f"keras-lenet: {path}: has become shorter while it was in use\n"
    assert capsys.readouterr().err == complaint
