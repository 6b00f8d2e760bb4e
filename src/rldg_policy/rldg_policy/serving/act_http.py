"""`POST /act` and `GET /health` over HTTP, with the standard library alone.

Nobody is authenticated: it listens on the loopback address unless another host is asked for. Bodies must be
application/json, which a web page of another origin may not send unasked.
"""

from __future__ import annotations

import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rldg_core.errors import UserError
from rldg_policy.serving.act_request import MAX_BODY_BYTES, ActService, RefusedError, answer_text, parse_act

LOOPBACK = "127.0.0.1"
CONNECTIONS = 8
"""At a time; further ones are closed at once."""
READ_WITHIN_S = 10.0


class ActServer(ThreadingHTTPServer):
    """Listens when constructed. Raises UserError when the address cannot be had."""

    daemon_threads = True

    def __init__(self, service: ActService, port: int, host: str = LOOPBACK) -> None:
        self.service = service
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"http {host}:{port}: cannot listen: {error}") from error

    def start(self) -> None:
        """Serve on a thread of its own."""
        threading.Thread(target=self.serve_forever, name="http", daemon=True).start()

    def stop(self) -> None:
        """End what `start` began."""
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Refuse connections beyond CONNECTIONS."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no matter for a log."""


class _Handler(BaseHTTPRequestHandler):
    server: ActServer
    timeout = READ_WITHIN_S
    server_version = "rldg"
    sys_version = ""

    def do_POST(self) -> None:
        self._answer(self._act if self.path == "/act" else self._unknown)

    def do_GET(self) -> None:
        self._answer(
            {"/health": lambda: json.dumps(self.server.service.describe()), "/act": self._wrong_method}.get(
                self.path, self._unknown
            )
        )

    def _answer(self, make: Any) -> None:
        try:
            self._send(HTTPStatus.OK, make())
        except RefusedError as error:
            self._send(error.status, json.dumps({"error": str(error)}))
        except TimeoutError:
            self._send(HTTPStatus.REQUEST_TIMEOUT, json.dumps({"error": "the body did not arrive"}))

    def _act(self) -> str:
        request = parse_act(self._body())
        return answer_text(self.server.service.act(request), request.encoded)

    def _body(self) -> bytes:
        if self.headers.get_content_type() != "application/json":
            raise RefusedError(415, f"Content-Type: expected application/json, got {self.headers.get_content_type()}")
        text = self.headers.get("Content-Length", "")
        if not (text.isascii() and text.isdigit()):
            raise RefusedError(411, "Content-Length: expected the number of bytes")
        if len(text) > 12 or int(text) > MAX_BODY_BYTES:
            raise RefusedError(413, f"a request may have {MAX_BODY_BYTES} bytes")
        body = self.rfile.read(int(text))
        if len(body) < int(text):
            raise RefusedError(400, f"the body ends after {len(body)} of {text} bytes")
        return body

    def _unknown(self) -> str:
        raise RefusedError(404, "expected POST /act or GET /health")

    def _wrong_method(self) -> str:
        raise RefusedError(405, "expected POST /act")

    def _send(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""
