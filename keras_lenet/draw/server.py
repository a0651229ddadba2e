"""Serve the drawing page and classify its pictures, for `keras-lenet draw`.

    GET  /             the page, from a fixed table of files in memory
    GET  /model.json   the model's name, size and threshold
    POST /classify     {"pixels": [784 integers, 0 to 255]}, already prepared; or any picture as
                       image/png, image/jpeg, ...

By default it listens to this machine alone. It refuses requests by another host name (DNS
rebinding) and from pages of another origin. The cost of a client is bounded: waitress limits
connections, bytes and idle seconds, `decode` limits pixels and seconds.
"""

from __future__ import annotations

import contextlib
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
from waitress.channel import HTTPChannel

from keras_lenet import __version__, draw
from keras_lenet.edge.classifier import Classifier
from keras_lenet.edge.decoding import decode
from keras_lenet.edge.prepare import SIZE, Prepared, prepare
from keras_lenet.errors import Error

MAX_BYTES = 8 << 20  # of a picture
MAX_JSON_BYTES = 64 << 10  # 784 numbers take 4 kB; nested lists take many times that in memory
IDLE_SECONDS = 10  # until a connection is closed
CONNECTIONS = 32  # open at once; further ones wait
REQUESTS = 4  # answered at once: each picture may take a lot of memory

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
class _Response:
    status: HTTPStatus
    kind: str
    content: bytes
    allow: str | None = None  # the methods, if the request had another


def _refusal(status: HTTPStatus, problem: str, allow: str | None = None) -> _Response:
    return _Response(status, _JSON, json.dumps({"error": problem}).encode(), allow)


class App:
    """The page and its model, as a WSGI application (PEP 3333).

    Attributes:
        files: media type and content by path, for GET.
    """

    def __init__(self, host: str, path: Path, classifier: Classifier) -> None:
        """Take the name that the server listens at, the model's file, and its classifier."""
        self._host, self._classifier, self._inferring = host.lower(), classifier, threading.Lock()
        self.files = {
            f"/{name}": (kind, (draw.PAGE / name).read_bytes()) for name, kind in draw.TYPES.items()
        }
        self.files["/"] = self.files.pop("/index.html")
        engine = (draw.PAGE / "engine-server.js").read_bytes()
        self.files[f"/{draw.ENGINE}"] = (draw.TYPES["draw.js"], engine)
        self.files["/model.json"] = (_JSON, json.dumps(draw.description(path, classifier)).encode())

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., object]
    ) -> Iterable[bytes]:
        """Answer one request."""
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

    def _answer(self, environ: dict[str, Any]) -> _Response:
        host, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if not self._knows(host):
            problem = f"this server is not {host or 'nameless'}"
            return _refusal(HTTPStatus.MISDIRECTED_REQUEST, problem)
        if origin is not None and origin != f"http://{host}":
            return _refusal(HTTPStatus.FORBIDDEN, f"no answers for pages of {origin}")
        if path != "/classify" and path not in self.files:
            return _refusal(HTTPStatus.NOT_FOUND, "no such page")
        allowed = "POST" if path == "/classify" else "GET, HEAD"
        if method not in allowed.split(", "):
            return _refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"expected {allowed}", allowed)
        if path == "/classify":
            return self._classify(environ)
        return _Response(HTTPStatus.OK, *self.files[path])

    def _knows(self, host: str) -> bool:
        """Return whether a Host header names this server.

        DNS rebinding makes a foreign name resolve to this machine; a numeric address cannot.
        """
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
            return name in {"localhost", self._host} or bool(ip_address(name))
        except ValueError:
            return False

    def _classify(self, environ: dict[str, Any]) -> _Response:
        kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
        if kind != _JSON and not kind.startswith("image/"):
            problem = f"expected application/json or an image, got {kind or 'nothing'}"
            return _refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, problem)
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if kind == _JSON and length > MAX_JSON_BYTES:
            problem = f"expected at most {MAX_JSON_BYTES:,} bytes"
            return _refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, problem)
        content = environ["wsgi.input"].read(length)
        try:
            found = self._of_pixels(content) if kind == _JSON else self._of_picture(content)
        except Error as error:
            bad = HTTPStatus.BAD_REQUEST if kind == _JSON else HTTPStatus.UNPROCESSABLE_ENTITY
            return _refusal(bad, str(error))
        return _Response(HTTPStatus.OK, _JSON, json.dumps(found).encode())

    def _of_pixels(self, content: bytes) -> dict[str, Any]:
        pixels = _pixels(content)
        return self._infer(
            Prepared(pixels, bool(pixels.any()), "light on dark", (0, 0, SIZE, SIZE), ())
        )

    def _of_picture(self, content: bytes) -> dict[str, Any]:
        start = time.perf_counter()
        prepared = prepare(decode(content))
        return self._infer(prepared, time.perf_counter() - start) | {
            "pixels": prepared.image.ravel().tolist(),
            "polarity": prepared.polarity,
            "box": prepared.box,
            "notes": prepared.notes,
        }

    def _infer(self, prepared: Prepared, preparation: float = 0.0) -> dict[str, Any]:
        with self._inferring:  # an interpreter answers one thread at a time
            start = time.perf_counter()
            answer = self._classifier.answer(prepared)
            inference = time.perf_counter() - start
        return {
            "digit": answer.digit,
            "confidence": answer.confidence,
            "accepted": answer.accepted,
            "probabilities": answer.probabilities.tolist(),
            "milliseconds": {"preparation": 1000 * preparation, "inference": 1000 * inference},
        }


def _pixels(content: bytes) -> NDArray[np.uint8]:
    """Return the (28, 28) pixels of a request in JSON."""
    try:
        request = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Error(f"not JSON: {error}") from error
    pixels = request.get("pixels") if isinstance(request, dict) else None
    if not isinstance(pixels, list) or len(pixels) != SIZE * SIZE:
        raise Error(f'expected {{"pixels": [{SIZE * SIZE} integers]}}')
    if not all(type(pixel) is int and 0 <= pixel <= 255 for pixel in pixels):
        raise Error("expected pixels to be integers from 0 to 255")
    return np.array(pixels, np.uint8).reshape(SIZE, SIZE)


class _Channel(HTTPChannel):
    """A connection whose last answer reaches a client that is still sending.

    A close with bytes unread resets the connection, and the client may lose the answer (RFC 9112,
    section 9.6). So the server ends its own side, and drops all bytes until the client ends, too.
    """

    close_when_flushed: bool
    _dropping = False

    def handle_write(self) -> None:
        """Send what is due; after the last answer, end this side only."""
        if self.will_close or not self.close_when_flushed:
            super().handle_write()
            return
        self._flush_exception(self._flush_some)
        if self.connected and not self.total_outbufs_len:
            self.close_when_flushed = False
            self._dropping = True
            with contextlib.suppress(OSError):  # the client has gone
                self.socket.shutdown(socket.SHUT_WR)

    def received(self, data: bytes) -> bool:
        """Take bytes from the client."""
        return not self._dropping and super().received(data)


def listen(host: str, port: int, path: Path, classifier: Classifier) -> Any:
    """Return waitress' server, which already listens; its `run` answers.

    Args:
        host: the name or address to listen at; 0.0.0.0 for all of this machine's.
        port: 0 for any that is free.
        path: the model's file.
        classifier: the same file, opened.

    Raises:
        Error: the address is not this machine's, or the port is taken or not allowed.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason = "another program listens there; name another by --port"
        raise Error(f"cannot listen at {host}, port {port}: {reason}") from error
    server = waitress.create_server(
        App(host, path, classifier),
        sockets=[listening],
        threads=REQUESTS,
        connection_limit=CONNECTIONS,
        channel_timeout=IDLE_SECONDS,
        cleanup_interval=IDLE_SECONDS,
        max_request_body_size=MAX_BYTES,
        ident=f"keras-lenet/{__version__}",
    )
    server.channel_class = _Channel
    return server


def addresses(host: str, port: int) -> tuple[str, str | None]:
    """Return the page's URL on this machine and from others; None if none can reach it."""
    everywhere = host in {"0.0.0.0", "::"}
    outside = _own_address() if everywhere else host
    here = _url("localhost" if everywhere else host, port)
    return here, None if outside is None or _is_loopback(outside) else _url(outside, port)


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
        return host == "localhost"


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
