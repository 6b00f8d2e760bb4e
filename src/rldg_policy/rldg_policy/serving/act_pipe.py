"""Questions and answers between the process that talks HTTP and the one that holds the policy: bytes, never pickles."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

import msgpack
import numpy as np

from rldg_policy.serving.act_request import ActRequest

HEALTH = b""
"""The question what is served; any other is `pack_act`'s."""


class Pipe:
    """One end. Either end may send from one thread at a time; `receive` raises EOFError when the other end has gone."""

    def __init__(self, descriptor: int) -> None:
        self._connection = Connection(descriptor)

    def fileno(self) -> int:
        """For an event loop."""
        return self._connection.fileno()

    def ask(self, number: int, question: bytes) -> None:
        """Send a question; its answer carries the same number."""
        self._connection.send_bytes(number.to_bytes(8, "big") + question)

    def next_question(self) -> tuple[int, bytes]:
        """(number, question)."""
        data = self._connection.recv_bytes()
        return int.from_bytes(data[:8], "big"), data[8:]

    def answer(self, number: int, status: int, value: Any) -> None:
        """Send an answer: value is what was asked for (JSON-like), or why not when status is not 200."""
        self._connection.send_bytes(msgpack.packb([number, status, value]))

    def next_answer(self) -> tuple[int, int, Any]:
        """(number, status, value)."""
        number, status, value = msgpack.unpackb(self._connection.recv_bytes())  # bounded: our own process
        return number, status, value

    def wait(self, timeout_s: float) -> bool:
        """Whether something has arrived within this time."""
        return self._connection.poll(timeout_s)

    def close(self) -> None:
        """End it; the other side sees EOFError."""
        self._connection.close()


def pack_act(request: ActRequest) -> bytes:
    """ActRequest -> question."""
    fields = [request.image.shape, request.image.tobytes(), request.instruction, request.unnorm_key, request.encoded]
    packed: bytes = msgpack.packb(fields)
    return packed


def unpack_act(question: bytes) -> ActRequest:
    """Inverse of `pack_act`."""
    shape, pixels, instruction, key, encoded = msgpack.unpackb(question)  # bounded: our own process
    return ActRequest(np.frombuffer(pixels, np.uint8).reshape(shape), instruction, key, encoded)
