"""The process that HTTP clients of /act talk to: everything that a stranger may send is read here.

The policy's process, which owes an action every tick, only gets requests that were checked, of a bounded size, through
a pipe (`rldg_policy.serving.act_pipe`). Refusals come cheapest first: connections, address, method, path, type and
length, then the body, which must arrive within a deadline. HTTP itself is h11's.
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

from rldg_policy.serving.act_pipe import HEALTH, Pipe, pack_act
from rldg_policy.serving.act_request import RefusedError, answer_text, max_body_bytes, parse_act

CONNECTIONS = 8
"""Answered at a time; further ones get 503."""
REFUSALS = 64
"""Connections that are told 503 at a time; further ones are closed at once."""
REQUEST_WITHIN_S = 5.0
"""From the connection to the last byte of a request, however slowly the bytes come."""
ANSWER_WITHIN_S = 60.0
"""For the policy's process to say anything; it says 503 by itself after a while."""
LINGER_S = 1.0
"""How long a refused client's bytes are still read: closing on unread bytes would take the answer from it."""
MAX_HEADER_BYTES = 16_384
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Front:
    """What is let in. port: where it listens; max_side_px: of the largest image that any policy takes."""

    port: int
    max_side_px: int

    @property
    def max_body_bytes(self) -> int:
        """Longest body that can hold a request."""
        return max_body_bytes(self.max_side_px)

    def check_head(self, request: h11.Request) -> None:
        """Everything that can be said before the body. Raises RefusedError."""
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
            # A web page whose name was made to point here (DNS rebinding) still sends its own name.
            raise RefusedError(403, f"Host: {host[:80]!r}, expected one of {', '.join(LOCAL_NAMES)}")
        if (origin := headers.get("origin")) is not None:
            raise RefusedError(403, f"Origin: {origin[:80]!r}: requests of web pages are not answered")

    def _check_body(self, headers: dict[str, str]) -> None:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusedError(415, f"Content-Type: expected application/json, got {kind[:80]!r}")
        if "content-encoding" in headers:
            raise RefusedError(415, "Content-Encoding: expected a body as it is")
        length = headers.get("content-length")
        if length is None or "transfer-encoding" in headers:
            raise RefusedError(411, "Content-Length: expected the number of bytes")
        if int(length) > self.max_body_bytes:  # h11 has checked that it is a number
            raise RefusedError(413, f"{length} bytes, a request with an image may have {self.max_body_bytes}")


class Connection:
    """One client, one request, one answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)

    async def request(self, front: Front) -> tuple[str, bytes]:
        """(path, body). Raises RefusedError, also when the client goes away or takes too long."""
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
                        front.check_head(event)
                        path = event.target.decode("latin-1")
                    elif isinstance(event, h11.Data):
                        body += event.data
                        if len(body) > front.max_body_bytes:
                            raise RefusedError(413, f"a request may have {front.max_body_bytes} bytes")
                    elif isinstance(event, h11.EndOfMessage):
                        return path, bytes(body)
                    else:
                        raise RefusedError(400, "the connection ended before the request")
        except TimeoutError:
            raise RefusedError(408, f"no whole request within {REQUEST_WITHIN_S:g} s") from None
        except h11.RemoteProtocolError as error:
            raise RefusedError(error.error_status_hint, f"not HTTP as expected: {str(error)[:120]}") from error

    async def answer(self, status: int, text: str) -> None:
        """Send it, and close when the client has taken it or after LINGER_S."""
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


class Door:
    """Lets clients in, and asks the policy's process one question at a time."""

    def __init__(self, front: Front, pipe: Pipe) -> None:
        self._front, self._pipe = front, pipe
        self._answered = self._refused = 0
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[tuple[int, Any]]] = {}

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        connection = Connection(reader, writer)
        if self._answered >= CONNECTIONS:
            if self._refused >= REFUSALS:
                writer.transport.abort()
                return
            self._refused += 1
            try:
                await connection.answer(503, _error(f"busy: {CONNECTIONS} connections are open"))
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
            path, body = await connection.request(self._front)
            if path == "/health":
                return 200, json.dumps(await self._ask(HEALTH))
            request = parse_act(body, self._front.max_side_px)
            return 200, answer_text(np.array(await self._ask(pack_act(request))), request.encoded)
        except RefusedError as error:
            return error.status, _error(str(error))
        except OSError:
            return 400, _error("the connection ended before the request")

    async def _ask(self, question: bytes) -> Any:
        number = next(self._numbers)
        self._waiting[number] = future = asyncio.get_running_loop().create_future()
        try:
            self._pipe.ask(number, question)
            status, value = await asyncio.wait_for(future, ANSWER_WITHIN_S)
        except TimeoutError:
            raise RefusedError(503, f"no answer within {ANSWER_WITHIN_S:.0f} s") from None
        finally:
            del self._waiting[number]
        if status != 200:
            raise RefusedError(status, str(value))
        return value

    def take_answer(self) -> None:
        """The pipe can be read."""
        try:
            number, status, value = self._pipe.next_answer()
        except (EOFError, OSError):  # the policy's process has ended
            os._exit(0)
        if (future := self._waiting.get(number)) and not future.done():
            future.set_result((status, value))


def _error(reason: str) -> str:
    return json.dumps({"error": reason})


async def serve(listener: socket.socket, front: Front, pipe: Pipe) -> None:
    """Until the pipe closes."""
    door = Door(front, pipe)
    asyncio.get_running_loop().add_reader(pipe.fileno(), door.take_answer)
    server = await asyncio.start_server(door.meet, sock=listener, limit=65_536)
    pipe.ask(0, HEALTH)  # tells that it is ready; nobody waits for the answer
    await server.serve_forever()


def main() -> None:
    """`python -m rldg_policy.serving.act_process <listener's descriptor> <pipe's descriptor> <port> <largest side>`."""
    listener_fd, pipe_fd, port, max_side_px = map(int, sys.argv[1:5])
    os.nice(10)  # before a client's wishes comes the loop that owes 10 Hz
    listener = socket.socket(fileno=listener_fd)
    listener.setblocking(False)
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(listener, Front(port, max_side_px), Pipe(pipe_fd)))


if __name__ == "__main__":
    main()
