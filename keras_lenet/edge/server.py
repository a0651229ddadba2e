"""Serve the drawing page and answer its pictures: what `keras-lenet draw` runs.

    GET  /             the page, from a fixed table of files in memory
    GET  /model.json   which model answers
    POST /classify     {"pixels": [784 integers, 0 to 255]}, already prepared; or any picture as
                       image/png, image/jpeg, ...

It answers this machine alone unless it is told otherwise, and only pages that it served itself:
requests by another host name (DNS rebinding) or from another origin are refused. What one client
can cost is bounded: in connections, bytes, pixels and seconds.
"""

from __future__ import annotations

import errno
import io
import json
import socket
import socketserver
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from keras_lenet import __version__
from keras_lenet.edge import page
from keras_lenet.edge.classifier import Answer, Classifier
from keras_lenet.edge.decoding import decode
from keras_lenet.edge.prepare import SIZE, Prepared, prepare
from keras_lenet.errors import Error

MAX_BYTES = 8 << 20
"""Larger pictures are refused unread."""
MAX_JSON_BYTES = 64 << 10
"""And larger JSON: 784 numbers take 4 kB, and nested lists many times their length in memory."""
DEADLINE = 10.0
"""Seconds in which a request must have arrived."""
CONNECTIONS = 32
"""As many are served at once; others wait their turn."""
PICTURES = 4
"""As many pictures are prepared at once, for each may take a lot of memory."""

_LINGER = 1.0  # seconds for a refused client to take its answer, while what it sends is thrown away
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server(ThreadingHTTPServer):
    """Serves one model.

    Attributes:
        server_port: where it listens.
        deadline: seconds in which a request must have arrived.
        files: by path, the media type and content of what GET answers.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, host: str, port: int, path: Path, classifier: Classifier) -> None:
        """Listen; `serve_forever` then answers.

        Args:
            host: the name or address to listen at; 0.0.0.0 for all of this machine's.
            port: 0 for any that is free.
            path: of the model's file.
            classifier: that file, opened.

        Raises:
            Error: there is no such address here, or the port is taken or not allowed.
        """
        self.host, self.deadline = host, DEADLINE
        self._classifier = classifier
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._preparing = threading.BoundedSemaphore(PICTURES)
        self._inferring = threading.Lock()
        told = json.dumps(page.description(path, classifier)).encode()
        self.files = {f"/{name}": (kind, page.read(name)) for name, kind in page.TYPES.items()}
        self.files["/"] = self.files.pop("/index.html")
        self.files[f"/{page.ENGINE}"] = (page.TYPES["draw.js"], page.read("engine-server.js"))
        self.files["/model.json"] = ("application/json", told)
        try:
            self.address_family = socket.getaddrinfo(host, port)[0][0]
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise Error(f"cannot listen at {host}, port {port}: {_reason(error)}") from error

    def server_bind(self) -> None:
        """Bind, without asking the name service for this machine's name as the base class does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, int(self.socket.getsockname()[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, once one is free: each takes at most a few deadlines."""
        self._slots.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and let the next one in."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server.

        Another site's name may be made to resolve to this machine (DNS rebinding), which a numeric
        address cannot.
        """
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
            return name in {"localhost", self.host.lower()} or bool(ip_address(name))
        except ValueError:
            return False

    def answer_pixels(self, content: bytes) -> dict[str, Any]:
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

    def answer_picture(self, content: bytes) -> dict[str, Any]:
        """Prepare and classify an image file.

        Raises:
            Error: it is no image, damaged, has too many pixels, or takes too long to decode.
        """
        with self._preparing:
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


def addresses(server: Server) -> tuple[str, str | None]:
    """Where to find the page: on this machine, and, if it listens there, from others."""
    host = server.host
    everywhere = host in {"0.0.0.0", "::"}
    here = "localhost" if everywhere else host
    outside = _own_address() if everywhere else host
    if outside is None or outside == "localhost" or _is_loopback(outside):
        return _url(here, server.server_port), None
    return _url(here, server.server_port), _url(outside, server.server_port)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = f"keras-lenet/{__version__}"
    sys_version = ""
    # Until a request line has come; an answer to a slow sender needs them.
    request_version, requestline, command = "HTTP/1.0", "", ""

    def setup(self) -> None:
        super().setup()
        self._deadline = time.monotonic() + self.server.deadline
        self.rfile = io.BufferedReader(_Timed(self.connection, self._deadline))

    def handle(self) -> None:
        try:
            super().handle()
        except _SlowError:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request took too long to arrive")
        except ConnectionError:
            return
        self._linger()

    def do_GET(self) -> None:
        if not self._welcome():
            return
        if self._path == "/classify":
            self._other_method()
        elif self._path in self.server.files:
            self._send(HTTPStatus.OK, *self.server.files[self._path])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "no such page")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        if not self._welcome():
            return
        if self._path in self.server.files:
            return self._other_method()
        if self._path != "/classify":
            return self._refuse(HTTPStatus.NOT_FOUND, "no such page")
        kind = self.headers.get_content_type()
        if kind != "application/json" and not kind.startswith("image/"):
            problem = f"expected application/json or an image, got {kind}"
            return self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, problem)
        body = self._body(MAX_JSON_BYTES if kind == "application/json" else MAX_BYTES)
        if body is None:
            return
        try:
            if kind == "application/json":
                status, result = HTTPStatus.BAD_REQUEST, self.server.answer_pixels
            else:
                status, result = HTTPStatus.UNPROCESSABLE_ENTITY, self.server.answer_picture
            content = json.dumps(result(body)).encode()
        except Error as error:
            return self._refuse(status, str(error))
        self._send(HTTPStatus.OK, "application/json", content)

    def _other_method(self) -> None:
        allowed = "POST" if self._path == "/classify" else "GET, HEAD"
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, f"expected {allowed}", {"Allow": allowed})

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _other_method  # noqa: N815

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _welcome(self) -> bool:
        """Refuse who asks by another name, and pages of other origins."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if not self.server.knows(host):
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, f"this server is not {host or 'nameless'}")
            return False
        if origin is not None and origin != f"http://{host}":
            self._refuse(HTTPStatus.FORBIDDEN, f"no answers for pages of {origin}")
            return False
        return True

    def _body(self, limit: int) -> bytes | None:
        """The request's body of at most `limit` bytes; None where it has been refused."""
        length = self.headers.get("Content-Length")
        if length is None:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        elif not (length.isascii() and length.isdigit()):
            self._refuse(HTTPStatus.BAD_REQUEST, "expected a number as Content-Length")
        elif len(length) > 12 or int(length) > limit:
            problem = f"expected at most {limit:,} bytes"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, problem)
        else:
            body = self.rfile.read(int(length))
            if len(body) == int(length):
                return body
            self._refuse(HTTPStatus.BAD_REQUEST, "the body is shorter than its Content-Length")
        return None

    def _refuse(self, status: int, problem: str, extra: dict[str, str] | None = None) -> None:
        content = json.dumps({"error": problem}).encode()
        self._send(status, "application/json", content, extra)

    def _send(
        self, status: int, kind: str, content: bytes, extra: dict[str, str] | None = None
    ) -> None:
        self.connection.settimeout(self.server.deadline)
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content))}
        for name, value in (headers | _HEADERS | (extra or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses, in the form of all other refusals."""
        self.close_connection = True
        self.request_version = "HTTP/1.0"  # whatever it was taken for: the answer has a status line
        self._refuse(code, message or explain or HTTPStatus(code).phrase)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for every few points of a stroke would tell nobody anything."""

    def _linger(self) -> None:
        """Wait until the client has taken its answer.

        Closing a connection with data still unread would take back an answer that is on its way.
        """
        until = time.monotonic() + _LINGER
        try:
            self.connection.shutdown(socket.SHUT_WR)
            while (left := until - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(1 << 16):
                    break
        except OSError:
            pass


class _SlowError(Exception):
    """A request that is not there by its deadline."""


class _Timed(io.RawIOBase):
    """Reads from a socket until a deadline, however the sender spreads what it sends."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise _SlowError
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        except TimeoutError as error:
            raise _SlowError from error


def _pixels(content: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
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
    """This machine's address in its local network; connecting a UDP socket sends nothing."""
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
