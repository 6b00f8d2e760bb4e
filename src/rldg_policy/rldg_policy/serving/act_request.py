"""OpenVLA's REST interface without HTTP: validation of a request, its answer, and their transport between processes.

As vla-scripts/deploy.py of openvla/openvla: `{"image": json-numpy (H, W, 3) uint8, "instruction": ..., "unnorm_key"?}`
(or that as a string under "encoded") -> (7,) physical: metres, radians, gripper 0 closed .. 1 open. Each request
is independent, like an episode of one observation.

Requests reach the process that runs the policy through a pipe, as bytes and without pickle.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import cv2
import json_numpy
import msgpack
import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.image_codec import Image
from rldg_core.instructions import MAX_INSTRUCTION, check_instruction
from rldg_core.task import ActionConfig, Task
from rldg_core.types import Observation
from rldg_policy.serving.inference import Result, Session
from rldg_policy.serving.store import Served

MAX_INSTRUCTION_BYTES = 8 * MAX_INSTRUCTION
"""Longest encoding of a character as JSON in JSON: \\\\u and four digits."""
OVERHEAD_BYTES = 2000
"""Bytes of a request besides image and instruction: field names, key, white space."""
ANSWER_WITHIN_S = 30.0
"""Enough for the inference of a large model on a CPU."""


class RefusedError(Exception):
    """Reason why a request is refused; `status` is the HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class ActRequest:
    """A validated request. encoded: the client sends and expects json-numpy inside a string."""

    image: Image
    instruction: str
    unnorm_key: str | None
    encoded: bool


def max_body_bytes(side_px: int) -> int:
    """Return the largest length of a request with a square image of this side in base64."""
    return 4 * side_px**2 + MAX_INSTRUCTION_BYTES + OVERHEAD_BYTES


def parse_act(body: bytes, max_side_px: int) -> ActRequest:
    """Parse a request body. Raises RefusedError (400, 413) naming the field."""
    payload = _json_object(body)
    encoded = "encoded" in payload
    if encoded:
        if len(payload) != 1 or not isinstance(payload["encoded"], str):
            raise RefusedError(400, "encoded: expected a string and no other field")
        payload = _json_object(payload["encoded"])
    unknown = sorted(set(payload) - {"image", "instruction", "unnorm_key"})
    if unknown:
        raise RefusedError(400, f"unknown field {unknown[0]!r}, expected image, instruction, unnorm_key")
    instruction, key = payload.get("instruction"), payload.get("unnorm_key")
    if not isinstance(instruction, str):
        raise RefusedError(400, "instruction: expected a string")
    try:
        check_instruction(instruction)
    except UserError as error:
        raise RefusedError(413 if len(instruction) > MAX_INSTRUCTION else 400, str(error)) from error
    if key is not None and not isinstance(key, str):
        raise RefusedError(400, "unnorm_key: expected a string")
    return ActRequest(_image(payload.get("image"), max_side_px), instruction, key, encoded)


def _json_object(text: bytes | str) -> dict[str, Any]:
    try:
        payload = json.loads(text)  # bounded: by the length of a request
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"not valid JSON: {str(error)[:200]}") from error
    if not isinstance(payload, dict):
        raise RefusedError(400, "expected a JSON object")
    return payload


def _image(value: Any, max_side_px: int) -> Image:
    """Decode an image; everything is validated before json_numpy creates the array."""
    if not isinstance(value, dict) or set(value) != {"__numpy__", "dtype", "shape"}:
        raise RefusedError(400, "image: expected an array as json-numpy writes it")
    data, dtype, shape = value["__numpy__"], value["dtype"], value["shape"]
    if dtype not in ("|u1", "uint8"):
        raise RefusedError(400, f"image: expected dtype uint8, got {str(dtype)[:40]}")
    if not isinstance(shape, list) or len(shape) != 3 or any(type(n) is not int for n in shape) or shape[2] != 3:
        raise RefusedError(400, f"image: expected shape [height, width, 3], got {str(shape)[:80]}")
    height, width = shape[:2]
    if height > max_side_px or width > max_side_px:
        raise RefusedError(413, f"image: {width}x{height} px, at most {max_side_px}x{max_side_px}")
    if height < 1 or width < 1:
        raise RefusedError(400, f"image: {width}x{height} px")
    if not isinstance(data, str) or len(data) != (height * width * 3 + 2) // 3 * 4:
        raise RefusedError(400, f"image: the base64 data are not {height}x{width}x3 bytes")
    try:
        array: Image = np.asarray(json_numpy.object_hook(value), dtype=np.uint8)
    except (ValueError, TypeError) as error:
        raise RefusedError(400, f"image: cannot be decoded: {str(error)[:200]}") from error
    return array


def answer_text(action: NDArray[np.float64], encoded: bool) -> str:
    """Return the body of the answer."""
    text = str(json_numpy.dumps(action))
    return json.dumps(text) if encoded else text


def physical_action(values: NDArray[np.float32], action: ActionConfig) -> NDArray[np.float64]:
    """Convert (A,) in [-1, 1] to OpenVLA's (7,): delta [m, rad], gripper 0 closed .. 1 open.

    In a task without gripper actions the gripper holds an object, so it is closed.
    """
    gripper = (float(values[6]) + 1) / 2 if len(values) > 6 else 0.0
    return np.append(action.to_delta_tcp(values), gripper)


class ActService:
    """Answers requests with the policy that `serving` returns, one at a time.

    serving: called with `lock` held; raises RefusedError when no policy is available. A request that is in progress
    when an episode starts is refused (409).
    """

    def __init__(self, task: Task, serving: Callable[[], Served], lock: AbstractContextManager[Any]) -> None:
        self._task, self._serving, self._lock = task, serving, lock
        self._turn = threading.Lock()

    @property
    def max_side_px(self) -> int:
        """Side of the largest image that a policy of this task gets [px]."""
        return max(camera.image_size for camera in self._task.cameras.values())

    def describe(self) -> dict[str, Any]:
        """Return what is served. Raises RefusedError."""
        with self._lock:
            served = self._serving()
        loaded = served.loaded
        spec = loaded.spec
        return {
            "policy_id": loaded.policy_id,
            "backend": loaded.backend,
            "unnorm_key": spec.statistics_key,
            "horizon": spec.horizon,
            "image_size": self._image_size(served),
            "task": self._task.name,
        }

    def act(self, request: ActRequest) -> NDArray[np.float64]:
        """Return the physical action (7,). Raises RefusedError."""
        with self._lock:
            served = self._serving()
        observation = self._observation(request, served)
        if not self._turn.acquire(timeout=ANSWER_WITHIN_S):
            raise RefusedError(503, "busy with earlier requests")
        try:
            result = self._infer(served, request.instruction, observation)
        finally:
            self._turn.release()
        if result.values is None:
            raise RefusedError(409 if result.abandoned else 503, result.error)
        return physical_action(result.values[0], self._task.action)

    def _observation(self, request: ActRequest, served: Served) -> Observation:
        spec, policy_id = served.loaded.spec, served.loaded.policy_id
        if not spec.statistics_key:
            raise RefusedError(503, f"policy {policy_id!r} is not a generalist: it has no action statistics")
        if request.unnorm_key not in (None, spec.statistics_key):
            raise RefusedError(
                400, f"unnorm_key: {request.unnorm_key!r}, policy {policy_id!r} has {spec.statistics_key!r}"
            )
        if len(spec.cameras) != 1:
            raise RefusedError(
                503, f"policy {policy_id!r} needs images of {', '.join(spec.cameras)}, a request has one image"
            )
        height, width = request.image.shape[:2]
        if (height, width) != (size := self._image_size(served), size):
            raise RefusedError(
                400, f"image: {width}x{height} px, expected {size}x{size} px, the size of camera {spec.cameras[0]!r}"
            )
        done, png = cv2.imencode(".png", request.image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        assert done
        zeros, pose = np.zeros(6), np.array([0, 0, 0, 0, 0, 0, 1.0])
        return Observation(0, {spec.cameras[0]: png.tobytes()}, pose, zeros, zeros, np.zeros(0), float("nan"))

    def _image_size(self, served: Served) -> int:
        """Image size of the policy's camera in a stack [px], so that requests have the same input as observations."""
        cameras = [self._task.cameras[name] for name in served.loaded.spec.cameras if name in self._task.cameras]
        return cameras[0].image_size if cameras else served.loaded.spec.image_size

    def _infer(self, served: Served, instruction: str, observation: Observation) -> Result:
        answer: Future[Result] = Future()

        def deliver(result: Result) -> None:
            if not answer.done():
                answer.set_result(result)

        with self._lock:
            if self._serving() is not served:
                raise RefusedError(503, "another policy became active: try again")
            served.worker.begin(Session(instruction, 0, deliver))
            served.worker.observe(observation, True)
        try:
            return answer.result(timeout=ANSWER_WITHIN_S)
        except LateError:
            raise RefusedError(503, f"no answer within {ANSWER_WITHIN_S:.0f} s") from None


HEALTH = b""
"""Request for the health of the service; all others come from `pack_act`."""


class Pipe:
    """One end of the pipe. Each end may send from one thread at a time; receiving raises EOFError when the other end is
    closed."""

    def __init__(self, descriptor: int) -> None:
        self._connection = Connection(descriptor)

    def fileno(self) -> int:
        """Return the file descriptor, for an event loop."""
        return self._connection.fileno()

    def send_request(self, number: int, request: bytes) -> None:
        """Send a request; its answer has the same number."""
        self._connection.send_bytes(number.to_bytes(8, "big") + request)

    def next_request(self) -> tuple[int, bytes]:
        """Receive (number, request)."""
        data = self._connection.recv_bytes()
        return int.from_bytes(data[:8], "big"), data[8:]

    def answer(self, number: int, status: int, value: Any) -> None:
        """Send an answer. value: the result (JSON-like), or the reason when status is not 200."""
        self._connection.send_bytes(msgpack.packb([number, status, value]))

    def next_answer(self) -> tuple[int, int, Any]:
        """Receive (number, status, value)."""
        number, status, value = msgpack.unpackb(self._connection.recv_bytes())  # bounded: our own process
        return number, status, value

    def wait(self, timeout_s: float) -> bool:
        """Return whether data arrives within this time."""
        return self._connection.poll(timeout_s)

    def close(self) -> None:
        """Close this end; the other end gets EOFError."""
        self._connection.close()


def pack_act(request: ActRequest) -> bytes:
    """Serialise a request."""
    fields = [request.image.shape, request.image.tobytes(), request.instruction, request.unnorm_key, request.encoded]
    packed: bytes = msgpack.packb(fields)
    return packed


def unpack_act(data: bytes) -> ActRequest:
    """Deserialise what `pack_act` returned."""
    shape, pixels, instruction, key, encoded = msgpack.unpackb(data)  # bounded: our own process
    return ActRequest(np.frombuffer(pixels, np.uint8).reshape(shape), instruction, key, encoded)
