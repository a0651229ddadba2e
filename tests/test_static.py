"""The drawing page as a folder: written, served by a plain file server, and used without one."""

import base64
import contextlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_digits, keras_lenet
from drawing import DIGITS, chromium, draw, plain, rest, visit

from keras_lenet.data import reading
from keras_lenet.draw import PAGE, TYPES, static
from keras_lenet.edge.classifier import BROWSER, REFERENCE, Classifier, reference_model
from keras_lenet.errors import Error

LITERT = "@litertjs/core@2.5.3"


@pytest.fixture
def pretended(tmp_path):
    """Files where LiteRT.js would be, for what needs no browser."""
    folder = tmp_path / "node_modules"
    for name in static._RUNTIME.values():
        (folder / "@litertjs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "@litertjs" / name).write_text('import { x } from "@litertjs/wasm-utils";')
    return folder


def write(folder, packages, name=BROWSER):
    path = reference_model(name)
    static.write(folder, path, Classifier(path), packages)


def test_what_is_written(tmp_path, pretended):
    folder = tmp_path / "site"
    write(folder, pretended)
    for name in TYPES:
        assert (folder / name).read_bytes() == (PAGE / name).read_bytes()
    assert (folder / "engine.js").read_bytes() == (PAGE / "engine-litert.js").read_bytes()
    model = json.loads((folder / "model.json").read_text())
    assert model["name"] == BROWSER
    assert model["output"] == {"scale": 1 / 256, "zero_point": 0}
    assert (folder / BROWSER).read_bytes() == reference_model(BROWSER).read_bytes()
    assert (folder / "litert" / "core.js").read_text() == 'import { x } from "./wasm-utils.js";'
    assert {path.name for path in (folder / "litert" / "wasm").iterdir()} == {
        f"litert_wasm_{variant}.{kind}"
        for variant in ("internal", "compat_internal")
        for kind in ("js", "wasm")
    }
    manifest = json.loads((folder / "manifest.webmanifest").read_text())
    assert all((folder / icon["src"]).exists() for icon in manifest["icons"])
    worker = (folder / "service-worker.js").read_text()
    kept = json.loads(worker.split("const FILES = ")[1].partition(";")[0])
    assert set(kept) == {
        *("./", *TYPES, "engine.js", "model.json", BROWSER),
        *("litert/core.js", "litert/wasm-utils.js"),
    } - {"index.html"}
    assert "VERSION" not in worker


def test_writing_again_renews_the_version_when_a_file_has_changed(tmp_path, pretended):
    versions = []
    for content in ("older", "older", "newer"):
        (pretended / "@litertjs" / "core" / "dist" / "index.js").write_text(content)
        write(tmp_path / "site", pretended)
        versions.append((tmp_path / "site" / "service-worker.js").read_text())
    assert versions[0] == versions[1] != versions[2]


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


def test_a_model_that_the_browser_cannot_run_is_refused(tmp_path, pretended):
    with pytest.raises(Error, match=r"lenet5_int8\.tflite: LiteRT\.js needs .* uint8 pixels"):
        write(tmp_path / "site", pretended, REFERENCE)
    classifier = Classifier(reference_model(BROWSER))
    classifier._table = classifier._table // 2  # as of another scale of the input
    with pytest.raises(Error, match=r"lenet5_uint8\.tflite: LiteRT\.js needs"):
        static.write(tmp_path / "site", reference_model(BROWSER), classifier, pretended)


def test_missing_packages_are_named(tmp_path):
    result = keras_lenet("draw", "--static", tmp_path / "site", cwd=tmp_path)
    assert result.returncode == 1
    (problem,) = result.stderr.splitlines()
    assert "npm install @litertjs/core" in problem
    assert not (tmp_path / "site").exists()


CLASSIFY = """async (images) => {
  const engine = await import("./engine.js"), answers = [];
  for (const image of images) {
    const pixels = Uint8Array.from(atob(image), (letter) => letter.charCodeAt(0));
    answers.push((await engine.classify(pixels)).probabilities);
  }
  return answers;
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder, with LiteRT.js from npm."""
    folder = tmp_path_factory.mktemp("static")
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, LITERT]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert installed.returncode == 0, installed.stderr
    packages = folder / "node_modules"
    result = keras_lenet("draw", "--static", folder / "site", "--node-modules", packages)
    assert result.returncode == 0, result.stderr
    assert str(folder / "site") in result.stdout
    return folder / "site"


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.mark.browser
@pytest.mark.needs("chromium", "npm", "playwright")
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
            page.locator("#clear").click()
            page.get_by_text("takes drawings alone").wait_for()
            assert page.get_by_label("Photo").count() == 0
    assert answers == [str(digit) for digit in digits]
    assert all(url.startswith(address) for url in asked)


@pytest.mark.browser
@pytest.mark.needs("chromium", "npm", "playwright")
@pytest.mark.parametrize("kind", ["typeset", pytest.param("mnist", marks=pytest.mark.mnist)])
def test_it_answers_as_python_does(browser, site, kind, request):
    images = draw_digits(60, 6)[0]
    if kind == "mnist":
        folder = request.getfixturevalue("mnist_dir")
        images = reading.load("mnist", "test", folder).images[:1000]
    sent = [base64.b64encode(image.tobytes()).decode() for image in images]
    with plain(site) as address, visit(browser, address, strict=False) as page:
        found = np.array(page.evaluate(CLASSIFY, sent))
    expected = Classifier(reference_model(BROWSER)).predict(images)
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    assert np.median(np.abs(found - expected).max(axis=1)) == 0


EXAMPLE = Path(__file__).parents[1] / "exported" / "examples" / "browser.js"
OPEN_AND_CLASSIFY = """async ([images, threshold]) => {
  const { openClassifier } = await import("./example.js");
  const classify = await openClassifier("litert/wasm/", "lenet5_uint8.tflite", threshold);
  const answers = [];
  for (const image of images) {
    answers.push(await classify(Uint8Array.from(atob(image), (letter) => letter.charCodeAt(0))));
  }
  return answers;
}"""


@pytest.mark.browser
@pytest.mark.needs("chromium", "npm", "playwright")
def test_example_for_browsers_answers_as_python_does(browser, site):
    imported = '"@litertjs/core"'
    script = EXAMPLE.read_text()
    assert script.count(imported) == 1
    (site / "example.js").write_text(script.replace(imported, '"./litert/core.js"'))
    images = np.concatenate([np.zeros((1, 28, 28), np.uint8), draw_digits(20, 6)[0]])
    classifier = Classifier(reference_model(BROWSER))
    sent = [base64.b64encode(image.tobytes()).decode() for image in images]
    with plain(site) as address, browser.new_page() as page:
        page.goto(f"{address}model.json")  # a page without scripts of its own
        found = page.evaluate(OPEN_AND_CLASSIFY, [sent, classifier.threshold])
    probabilities = classifier.predict(images)
    accepted = probabilities.max(axis=1) >= classifier.threshold
    digits = probabilities.argmax(axis=1).tolist()
    assert found == [digit if kept else None for digit, kept in zip(digits, accepted, strict=True)]
    assert found[0] is None
