"""A server on the loopback interface that does to a download whatever a network may do."""

import http.server
import threading
import time

FAULTS = (
    "truncates",
    "stalls",
    "declares more",
    "declares less",
    "serves other bytes",
    "redirects endlessly",
    "is busy",
    "has nothing",
    "hangs up",
    "sends no number",
)


class Faulty:
    """Serves `content` at every path.

    Attributes:
        faults: what befalls the next requests, in order; those after are answered well.
        log: for each request the fault, or None, and the first byte that was asked for.
        sent: bytes of content sent in all.
    """

    def __init__(self, content: bytes, stall: float = 1.0):
        self.content, self.stall = content, stall
        self.faults, self.log, self.sent = [], [], 0
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/file.gz"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _handler(server):  # noqa: N805 - the handler has a self of its own
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                asked = self.headers.get("Range")
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
                fault = server.faults.pop(0) if server.faults else None
                server.log.append((fault, start))
                try:
                    self._answer(fault, start)
                except OSError:
                    self.close_connection = True

            def _answer(self, fault, start):
                if fault == "hangs up":
                    return self.connection.close()
                if fault == "redirects endlessly":
                    server.faults.insert(0, fault)
                    if sum(past == fault for past, _ in server.log) % 20 == 0:
                        server.faults.pop(0)  # nobody follows that far
                    self.send_response(302)
                    self.send_header("Location", self.path)
                    return self.end_headers()
                status = {"is busy": 503, "has nothing": 404}.get(fault)
                if fault == "ignores ranges":
                    start = 0
                body = server.content[start:]
                if status is None and start and not body:
                    status = 416
                if status is not None:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                length = len(body)
                self.send_response(206 if start else 200)
                if start:
                    first = start + (7 if fault == "sends another range" else 0)
                    last = len(server.content) - 1
                    self.send_header("Content-Range", f"bytes {first}-{last}/{last + 1}")
                if fault == "serves other bytes":
                    body = bytes(byte ^ 1 for byte in body)
                if fault in ("truncates", "stalls"):
                    body = body[: len(body) // 2]
                declared = {
                    "declares more": length + 1000,
                    "declares less": length // 2,
                    "sends no number": "many",
                }.get(fault, length)
                self.send_header("Content-Length", str(declared))
                self.end_headers()
                self.wfile.write(body)
                server.sent += len(body)
                if fault == "stalls":
                    self.wfile.flush()
                    time.sleep(server.stall)

        return Handler
