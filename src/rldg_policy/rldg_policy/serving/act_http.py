"""`POST /act` and `GET /health` over HTTP: the side of the process that holds the policy and owes an action every tick.

It only binds the address. Connections are taken, read and refused by a process of its own
(`rldg_policy.serving.act_process`), which passes on requests that were checked. Nobody is authenticated, so the address
is of the loopback alone.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

from rldg_core.errors import UserError
from rldg_policy.serving.act_pipe import HEALTH, Pipe, unpack_act
from rldg_policy.serving.act_request import ActService, RefusedError

LOOPBACK = "127.0.0.1"
PROGRAM = ("-m", "rldg_policy.serving.act_process")
BACKLOG = 64
START_WITHIN_S = 30.0
END_WITHIN_S = 2.0
QUESTIONS = 8
"""At a time; they wait for each other where the policy is asked."""


class ActServer:
    """Listens when constructed. Raises UserError when the address is none of the loopback or cannot be had."""

    def __init__(self, service: ActService, port: int, host: str = LOOPBACK) -> None:
        self._service = service
        self._listener = _listen(host, port)
        self.server_address: tuple[str, int] = self._listener.getsockname()[:2]
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._sending = threading.Lock()
        self._pool = ThreadPoolExecutor(QUESTIONS, "http")
        try:
            self._process, self._pipe = self._begin()
        except UserError:
            self._listener.close()
            raise

    def start(self) -> None:
        """Serve on a thread of its own."""
        self._thread = threading.Thread(target=self.serve_forever, name="http", daemon=True)
        self._thread.start()

    def serve_forever(self) -> None:
        """Answer questions until `stop`; a process that ended is replaced."""
        while not self._stopping:
            try:
                number, question = self._pipe.next_question()
            except (EOFError, OSError):
                if not self._stopping:
                    self._replace()
                continue
            self._pool.submit(self._answer, number, question)

    def stop(self) -> None:
        """End what was begun."""
        if self._stopping:
            return
        self._stopping = True
        self._process.terminate()  # its end of the pipe closes, which ends the thread
        try:
            self._process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(END_WITHIN_S)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pipe.close()
        self._listener.close()

    def __enter__(self) -> ActServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _begin(self) -> tuple[subprocess.Popen[bytes], Pipe]:
        """Start the other process and wait until it answers. Raises UserError when it does not."""
        ours, theirs = socket.socketpair()
        descriptors = self._listener.fileno(), theirs.fileno()
        arguments = [*descriptors, self.server_address[1], self._service.max_side_px]
        # One thread: torch's and OpenCV's pools would take the cores from the loop.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, *PROGRAM, *map(str, arguments)]
        process = subprocess.Popen(command, pass_fds=descriptors, env=environment, stdin=subprocess.DEVNULL)
        theirs.close()
        pipe = Pipe(ours.detach())
        try:
            if not pipe.wait(START_WITHIN_S):
                raise UserError(f"http {self.server_address}: its process does not start within {START_WITHIN_S:g} s")
            pipe.next_question()  # the first one says: ready
        except (EOFError, OSError) as error:
            pipe.close()
            raise UserError(f"http {self.server_address}: its process ended with code {process.wait()}") from error
        except UserError:
            process.kill()
            process.wait()
            pipe.close()
            raise
        return process, pipe

    def _replace(self) -> None:
        code = self._process.wait()
        self._pipe.close()
        print(f"http: its process ended with code {code}: started again", file=sys.stderr, flush=True)
        try:
            self._process, self._pipe = self._begin()
        except UserError as error:
            print(f"http: {error}: /act is off", file=sys.stderr, flush=True)
            self._stopping = True

    def _ask(self, question: bytes) -> Any:
        if question == HEALTH:
            return self._service.describe()
        return self._service.act(unpack_act(question)).tolist()

    def _answer(self, number: int, question: bytes) -> None:
        status, value = 200, None
        try:
            value = self._ask(question)
        except RefusedError as error:
            status, value = error.status, str(error)
        try:
            with self._sending:
                self._pipe.answer(number, status, value)
        except OSError:
            return  # the process that asked has gone, and its client with it


def _listen(host: str, port: int) -> socket.socket:
    if host != "localhost" and not _is_loopback(host):
        raise UserError(
            f"http {host}:{port}: not an address of the loopback: nobody is authenticated; reach it from another "
            f"machine by `ssh -L {port}:{LOOPBACK}:{port}`"
        )
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
        )
    except (OSError, OverflowError) as error:
        raise UserError(f"http {host}:{port}: cannot listen: {error}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
