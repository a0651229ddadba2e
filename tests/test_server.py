"""The server of the drawing page under good clients and bad ones."""

import contextlib
import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_digits, serving
from PIL import Image
from test_prepare import png_header

from keras_lenet.draw import PAGE, server
from keras_lenet.edge.classifier import Classifier, reference_model
from keras_lenet.errors import Error

JSON = "application/json"
PIXELS = draw_digits(10, 3)[0]


@pytest.fixture(scope="module")
def classifier():
    return Classifier()


@pytest.fixture(scope="module")
def port(classifier):
    with serving(reference_model(), classifier) as opened:
        yield opened.effective_port


@pytest.fixture
def ask(port):
    """One request; returns status, headers and content, parsed if it is JSON."""

    def request(method, path, body=None, kind=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers |= {"Content-Type": kind} if kind else {}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, 30)) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
        is_json = response.headers.get_content_type() == JSON and content
        return response.status, response.headers, json.loads(content) if is_json else content

    return request


@pytest.fixture(autouse=True)
def _answers_afterwards(ask):
    """Whatever a test has done to the server, the next good request is answered."""
    yield
    status, _, answer = ask("POST", "/classify", as_json(PIXELS[7]), JSON)
    assert (status, answer["digit"]) == (200, 7)


def as_json(pixels):
    return json.dumps({"pixels": np.ravel(pixels).tolist()})


def photo(digit, kind="PNG"):
    paper = Image.new("L", (90, 120), 230)
    paper.paste(20, (30, 40), Image.fromarray(PIXELS[digit]))
    buffer = io.BytesIO()
    paper.save(buffer, kind)
    return buffer.getvalue()


def connect(port, sent):
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(sent)
    return connection


def converse(port, sent):
    """Send raw bytes; returns all that comes back."""
    with connect(port, sent) as connection:
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_the_page_and_its_files(ask, classifier):
    status, headers, content = ask("GET", "/?from=phone")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    names = re.findall(rb'(?:src|href)="([^"]+)"', content)
    assert len(names) >= 5
    for name in [*names, b"engine.js", b"prepare.js"]:
        assert ask("GET", f"/{name.decode()}")[0] == 200
    assert ask("GET", "/engine.js")[2] == (PAGE / "engine-server.js").read_bytes()
    assert ask("GET", "/model.json")[2] == {
        "name": "lenet5_int8.tflite",
        "bytes": reference_model().stat().st_size,
        "threshold": classifier.threshold,
    }
    status, headers, content = ask("HEAD", "/draw.js")
    assert (status, content) == (200, b"")
    assert int(headers["Content-Length"]) == (PAGE / "draw.js").stat().st_size


def test_the_page_is_small_and_asks_no_other_host():
    own = [path for path in PAGE.iterdir() if path.suffix in {".html", ".css", ".js"}]
    assert len(own) == 7
    assert sum(path.stat().st_size for path in own) < 40_000
    for path in own:
        assert not re.search(r"(?i)(https?:)?//\w+\.\w", path.read_text())


def test_pixels_are_answered_as_in_python(ask, classifier):
    for pixels, expected in zip(PIXELS, classifier.predict(PIXELS), strict=True):
        status, _, answer = ask("POST", "/classify", as_json(pixels), JSON)
        assert status == 200
        assert answer["digit"] == expected.argmax()
        assert answer["accepted"] == (expected.max() >= classifier.threshold)
        np.testing.assert_array_equal(np.float32(answer["probabilities"]), expected)
        assert answer["confidence"] == max(answer["probabilities"])
        assert 0 < answer["milliseconds"]["inference"] < 10_000
    blank = ask("POST", "/classify", as_json(np.zeros(784, int)), JSON)[2]
    assert (blank["digit"], blank["accepted"]) == (None, False)
    assert blank["probabilities"] == [0] * 10


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_are_prepared_here(ask, classifier, kind):
    content = photo(4, kind)
    status, _, answer = ask("POST", "/classify", content, f"image/{kind.lower()}")
    expected = classifier.classify(Image.open(io.BytesIO(content)))
    assert (status, answer["digit"], expected.digit) == (200, 4, 4)
    assert answer["pixels"] == expected.prepared.image.ravel().tolist()
    assert answer["box"] == list(expected.prepared.box)
    assert answer["notes"] == list(expected.prepared.notes)
    assert answer["polarity"] == "dark on light"
    assert answer["milliseconds"]["preparation"] > 0


def test_a_picture_that_takes_long_lets_others_pass(ask, monkeypatch):
    decode, arrived, going_on = server.decode, threading.Event(), threading.Event()

    def decode_slowly(content):
        if content == b"slow":
            arrived.set()
            assert going_on.wait(30)
        return decode(content)

    monkeypatch.setattr(server, "decode", decode_slowly)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, "POST", "/classify", b"slow", "image/png")
        assert arrived.wait(30)
        status, _, answer = ask("POST", "/classify", photo(3), "image/png")
        assert (status, answer["digit"]) == (200, 3)
        assert not slow.done()
        going_on.set()
        assert slow.result()[0] == 422


def test_fifty_connections_at_once(ask):
    body = photo(5) + bytes(1 << 20)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: ask("POST", "/classify", body, "image/png"), range(50)))
    assert {(status, answer["digit"]) for status, _, answer in answers} == {(200, 5)}


# Bad clients


NUMBERS = b'{"pixels": [' + b"9" * 10_000 + b"]}"
NO_JSON = [b"", b'{"pixels": [1, 2', b"\xff\xfe\x00", b"[" * 60_000, NUMBERS]
BAD_PIXELS = [
    f'{{"pixels": [{pixel}{", 0" * 783}]}}'
    for pixel in ("NaN", "Infinity", "256", "-1", "0.5", "true", "[]")
]


@pytest.mark.parametrize(
    ("status", "kind", "body", "problem"),
    [
        *((400, JSON, body, "not JSON") for body in NO_JSON),
        *((400, JSON, body, "784 integers") for body in ("[]", '{"pixels": 7}', '{"pixels": []}')),
        *((400, JSON, body, "integers from 0 to 255") for body in BAD_PIXELS),
        (415, "text/plain", b"7", "expected application/json or an image, got text/plain"),
        (415, "application/x-www-form-urlencoded", b"a=b", "expected application/json"),
        (415, "multipart/form-data; boundary=x", b"--x--", "expected application/json"),
        (415, None, b"7", "expected application/json or an image, got nothing"),
        (422, "image/png", b"no picture", "not an image"),
        (422, "image/png", photo(3)[:200], "truncated"),
        (422, "image/svg+xml", b"<svg/>", "not an image"),
        (422, "image/tiff", photo(3, "TIFF"), "expected one of JPEG, PNG, WEBP, BMP, GIF"),
        (422, "image/png", png_header(10_000), "10000×10000 pixels"),
    ],
    ids=lambda value: value if isinstance(value, int) else "",
)
def test_bad_bodies_are_refused(ask, status, kind, body, problem):
    got, headers, content = ask("POST", "/classify", body, kind)
    assert got == status
    assert problem in content["error"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_body_that_is_too_large_is_refused_unread(ask, port):
    declared = b"Content-Length: %d\r\n\r\n" % (server.MAX_BYTES + 1)
    head = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    assert b" 413 " in converse(port, head + declared)
    lists = b'{"pixels": [' + b"[]," * (server.MAX_JSON_BYTES // 3) + b"[]]}"
    assert ask("POST", "/classify", lists, JSON)[0] == 413


def test_a_client_that_sends_too_much_reads_the_answer(ask):
    assert ask("POST", "/classify", bytes(2 * server.MAX_BYTES), "image/png")[0] == 413


@pytest.mark.parametrize("length", ["-1", "ten", "1e3"])
def test_a_length_that_is_no_number_is_refused(ask, length):
    assert ask("POST", "/classify", b"", JSON, Content_Length=length)[0] == 400


def test_wrong_methods_are_refused(ask):
    methods = {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"}
    for path, allowed in (("/classify", "POST"), ("/", "GET, HEAD")):
        for method in methods - set(allowed.split(", ")):
            status, headers, _ = ask(method, path)
            assert (status, headers["Allow"]) == (405, allowed)


ABSENT = (
    "/../../../../etc/passwd /..%2f..%2fetc/passwd /%2e%2e/__init__.py /__init__.py /page/draw.js "
    "//etc/passwd /draw.js/ /draw.js%00 /engine-litert.js /\\..\\__init__.py"
)


@pytest.mark.parametrize("path", ABSENT.split())
def test_paths_that_are_not_in_the_table_are_refused(ask, path):
    assert ask("GET", path)[0] == ask("POST", path, b"{}", JSON)[0] == 404


OWN = ["localhost:8000", "127.0.0.1", "192.168.1.7:80", "[::1]:8000"]
FOREIGN = ["rebound.example", "127.0.0.1.rebound.example:8000", "localhost.rebound.example"]


@pytest.mark.parametrize("host", [*OWN, *FOREIGN, "[::1", ""])
def test_only_its_own_names_are_answered(ask, host):
    status = 200 if host in OWN else 421
    origin = {"Origin": f"http://{host}"}
    assert ask("GET", "/", Host=host)[0] == status
    assert ask("POST", "/classify", as_json(PIXELS[1]), JSON, Host=host, **origin)[0] == status


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "null", "http://127.0.0.1:1", ""])
def test_pages_of_other_origins_get_no_answer(ask, origin):
    status, headers, content = ask("POST", "/classify", as_json(PIXELS[1]), JSON, Origin=origin)
    assert (status, list(content)) == (403, ["error"])
    for sent in (headers, ask("GET", "/model.json")[1], ask("OPTIONS", "/classify")[1]):
        assert not [name for name in sent if name.lower().startswith("access-control")]
        assert sent["Cross-Origin-Resource-Policy"] == "same-origin"
        assert sent["Content-Security-Policy"].startswith("default-src 'self'")


def test_slow_senders_keep_nobody_waiting(port, ask):
    part = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n "
    with contextlib.ExitStack() as idle:
        for _ in range(2 * server.REQUESTS):
            idle.enter_context(connect(port, part))
        assert ask("POST", "/classify", as_json(PIXELS[2]), JSON)[0] == 200


def test_nonsense_and_hanging_up_do_no_harm(port):
    assert b" 400 " in converse(port, bytes(range(256)) + b"\r\n\r\n")
    for part in (b"", b"POST /classify HTTP/1.1\r\nHost: localhost\r\n"):
        connect(port, part).close()


def test_no_module_of_the_page_needs_posix():
    """The page and `classify` work on Windows, too."""
    only_posix = r"(?m)^\s*(import|from) (fcntl|grp|posix|pty|pwd|resource|syslog|termios|tty)\b"
    for path in Path(server.__file__).parent.rglob("*.py"):
        assert not re.search(only_posix, path.read_text(encoding="utf-8")), path.name


# Addresses


def test_a_port_that_is_taken_is_named(port, classifier):
    with pytest.raises(Error, match="another program listens there; name another by --port"):
        server.listen("127.0.0.1", port, reference_model(), classifier)


def test_a_host_that_is_not_here_is_named(classifier):
    with pytest.raises(Error, match=r"cannot listen at 192\.0\.2\.1, port 0: Cannot assign"):
        server.listen("192.0.2.1", 0, reference_model(), classifier)


@pytest.mark.parametrize(
    ("host", "here", "outside"),
    [
        ("127.0.0.1", "http://127.0.0.1:80/", None),
        ("localhost", "http://localhost:80/", None),
        ("0.0.0.0", "http://localhost:80/", "http://192.168.7.9:80/"),
        ("::", "http://localhost:80/", "http://192.168.7.9:80/"),
        ("192.168.7.9", "http://192.168.7.9:80/", "http://192.168.7.9:80/"),
        ("digits.example", "http://digits.example:80/", "http://digits.example:80/"),
        ("fe80::1", "http://[fe80::1]:80/", "http://[fe80::1]:80/"),
    ],
)
def test_addresses_to_print(monkeypatch, host, here, outside):
    monkeypatch.setattr(server, "_own_address", lambda: "192.168.7.9")
    assert server.addresses(host, 80) == (here, outside)


def test_the_command_prints_an_address_and_a_code_for_the_phone():
    command = [sys.executable, "-m", "keras_lenet", "draw", "--no-browser", "--port", "0"]
    with subprocess.Popen([*command, "--host", "0.0.0.0"], stdout=subprocess.PIPE) as process:
        first = process.stdout.readline().decode()
        port = int(re.search(r"http://localhost:(\d+)/", first)[1])
        # It answers once all is printed.
        assert b" 200 " in converse(port, b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        process.terminate()
        rest = process.stdout.read().decode()
        assert process.wait(30) == 128 + signal.SIGTERM
    if "phone" in rest:  # only with a network
        assert "█" in rest
