"""The HTTP process of /act: it reads all untrusted input.

The policy process, which has to deliver an action at every tick, only gets validated requests of bounded size through a
pipe (`rldg_policy.serving.act_request`). Checks are ordered by cost: number of connections, address, method, path,
content type and length, then the body, which must arrive within a deadline. HTTP is parsed by h11.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import h11
import numpy as np

from rldg_policy.serving.act_request import HEALTH, Pipe, RefusedError, answer_text, max_body_bytes, pack_act, parse_act

MAX_CONNECTIONS = 8
"""Concurrent connections; further ones get 503."""
MAX_REFUSALS = 64
"""Connections being refused with 503; further ones are closed immediately."""
REQUEST_WITHIN_S = 5.0
"""Time from the connection to the last byte of a request."""
ANSWER_WITHIN_S = 60.0
"""Time for the policy process to answer; it has a shorter timeout of its own."""
LINGER_S = 1.0
"""Time for which remaining input is read: closing a socket with unread bytes resets it, and the client loses the
answer."""
MAX_HEADER_BYTES = 16_384
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class RequestLimits:
    """Limits of a request. port: of the listener; max_side_px: side of the largest image."""

    port: int
    max_side_px: int

    @property
    def max_body_bytes(self) -> int:
        """Length of the longest valid body."""
        return max_body_bytes(self.max_side_px)

    def check_head(self, request: h11.Request) -> None:
        """Check everything before the body. Raises RefusedError."""
        headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
        self._check_origin(headers)
        target, method = request.target.decode("latin-1"), request.method.decode("latin-1")
        allowed = {"/act": "POST", "/health": "GET"}.get(target)
        if allowed is None:
            raise RefusedError(404, "expected POST /act or GET /health")
        if method != allowed:
            raise RefusedError(405, f"expected {allowed} {target}")
        if method == "POST":
            self._check_body(headers)

    def _check_origin(self, headers: dict[str, str]) -> None:
        hosts = {name for local in LOCAL_NAMES for name in (local, f"{local}:{self.port}")}
        if (host := headers.get("host", "")).lower() not in hosts:
            # With DNS rebinding, a web page still sends its own host name.
            raise RefusedError(403, f"Host: {host[:80]!r}, expected one of {', '.join(LOCAL_NAMES)}")
        if (origin := headers.get("origin")) is not None:
            raise RefusedError(403, f"Origin: {origin[:80]!r}: requests from web pages are refused")

    def _check_body(self, headers: dict[str, str]) -> None:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusedError(415, f"Content-Type: expected application/json, got {kind[:80]!r}")
        if "content-encoding" in headers:
            raise RefusedError(415, "Content-Encoding: expected an unencoded body")
        length = headers.get("content-length")
        if length is None or "transfer-encoding" in headers:
            raise RefusedError(411, "Content-Length: expected the number of bytes")
        if int(length) > self.max_body_bytes:  # h11 has validated the number
            raise RefusedError(413, f"{length} bytes, at most {self.max_body_bytes} for a request with an image")


class Connection:
    """One connection: one request and one answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)

    async def request(self, limits: RequestLimits) -> tuple[str, bytes]:
        """Read (path, body). Raises RefusedError, also when the client disconnects or is too slow."""
        path, body = "", bytearray()
        try:
            async with asyncio.timeout(REQUEST_WITHIN_S):
                while True:
                    event = self._http.next_event()
                    if event is h11.NEED_DATA:
                        if self._http.they_are_waiting_for_100_continue:
                            self._write(h11.InformationalResponse(status_code=100, headers=[]))
                        self._http.receive_data(await self._reader.read(65_536))
                    elif isinstance(event, h11.Request):
                        limits.check_head(event)
                        path = event.target.decode("latin-1")
                    elif isinstance(event, h11.Data):
                        body += event.data
                        if len(body) > limits.max_body_bytes:
                            raise RefusedError(413, f"a request has at most {limits.max_body_bytes} bytes")
                    elif isinstance(event, h11.EndOfMessage):
                        return path, bytes(body)
                    else:
                        raise RefusedError(400, "the connection ended before the request was complete")
        except TimeoutError:
            raise RefusedError(408, f"no complete request within {REQUEST_WITHIN_S:g} s") from None
        except h11.RemoteProtocolError as error:
            raise RefusedError(error.error_status_hint, f"invalid HTTP: {str(error)[:120]}") from error

    async def answer(self, status: int, text: str) -> None:
        """Send the answer; close when the client has received it or after LINGER_S."""
        body = text.encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        with suppress(OSError, h11.LocalProtocolError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                self._write(h11.Response(status_code=status, headers=headers))
                self._write(h11.Data(data=body))
                self._write(h11.EndOfMessage())
                await self._writer.drain()
                self._writer.write_eof()
                while await self._reader.read(65_536):
                    pass
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    def _write(self, event: Any) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)


class RequestHandler:
    """Accepts connections and forwards their requests to the policy process."""

    def __init__(self, limits: RequestLimits, pipe: Pipe) -> None:
        self._limits, self._pipe = limits, pipe
        self._answered = self._refused = 0
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[tuple[int, Any]]] = {}

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection from start to end."""
        connection = Connection(reader, writer)
        if self._answered >= MAX_CONNECTIONS:
            if self._refused >= MAX_REFUSALS:
                writer.transport.abort()
                return
            self._refused += 1
            try:
                await connection.answer(503, _error(f"busy: {MAX_CONNECTIONS} connections are open"))
            finally:
                self._refused -= 1
            return
        self._answered += 1
        try:
            status, text = await self._respond(connection)
        finally:
            self._answered -= 1
        await connection.answer(status, text)

    async def _respond(self, connection: Connection) -> tuple[int, str]:
        try:
            path, body = await connection.request(self._limits)
            if path == "/health":
                return 200, json.dumps(await self._request(HEALTH))
            request = parse_act(body, self._limits.max_side_px)
            return 200, answer_text(np.array(await self._request(pack_act(request))), request.encoded)
        except RefusedError as error:
            return error.status, _error(str(error))
        except OSError:
            return 400, _error("the connection ended before the request was complete")

    async def _request(self, request: bytes) -> Any:
        number = next(self._numbers)
        self._waiting[number] = future = asyncio.get_running_loop().create_future()
        try:
            self._pipe.send_request(number, request)
            status, value = await asyncio.wait_for(future, ANSWER_WITHIN_S)
        except TimeoutError:
            raise RefusedError(503, f"no answer within {ANSWER_WITHIN_S:.0f} s") from None
        finally:
            del self._waiting[number]
        if status != 200:
            raise RefusedError(status, str(value))
        return value

    def take_answer(self) -> None:
        """Read an answer from the pipe, which is readable."""
        try:
            number, status, value = self._pipe.next_answer()
        except (EOFError, OSError):  # the policy process has ended
            os._exit(0)
        if (future := self._waiting.get(number)) and not future.done():
            future.set_result((status, value))


def _error(reason: str) -> str:
    return json.dumps({"error": reason})


async def serve(listener: socket.socket, limits: RequestLimits, pipe: Pipe) -> None:
    """Serve until the pipe is closed."""
    handler = RequestHandler(limits, pipe)
    asyncio.get_running_loop().add_reader(pipe.fileno(), handler.take_answer)
    server = await asyncio.start_server(handler.handle, sock=listener, limit=65_536)
    pipe.send_request(0, HEALTH)  # signals that it is ready; the answer is not awaited
    await server.serve_forever()


def main() -> None:
    """`python -m rldg_policy.serving.act_process <listener's descriptor> <pipe's descriptor> <port> <largest side>`."""
    listener_fd, pipe_fd, port, max_side_px = map(int, sys.argv[1:5])
    os.nice(10)  # the control loop has priority
    listener = socket.socket(fileno=listener_fd)
    listener.setblocking(False)
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(listener, RequestLimits(port, max_side_px), Pipe(pipe_fd)))


if __name__ == "__main__":
    main()
