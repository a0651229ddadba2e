"""A server on the loopback interface with the faults of a network."""

import contextlib
import http.server
import threading
import time

STATUS = {"is busy": 503, "has nothing": 404, "redirects endlessly": 302}
FAULTS = (
    *STATUS,
    "truncates",
    "stalls",
    "declares more",
    "declares less",
    "serves other bytes",
    "hangs up",
    "sends no number",
)


class Faulty:
    """A server of `content`: bytes, which are at every path, or a folder of files.

    Attributes:
        faults: of the next requests, in order; later requests are answered well.
        log: each request's fault, or None.
    """

    def __init__(self, content, stall=1.0):
        self.content, self.stall = content, stall
        self.faults, self.log = [], []
        handler = type("Handler", (_Handler,), {"faulty": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/file.gz"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        faults, log = self.faulty.faults, self.faulty.log
        fault = faults.pop(0) if faults else None
        log.append(fault)
        if fault == "redirects endlessly" and log.count(fault) % 20:  # nobody follows that far
            faults.insert(0, fault)
        with contextlib.suppress(OSError):
            self._answer(fault)

    def _answer(self, fault):
        body = self.faulty.content
        if not isinstance(body, bytes):
            path = body / self.path[1:]
            body, fault = (path.read_bytes(), fault) if path.is_file() else (b"", "has nothing")
        if fault == "hangs up":
            return self.connection.close()
        lengths = {"declares more": len(body) + 1000, "declares less": len(body) // 2}
        lengths["sends no number"] = "many"
        if fault in STATUS:
            body = b""
        self.send_response(STATUS.get(fault, 200))
        self.send_header("Location", self.path)
        self.send_header("Content-Length", str(lengths.get(fault, len(body))))
        self.end_headers()
        if fault == "serves other bytes":
            body = bytes(byte ^ 1 for byte in body)
        self.wfile.write(body[: len(body) // 2] if fault in ("truncates", "stalls") else body)
        if fault == "stalls":
            time.sleep(self.faulty.stall)
