import contextlib

import pytest
from conftest import PIPELINES
from hypothesis import given
from hypothesis import strategies as st

from keras_lenet import models, recipe
from keras_lenet.errors import Error

FILES = sorted(PIPELINES.rglob("*.toml"))


def load(folder, content, *overrides):
    path = folder / "mine.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return recipe.load_recipe(path, overrides)


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    content = "seed = 3\n[train]\nepochs = 5\nlearning_rate = 1.0\n"
    loaded = load(tmp_path, content, "train.learning_rate=1e-2", "data.dataset=kmnist")
    assert (loaded.name, loaded.seed, loaded.data.dataset) == ("mine", 3, "kmnist")
    assert loaded.train == recipe.Train(epochs=5, learning_rate=0.01)
    assert load(tmp_path, content, "name=other").name == "other"
    with pytest.raises(Exception, match="frozen"):
        loaded.train.epochs = 1


def test_a_recipe_without_a_file_has_the_defaults_and_the_overrides():
    loaded = recipe.from_overrides("mine", ["seed=3", "distill.teachers=2"])
    assert (loaded.name, loaded.seed, loaded.train) == ("mine", 3, recipe.Train())
    assert loaded.distill == recipe.Distill(teachers=2)
    with pytest.raises(Error, match=r"^--set: unknown key sed; did you mean seed\?$"):
        recipe.from_overrides("mine", ["sed=3"])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("origin.title=X", "X"),
        ("origin.title = a=b ", "a=b"),  # the first = divides
        ("origin.title='3'", "3"),
        ("data.standardize=true", True),
        ("distill.augment.rotate=5.0", 5.0),
    ],
)
def test_an_override_is_toml_or_a_bare_word(override, value):
    found = recipe.from_overrides("mine", [override])
    for key in override.partition("=")[0].strip().split("."):
        found = getattr(found, key)
    assert found == value


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[train]\nepocs = 3", "unknown key train.epocs; did you mean train.epochs?"),
        ("[distill.augment]\nrotat = 1", "unknown key distill.augment.rotat; did you mean "
         "distill.augment.rotate?"),
        ("[origin]\ntitle = 'X'\nzzz = 1", "unknown key origin.zzz; expected one of title, "
         "accuracy, note"),
        ("[train]\nepochs = '3'", "train.epochs = '3': input should be a valid integer"),
        ("[train]\nepochs = 0", "train.epochs = 0: input should be greater than or equal to 1"),
        ("[train]\nepochs = 2\nwarmup_epochs = 2", "train: warmup_epochs (2) must be fewer than "
         "epochs (2)"),
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
    with pytest.raises(Error) as caught:
        load(tmp_path, content)
    assert str(caught.value) == f"recipe {tmp_path / 'mine.toml'}: {complaint}"


BOUNDS = {
    "seed": (0, 2**31 - 1),
    "data.validation_split": (1e-9, 1 - 1e-9),
    "data.outliers": (0.0, 1.0),
    "augment.rotate": (0.0, 180.0),
    "augment.zoom": (0.0, 1 - 1e-9),
    "train.learning_rate": (1e-9, None),
    "train.weight_decay": (0.0, None),
    "quantize.epochs": (1, None),
    "export.calibration_images": (10, None),
    "evaluate.robustness_images": (0, None),
}
"""The least and the greatest value of some settings; None if there is no greatest."""


@pytest.mark.parametrize(("key", "bounds"), BOUNDS.items())
def test_a_value_lies_in_its_range(key, bounds):
    least, greatest = bounds
    step = 1 if isinstance(least, int) else 1e-9
    outside = [least - step] + ([greatest + step] if greatest is not None else [])
    for value in (one for one in bounds if one is not None):
        recipe.from_overrides("mine", [f"{key}={value}"])
    for value in outside:
        with pytest.raises(Error, match=rf"^--set: {key} = "):
            recipe.from_overrides("mine", [f"{key}={value}"])


def test_the_warm_up_is_shorter_than_the_training_or_there_is_none():
    recipe.Train(epochs=2, warmup_epochs=1)
    recipe.Train(epochs=1, warmup_epochs=0)


EXPECTED = "expected KEY=VALUE, such as train.epochs=3"


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("train.epochs", f"train.epochs: {EXPECTED}"),
        ("=3", f"=3: {EXPECTED}"),
        ("train.=3", f"train.=3: {EXPECTED}"),
        ("seed.x=3", "seed.x=3: seed is a value, not a section"),
        ("a \n b" + "x" * 1000, f"{('a b' + 'x' * 1000)[:200]}: {EXPECTED}"),
    ],
)
def test_a_bad_override_is_shown_in_one_short_line(tmp_path, override, complaint):
    with pytest.raises(Error) as caught:
        load(tmp_path, "seed = 3", override)
    assert str(caught.value) == f"--set {complaint}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_recipe_loads_and_opens_with_its_command(file):
    models.input_size(recipe.load_recipe(file).model)
    command = f"# keras-lenet run {file.relative_to(PIPELINES.parent).as_posix()}\n"
    assert file.read_text().startswith(command)


def test_every_model_has_a_recipe():
    loaded = [recipe.load_recipe(file) for file in FILES]
    used = {one.model.name for one in loaded}
    used |= {one.distill.model for one in loaded if one.distill}
    assert used == set(models.MODELS)


def test_the_robust_recipe_shares_the_teachers_of_the_reference():
    reference, robust = (
        recipe.load_recipe(PIPELINES / f"{name}.toml") for name in ("mnist", "robust")
    )
    for section in ("data", "augment", "distill"):
        assert getattr(robust, section) == getattr(reference, section)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[train", "is not TOML: "),
        (b"\xff\xfe", "is not TOML: "),
        (b"a = " + b"[" * 5000, "is not TOML: "),
        (b"a." * 3000 + b"b = 1", ""),
        (b"[train]\nepochs = " + b"[" * 50 + b"1" + b"]" * 50, ": train.epochs = "),
        (b"seed = '" + b"x" * 100_000 + b"'", ": seed = 'xxx"),
    ],
)
def test_a_nasty_recipe_gets_one_short_line(tmp_path, content, complaint):
    with pytest.raises(Error) as caught:
        load(tmp_path, content)
    assert str(caught.value).startswith(f"recipe {tmp_path / 'mine.toml'}")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(Error, match=r"nowhere\.toml cannot be read: No such file"):
        recipe.load_recipe(tmp_path / "nowhere.toml")


@pytest.mark.slow
@given(st.dictionaries(st.text(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)))  # fmt: skip
def test_any_settings_are_a_recipe_or_an_error(settings):
    with contextlib.suppress(Error):
        assert isinstance(recipe._validated({"name": "x"} | settings, (), "it"), recipe.Recipe)
