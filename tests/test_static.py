"""The drawing page as a folder: written, served by a plain file server, and used without one."""

import base64
import contextlib
import json
import subprocess

import numpy as np
import pytest
from conftest import draw_digits, keras_lenet
from drawing import DIGITS, IN_BROWSER, chromium, draw, plain, rest, visit

from keras_lenet.data import reading
from keras_lenet.draw import page as files
from keras_lenet.draw import static
from keras_lenet.edge.classifier import BROWSER, REFERENCE, Classifier, reference_model
from keras_lenet.errors import Error

LITERT = "@litertjs/core@2.5.3"


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """node_modules with LiteRT.js, from npm."""
    folder = tmp_path_factory.mktemp("npm")
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), LITERT]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return folder / "node_modules"


@pytest.fixture(scope="module")
def site(packages, tmp_path_factory):
    folder = tmp_path_factory.mktemp("static") / "site"
    result = keras_lenet("draw", "--static", folder, "--node-modules", packages)
    assert result.returncode == 0, result.stderr
    assert str(folder) in result.stdout
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def pretended(tmp_path):
    """Files where LiteRT.js would be, for what needs no browser."""
    folder = tmp_path / "node_modules"
    for name in (static._CORE, static._UTILITIES):
        (folder / "@litertjs" / name).parent.mkdir(parents=True)
        (folder / "@litertjs" / name).write_text('import { x } from "@litertjs/wasm-utils";')
    (folder / "@litertjs" / "core" / "wasm").mkdir()
    for variant in static._VARIANTS:
        for end in (".js", ".wasm"):
            (folder / "@litertjs" / "core" / "wasm" / f"{variant}{end}").write_text(end)
    return folder


def write(folder, packages, name=BROWSER):
    path = reference_model(name)
    static.write(folder, path, Classifier(path), packages)


def test_what_is_written(tmp_path, pretended):
    folder = tmp_path / "site"
    write(folder, pretended)
    for name in files.TYPES:
        assert (folder / name).read_bytes() == files.read(name)
    told = json.loads((folder / "model.json").read_text())
    assert told["name"] == BROWSER
    assert told["output"] == {"scale": 1 / 256, "zero_point": 0}
    assert (folder / BROWSER).read_bytes() == reference_model(BROWSER).read_bytes()
    assert '"./wasm-utils.js"' in (folder / "litert" / "core.js").read_text()
    manifest = json.loads((folder / "manifest.webmanifest").read_text())
    assert all((folder / icon["src"]).exists() for icon in manifest["icons"])
    worker = (folder / "service-worker.js").read_text()
    kept = json.loads(worker.split("const FILES = ")[1].partition(";")[0])
    assert all((folder / name).exists() for name in kept)
    assert "VERSION" not in worker


def test_writing_again_renews_the_folder_and_its_version_when_something_changed(
    tmp_path, pretended
):
    folder = tmp_path / "site"
    write(folder, pretended)
    first = (folder / "service-worker.js").read_text()
    write(folder, pretended)
    assert (folder / "service-worker.js").read_text() == first
    (pretended / "@litertjs" / static._CORE).write_text("newer")
    write(folder, pretended)
    assert (folder / "service-worker.js").read_text() != first


def test_a_folder_of_something_else_is_kept(tmp_path, pretended):
    (tmp_path / "site").mkdir()
    write(tmp_path / "site", pretended)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("mine", "file"):
        with pytest.raises(Error, match=f"{name} holds something else; name a new folder"):
            write(tmp_path / name, pretended)
    assert (tmp_path / "mine" / "index.html").read_text() == "mine"


def test_a_model_that_the_browser_cannot_run(tmp_path, pretended):
    with pytest.raises(Error, match=r"lenet5_int8\.tflite: LiteRT\.js needs .* uint8 pixels"):
        write(tmp_path / "site", pretended, REFERENCE)


def test_missing_packages_are_named(tmp_path):
    result = keras_lenet("draw", "--static", tmp_path / "site", cwd=tmp_path)
    assert result.returncode == 1
    assert "npm install @litertjs/core" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "site").exists()


# In the browser


def in_the_browser(test):
    """Mark a test that runs LiteRT.js in a browser."""
    for mark in (*IN_BROWSER, pytest.mark.needs("npm")):
        test = mark(test)
    return test


@in_the_browser
def test_it_answers_with_the_network_cut_and_the_server_gone(browser, site):
    asked, digits = set(), range(len(DIGITS))
    with contextlib.ExitStack() as served:
        address = served.enter_context(plain(site))
        with visit(browser, address, strict=False) as page:
            page.on("request", lambda request: asked.add(request.url))
            assert draw(page, 3) == "3"
            page.context.set_offline(True)
            served.close()
            assert draw(page, 4) == "4"
            page.reload()
            rest(page, "[data-digit='']")
            answers = [draw(page, digit) for digit in digits]
            assert "LiteRT.js in this browser" in page.locator("#model").inner_text()
    assert answers == [str(digit) for digit in digits]
    assert all(url.startswith(address) for url in asked)


PREPARE_AND_CLASSIFY = """async (images) => {
  const engine = await import("./engine.js"), { prepare } = await import("./prepare.js");
  const answers = [];
  for (const image of images) {
    const data = Uint8Array.from(atob(image), (letter) => letter.charCodeAt(0));
    const prepared = prepare({ width: 28, height: 28, data });
    answers.push(prepared.found ? (await engine.classify(prepared.image)).probabilities : null);
  }
  return answers;
}"""


def assert_browser_agrees(browser, site, images):
    sent = [base64.b64encode(image.tobytes()).decode() for image in images]
    with plain(site) as address, visit(browser, address, strict=False) as page:
        found = page.evaluate(PREPARE_AND_CLASSIFY, sent)
    classifier = Classifier(reference_model(BROWSER))
    expected = [classifier.classify(image) for image in images]
    digits = [None if values is None else int(np.argmax(values)) for values in found]
    assert digits == [answer.digit for answer in expected]
    differences = [
        np.abs(np.subtract(values, answer.probabilities)).max()
        for values, answer in zip(found, expected, strict=True)
        if values is not None
    ]
    assert np.median(differences) == 0


@in_the_browser
def test_the_browser_answers_as_python_does(browser, site):
    assert_browser_agrees(browser, site, draw_digits(60, 6)[0])


@in_the_browser
@pytest.mark.mnist
def test_a_thousand_test_images_get_the_same_class(browser, site, mnist_dir):
    assert_browser_agrees(browser, site, reading.load("mnist", "test", mnist_dir).images[:1000])
