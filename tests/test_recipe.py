import contextlib

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
    ("content", "complaint"),
    [
        ("[train]\nepocs = 3", "unknown key train.epocs; did you mean train.epochs?"),
        ("[trian]\n", "unknown key trian; did you mean train?"),
        ("[train]\nzzz = 3", "unknown key train.zzz; expected one of epochs, batch_size"),
        ("[train]\nepochs = '3'", "train.epochs = '3': input should be a valid integer"),
        ("[train]\nepochs = 0", "train.epochs = 0: input should be greater than or equal to 1"),
        ("[train]\nepochs = 2\nwarmup_epochs = 2", r"warmup_epochs \(2\) must be fewer"),
        ("[train]\nstep_epochs = 0", "train.step_epochs = 0: input should be greater"),
        ("[train]\nlearning_rate = nan", "train.learning_rate = nan: input should be a finite"),
        ("[train]\noptimizer = 'adam'", "'adamw', 'muon' or 'sgd'"),
        ("train = 3", "train"),
        ("name = '../elsewhere'", "name = '../elsewhere': string should match"),
        ("[train", "is not TOML"),
        ("\x00", "is not TOML"),
    ],
)
def test_bad_recipes_are_refused_in_one_line(tmp_path, content, complaint):
    (tmp_path / "bad.toml").write_text(content)
    with pytest.raises(Error, match=complaint) as caught:
        recipe.load(tmp_path / "bad.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["train.epochs", "=3", "seed.x=3", "train.=3"])
def test_bad_overrides_are_refused(path, override):
    with pytest.raises(Error, match="--set"):
        recipe.load(path, [override])


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
