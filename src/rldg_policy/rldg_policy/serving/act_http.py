"""`POST /act` and `GET /health` over HTTP, on the side of the process that runs the policy.

This process only binds the address. A separate process (`rldg_policy.serving.act_process`) accepts connections and
forwards validated requests, so that network traffic cannot delay the control loop. There is no authentication, so only
loopback addresses are allowed.
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
from rldg_policy.serving.act_request import HEALTH, ActService, Pipe, RefusedError, unpack_act

LOOPBACK = "127.0.0.1"
PROGRAM = ("-m", "rldg_policy.serving.act_process")
BACKLOG = 64
START_WITHIN_S = 30.0
END_WITHIN_S = 2.0
MAX_REQUESTS = 8
"""Requests in progress; the policy answers one at a time."""


class ActServer:
    """HTTP server; listens once constructed.

    Raises UserError when the address is not a loopback address or cannot be bound.
    """

    def __init__(self, service: ActService, port: int, host: str = LOOPBACK) -> None:
        self._service = service
        self._listener = _listen(host, port)
        self.server_address: tuple[str, int] = self._listener.getsockname()[:2]
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._sending = threading.Lock()
        self._pool = ThreadPoolExecutor(MAX_REQUESTS, "http")
        try:
            self._process, self._pipe = self._start_process()
        except UserError:
            self._listener.close()
            raise

    def start(self) -> None:
        """Serve on a new thread."""
        self._thread = threading.Thread(target=self.serve_forever, name="http", daemon=True)
        self._thread.start()

    def serve_forever(self) -> None:
        """Answer requests until `stop`; restart the HTTP process when it ends."""
        while not self._stopping:
            try:
                number, request = self._pipe.next_request()
            except (EOFError, OSError):
                if not self._stopping:
                    self._replace()
                continue
            self._pool.submit(self._answer, number, request)

    def stop(self) -> None:
        """Stop the HTTP process and the thread."""
        if self._stopping:
            return
        self._stopping = True
        self._process.terminate()  # closes its end of the pipe, which ends the thread
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

    def _start_process(self) -> tuple[subprocess.Popen[bytes], Pipe]:
        """Start the HTTP process and wait until it is ready. Raises UserError when it does not start."""
        ours, theirs = socket.socketpair()
        descriptors = self._listener.fileno(), theirs.fileno()
        arguments = [*descriptors, self.server_address[1], self._service.max_side_px]
        # One thread: the thread pools of torch and OpenCV would compete with the control loop.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, *PROGRAM, *map(str, arguments)]
        process = subprocess.Popen(command, pass_fds=descriptors, env=environment, stdin=subprocess.DEVNULL)
        theirs.close()
        pipe = Pipe(ours.detach())
        try:
            if not pipe.wait(START_WITHIN_S):
                raise UserError(
                    f"http {self.server_address}: the HTTP process did not start within {START_WITHIN_S:g} s"
                )
            pipe.next_request()  # the first request signals that it is ready
        except (EOFError, OSError) as error:
            pipe.close()
            raise UserError(f"http {self.server_address}: the HTTP process ended with code {process.wait()}") from error
        except UserError:
            process.kill()
            process.wait()
            pipe.close()
            raise
        return process, pipe

    def _replace(self) -> None:
        code = self._process.wait()
        self._pipe.close()
        print(f"http: the HTTP process ended with code {code}: restarting it", file=sys.stderr, flush=True)
        try:
            self._process, self._pipe = self._start_process()
        except UserError as error:
            print(f"http: {error}: /act is off", file=sys.stderr, flush=True)
            self._stopping = True

    def _respond(self, request: bytes) -> Any:
        if request == HEALTH:
            return self._service.describe()
        return self._service.act(unpack_act(request)).tolist()

    def _answer(self, number: int, request: bytes) -> None:
        status, value = 200, None
        try:
            value = self._respond(request)
        except RefusedError as error:
            status, value = error.status, str(error)
        try:
            with self._sending:
                self._pipe.answer(number, status, value)
        except OSError:
            return  # the HTTP process has ended, and the connection with it


def _listen(host: str, port: int) -> socket.socket:
    if host != "localhost" and not _is_loopback(host):
        raise UserError(
            f"http {host}:{port}: not a loopback address, and there is no authentication: reach it from another "
            f"machine with `ssh -L {port}:{LOOPBACK}:{port}`"
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
