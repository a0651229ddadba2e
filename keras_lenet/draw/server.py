"""Serve the drawing page and answer its pictures: what `keras-lenet draw` runs.

    GET  /             the page, from a fixed table of files in memory
    GET  /model.json   which model answers
    POST /classify     {"pixels": [784 integers, 0 to 255]}, already prepared; or any picture as
                       image/png, image/jpeg, ...

It answers this machine alone unless it is told otherwise, and only pages that it served itself:
requests by another host name (DNS rebinding) or from another origin are refused. What one client
can cost is bounded: waitress limits connections, bytes and idle seconds, `decode` limits pixels.
"""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import waitress
from numpy.typing import NDArray

from keras_lenet import __version__
from keras_lenet.draw import page
from keras_lenet.edge.classifier import Answer, Classifier
from keras_lenet.edge.decoding import decode
from keras_lenet.edge.prepare import SIZE, Prepared, prepare
from keras_lenet.errors import Error

MAX_BYTES = 8 << 20
"""Larger pictures are refused."""
MAX_JSON_BYTES = 64 << 10
"""And larger JSON: 784 numbers take 4 kB, and nested lists many times their length in memory."""
IDLE_SECONDS = 10
"""After which a connection on which nothing comes is closed."""
CONNECTIONS = 32
"""As many are open at once; others wait their turn."""
REQUESTS = 4
"""As many are answered at once, for each picture may take a lot of memory."""

_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_JSON = "application/json"


@dataclass(frozen=True)
class Response:
    """What a request is answered with; `allow` names the methods where it had another."""

    status: HTTPStatus
    kind: str
    content: bytes
    allow: str | None = None


def refusal(status: HTTPStatus, problem: str, allow: str | None = None) -> Response:
    """Return the answer to a request that is refused, and why."""
    return Response(status, _JSON, json.dumps({"error": problem}).encode(), allow)


class App:
    """The page and its model, as a WSGI application.

    Attributes:
        files: by path, the media type and content of what GET answers.
    """

    def __init__(self, host: str, path: Path, classifier: Classifier) -> None:
        """Take the name that the server listens at, the model's file, and that file, opened."""
        self._host, self._classifier, self._inferring = host.lower(), classifier, threading.Lock()
        told = json.dumps(page.description(path, classifier)).encode()
        self.files = {f"/{name}": (kind, page.read(name)) for name, kind in page.TYPES.items()}
        self.files["/"] = self.files.pop("/index.html")
        self.files[f"/{page.ENGINE}"] = (page.TYPES["draw.js"], page.read("engine-server.js"))
        self.files["/model.json"] = (_JSON, told)

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., object]
    ) -> Iterable[bytes]:
        """Answer one request, as PEP 3333 has it."""
        response = self._answer(environ)
        headers = {
            "Content-Type": response.kind,
            "Content-Length": str(len(response.content)),
            **_HEADERS,
            **({"Allow": response.allow} if response.allow else {}),
        }
        status = f"{response.status.value} {response.status.phrase}"
        start_response(status, list(headers.items()))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [response.content]

    def _answer(self, environ: dict[str, Any]) -> Response:
        host, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if not self._knows(host):
            problem = f"this server is not {host or 'nameless'}"
            return refusal(HTTPStatus.MISDIRECTED_REQUEST, problem)
        if origin is not None and origin != f"http://{host}":
            return refusal(HTTPStatus.FORBIDDEN, f"no answers for pages of {origin}")
        if path == "/classify":
            if method != "POST":
                return refusal(HTTPStatus.METHOD_NOT_ALLOWED, "expected POST", "POST")
            return self._classify(environ)
        if path not in self.files:
            return refusal(HTTPStatus.NOT_FOUND, "no such page")
        if method not in ("GET", "HEAD"):
            return refusal(HTTPStatus.METHOD_NOT_ALLOWED, "expected GET, HEAD", "GET, HEAD")
        return Response(HTTPStatus.OK, *self.files[path])

    def _knows(self, host: str) -> bool:
        """Return whether a Host header names this server.

        Another site's name may be made to resolve to this machine (DNS rebinding), which a numeric
        address cannot.
        """
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
            return name in {"localhost", self._host} or bool(ip_address(name))
        except ValueError:
            return False

    def _classify(self, environ: dict[str, Any]) -> Response:
        kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
        if kind != _JSON and not kind.startswith("image/"):
            problem = f"expected application/json or an image, got {kind or 'nothing'}"
            return refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, problem)
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if kind == _JSON and length > MAX_JSON_BYTES:
            problem = f"expected at most {MAX_JSON_BYTES:,} bytes"
            return refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, problem)
        content = environ["wsgi.input"].read(length)
        try:
            found = self.of_pixels(content) if kind == _JSON else self.of_picture(content)
        except Error as error:
            bad = HTTPStatus.BAD_REQUEST if kind == _JSON else HTTPStatus.UNPROCESSABLE_ENTITY
            return refusal(bad, str(error))
        return Response(HTTPStatus.OK, _JSON, json.dumps(found).encode())

    def of_pixels(self, content: bytes) -> dict[str, Any]:
        """Classify prepared pixels.

        Args:
            content: JSON, {"pixels": [784 integers from 0 to 255]}.

        Raises:
            Error: `content` is anything else.
        """
        pixels = _pixels(content).reshape(SIZE, SIZE)
        prepared = Prepared(pixels, bool(pixels.any()), "light on dark", (0, 0, SIZE, SIZE), ())
        answer, seconds = self._infer(prepared)
        return _as_dict(answer, 0.0, seconds)

    def of_picture(self, content: bytes) -> dict[str, Any]:
        """Prepare and classify an image file.

        Raises:
            Error: it is no image, damaged, has too many pixels, or takes too long to decode.
        """
        start = time.perf_counter()
        prepared = prepare(decode(content))
        preparation = time.perf_counter() - start
        answer, seconds = self._infer(prepared)
        found = {
            "pixels": prepared.image.ravel().tolist(),
            "polarity": prepared.polarity,
            "box": list(prepared.box),
            "notes": list(prepared.notes),
        }
        return _as_dict(answer, preparation, seconds) | found

    def _infer(self, prepared: Prepared) -> tuple[Answer, float]:
        with self._inferring:  # an interpreter answers one thread at a time
            start = time.perf_counter()
            answer = self._classifier.answer(prepared)
            return answer, time.perf_counter() - start


def listen(host: str, port: int, path: Path, classifier: Classifier) -> Any:
    """Return waitress' server, which listens already; its `run` then answers.

    Args:
        host: the name or address to listen at; 0.0.0.0 for all of this machine's.
        port: 0 for any that is free.
        path: of the model's file.
        classifier: that file, opened.

    Raises:
        Error: there is no such address here, or the port is taken or not allowed.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise Error(f"cannot listen at {host}, port {port}: {_reason(error)}") from error
    return waitress.create_server(
        App(host, path, classifier),
        sockets=[listening],
        threads=REQUESTS,
        connection_limit=CONNECTIONS,
        channel_timeout=IDLE_SECONDS,
        cleanup_interval=IDLE_SECONDS,
        max_request_body_size=MAX_BYTES,
        ident=f"keras-lenet/{__version__}",
    )


def addresses(host: str, port: int) -> tuple[str, str | None]:
    """Return where to find the page: on this machine, and, if it listens there, from others."""
    everywhere = host in {"0.0.0.0", "::"}
    here = "localhost" if everywhere else host
    outside = _own_address() if everywhere else host
    if outside is None or outside == "localhost" or _is_loopback(outside):
        return _url(here, port), None
    return _url(here, port), _url(outside, port)


def _pixels(content: bytes) -> NDArray[np.uint8]:
    try:
        request = json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Error(f"not JSON: {error}") from error
    pixels = request.get("pixels") if isinstance(request, dict) else None
    if not isinstance(pixels, list) or len(pixels) != SIZE * SIZE:
        raise Error(f'expected {{"pixels": [{SIZE * SIZE} integers]}}')
    if not all(type(pixel) is int and 0 <= pixel <= 255 for pixel in pixels):
        raise Error("expected pixels to be integers from 0 to 255")
    return np.array(pixels, np.uint8)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _as_dict(answer: Answer, preparation: float, inference: float) -> dict[str, Any]:
    return {
        "digit": answer.digit,
        "confidence": answer.confidence,
        "accepted": answer.accepted,
        "probabilities": answer.probabilities.tolist(),
        "milliseconds": {"preparation": 1000 * preparation, "inference": 1000 * inference},
    }


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program listens there; name another by --port"
    return error.strerror or str(error)


def _own_address() -> str | None:
    """Return this machine's address in its network; connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation: any that is not here
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
