import contextlib
import re

import pytest
from conftest import PIPELINES
from hypothesis import given
from hypothesis import strategies as st

from keras_lenet import models, recipe
from keras_lenet.errors import Error

FILES = sorted(PIPELINES.rglob("*.toml"))


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("seed = 3\n[train]\nepochs = 5\n")
    return file


def test_what_a_recipe_leaves_out_has_its_default(path):
    loaded = recipe.load(path)
    assert (loaded.name, loaded.seed, loaded.train.epochs) == ("mine", 3, 5)
    assert loaded.train.batch_size == recipe.Train().batch_size


def test_a_recipe_without_a_file_has_the_defaults_but_for_what_is_set():
    loaded = recipe.from_overrides("mine", ["seed=3", "distill.teachers=2"])
    assert (loaded.name, loaded.seed) == ("mine", 3)
    assert loaded.distill == recipe.Distill(teachers=2)
    assert loaded.train == recipe.Train()
    with pytest.raises(Error, match=r"^--set: unknown key sed; did you mean seed\?$"):
        recipe.from_overrides("mine", ["sed=3"])


def test_overrides_win_and_are_typed(path):
    loaded = recipe.load(
        path, ["train.epochs=7", "data.dataset=kmnist", "name=other", "train.learning_rate=1e-2"]
    )
    assert (loaded.train.epochs, loaded.data.dataset, loaded.name) == (7, "kmnist", "other")
    assert loaded.train.learning_rate == 0.01


def test_a_recipe_is_frozen(path):
    with pytest.raises(Exception, match="frozen"):
        recipe.load(path).train.epochs = 1


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("origin.title=X", "X"),
        ("origin.title = a=b ", "a=b"),  # the first = divides
        ("origin.title='3'", "3"),
        ("data.dataset=/tmp/my digits", "/tmp/my digits"),
        ("model.pad=true", True),
        ("evaluate.min_accuracy=0.5", 0.5),
        ("distill.augment.rotate=5.0", 5.0),
    ],
)
def test_an_override_is_toml_or_a_bare_word(override, value):
    loaded = recipe.from_overrides("mine", [override])
    found = loaded
    for key in override.partition("=")[0].strip().split("."):
        found = getattr(found, key)
    assert found == value


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[train]\nepocs = 3", "unknown key train.epocs; did you mean train.epochs?"),
        ("[trian]\n", "unknown key trian; did you mean train?"),
        ("[distill.augment]\nrotat = 1", "unknown key distill.augment.rotat; did you mean "
         "distill.augment.rotate?"),
        ("[origin]\ntitle = 'X'\nzzz = 1", "unknown key origin.zzz; expected one of title, "
         "accuracy, note"),
        ("[report]\nzzz = 3", "unknown key report.zzz; expected one of mistakes"),
        ("[train]\nepochs = '3'", "train.epochs = '3': input should be a valid integer"),
        ("[train]\nepochs = 0", "train.epochs = 0: input should be greater than or equal to 1"),
        ("[train]\nepochs = 2\nwarmup_epochs = 2", "train: warmup_epochs (2) must be fewer than "
         "epochs (2)"),
        ("[train]\nstep_epochs = 0", "train.step_epochs = 0: input should be greater than or equal "
         "to 1"),
        ("[train]\nlearning_rate = nan", "train.learning_rate = nan: input should be a finite "
         "number"),
        ("[train]\noptimizer = 'adam'", "train.optimizer = 'adam': input should be 'adamw', 'muon' "
         "or 'sgd'"),
        ("train = 3", "train = 3: input should be a valid dictionary or instance of Train"),
        ("name = '../elsewhere'", "name = '../elsewhere': string should match pattern "
         "'^[A-Za-z0-9][A-Za-z0-9._-]*$'"),
    ],
)  # fmt: skip
def test_bad_settings_are_named_in_one_line(tmp_path, content, complaint):
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises(Error) as caught:
        recipe.load(path)
    assert str(caught.value) == f"recipe {path}: {complaint}"


@pytest.mark.parametrize("content", ["[train", "\x00"])
def test_what_is_not_toml_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "bad.toml").write_text(content)
    with pytest.raises(Error, match=rf"^recipe {tmp_path}/bad\.toml is not TOML: ") as caught:
        recipe.load(tmp_path / "bad.toml")
    assert "\n" not in str(caught.value)


BOUNDS = {
    "seed": (0, 2**31 - 1),
    "data.validation_split": (1e-9, 1 - 1e-9),
    "data.outliers": (0.0, 1.0),
    "augment.rotate": (0.0, 180.0),
    "augment.zoom": (0.0, 1 - 1e-9),
    "degrade.occlusion": (0.0, 28.0),
    "train.epochs": (2, None),
    "train.learning_rate": (1e-9, None),
    "train.weight_decay": (0.0, None),
    "quantize.epochs": (1, None),
    "export.calibration_images": (10, None),
    "export.refuse": (0.0, 1 - 1e-9),
    "evaluate.robustness_images": (0, None),
    "evaluate.prepared_images": (10, None),
}
"""The least and the greatest value of some settings; None where there is no greatest."""


@pytest.mark.parametrize(("key", "bounds"), BOUNDS.items())
def test_a_value_lies_in_its_range(key, bounds):
    least, greatest = bounds
    step = 1 if isinstance(least, int) else 1e-8
    for value in (one for one in bounds if one is not None):
        recipe.from_overrides("mine", [f"{key}={value}"])
    outside = [least - step - (key == "train.epochs")]
    outside += [greatest + step] if greatest is not None else []
    for value in outside:
        with pytest.raises(Error, match=rf"^--set: {re.escape(key)} = "):
            recipe.from_overrides("mine", [f"{key}={value}"])


def test_the_warm_up_is_shorter_than_the_training_or_there_is_none():
    recipe.Train(epochs=2, warmup_epochs=1)
    recipe.Train(epochs=1, warmup_epochs=0)
    with pytest.raises(ValueError, match="must be fewer"):
        recipe.Train(epochs=2, warmup_epochs=3)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("train.epochs", "expected KEY=VALUE, such as train.epochs=3"),
        ("=3", "expected KEY=VALUE, such as train.epochs=3"),
        ("train.=3", "expected KEY=VALUE, such as train.epochs=3"),
        ("seed.x=3", "seed is a value, not a section"),
    ],
)
def test_bad_overrides_are_refused(path, override, complaint):
    with pytest.raises(Error) as caught:
        recipe.load(path, [override])
    assert str(caught.value) == f"--set {override}: {complaint}"


def test_a_bad_override_is_shown_in_one_short_line(path):
    with pytest.raises(Error) as caught:
        recipe.load(path, ["a \n b" + "x" * 1000])
    assert (
        str(caught.value)
        == f"--set {('a b' + 'x' * 1000)[:200]}: expected KEY=VALUE, such as train.epochs=3"
    )


def test_a_recipe_is_read_up_to_the_largest_size(tmp_path):
    path = tmp_path / "long.toml"
    path.write_bytes(b"seed = 3\n".ljust(recipe.MAX_BYTES, b"#"))
    assert recipe.load(path).seed == 3
    path.write_bytes(b"seed = 3\n".ljust(recipe.MAX_BYTES + 1, b"#"))
    with pytest.raises(
        Error, match=r"long\.toml: larger than 1,048,576 bytes, which no recipe is$"
    ):
        recipe.load(path)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(Error, match=r"nowhere\.toml cannot be read"):
        recipe.load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_recipe_loads_and_opens_with_its_command(file):
    models.input_size(recipe.load(file).model)
    command = f"# keras-lenet run {file.relative_to(PIPELINES.parent).as_posix()}\n"
    assert file.read_text().startswith(command)


def test_every_model_has_a_recipe():
    loaded = [recipe.load(file) for file in FILES]
    used = {one.model.name for one in loaded}
    used |= {one.distill.model for one in loaded if one.distill}
    assert used == set(models.MODELS)


@pytest.mark.parametrize(
    "content",
    [
        b"seed = " + b"9" * 5000,
        b"a = " + b"[" * 5000,
        b"a." * 3000 + b"b = 1",
        b"\xff\xfe",
        b"#" * (recipe.MAX_BYTES + 1),
        b"[train]\nepochs = " + b"[" * 50 + b"1" + b"]" * 50,
        b"seed = '" + b"x" * 100_000 + b"'",
    ],
)
def test_a_nasty_recipe_gets_one_short_line(tmp_path, content):
    (tmp_path / "nasty.toml").write_bytes(content)
    with pytest.raises(Error) as caught:
        recipe.load(tmp_path / "nasty.toml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.slow
@given(st.dictionaries(st.text(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)))  # fmt: skip
def test_whatever_stands_in_a_recipe_it_is_one_or_an_error(settings):
    with contextlib.suppress(Error):
        assert isinstance(recipe._validated({"name": "x"} | settings, (), "it"), recipe.Recipe)


def test_the_robust_recipe_learns_from_the_references_teachers():
    reference, robust = (recipe.load(PIPELINES / f"{name}.toml") for name in ("mnist", "robust"))
    for section in ("data", "augment", "distill"):
        assert getattr(robust, section) == getattr(reference, section)
