"""OpenVLA's REST interface: real requests, refusals, and any content of a body."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import json_numpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.errors import UserError
from rldg_core.image_codec import decode_jpeg
from rldg_core.policy import PolicySpec
from rldg_core.task import load_task
from rldg_policy.serving import act_http, act_request
from rldg_policy.serving.act_http import ActServer
from rldg_policy.serving.act_request import ActService, RefusedError, max_body_bytes, physical_action
from rldg_policy.serving.act_request import parse_act as parse_within
from rldg_policy.serving.inference import Session, Worker
from rldg_policy.serving.records import Episode, Settings
from rldg_policy.serving.server import PolicyServer
from rldg_policy.serving.store import Loaded, Served

TASK_FILE = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks" / "insertion.yaml"
SIDE = 256
"""Of the camera of the task."""
ACTION = np.array([0.5, -1.0, 0.0, 0.1, 0.0, -0.2], dtype=np.float32)


def parse_act(data: bytes):
    return parse_within(data, SIDE)


class Generalist:
    """Returns ACTION, stores its requests, and waits for `go`."""

    def __init__(self, key: str = "toy", cameras=("wrist",)) -> None:
        self.spec = PolicySpec(cameras, 64, 1, 6, 2, 10.0, statistics_key=key)
        self.asked: list[tuple[str, np.ndarray]] = []
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()

    def warm_up(self) -> None: ...

    def reset(self, instruction: str, seed: int) -> None:
        self.instruction = instruction

    def act(self, observation):
        self.begun.set()
        assert self.go.wait(20)
        self.asked.append((self.instruction, decode_jpeg(observation.images["wrist"])))
        return np.stack([ACTION, -ACTION])

    def close(self) -> None: ...


@contextmanager
def serving(service: ActService):
    server = ActServer(service, 0)
    server.start()
    try:
        yield server.server_address[1]
    finally:
        server.stop()


@pytest.fixture(scope="module")
def shared():
    """Return (port, policy) of one server for all requests."""
    policy = Generalist()
    worker = Worker("g", policy, threaded=True)
    served = Served(Loaded("g", "toy", "", policy), worker)
    with serving(ActService(load_task(TASK_FILE), lambda: served, threading.Lock())) as port:
        yield port, policy
    worker.close()


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.01)


@pytest.fixture(scope="module")
def quick():
    """Return the port of a server whose requests must arrive within 0.3 s."""
    code = """
import sys
from rldg_policy.serving import act_process
act_process.REQUEST_WITHIN_S = 0.3
act_process.main()
"""
    service = ActService(load_task(TASK_FILE), lambda: None, threading.Lock())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(act_http, "PROGRAM", ("-c", code))
        with serving(service) as port:
            yield port


@pytest.fixture
def port(shared):
    return shared[0]


@pytest.fixture
def policy(shared):
    shared[1].asked.clear()
    return shared[1]


def image(height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def body(**changes) -> bytes:
    fields = {"image": image(), "instruction": "insert the plug", **changes}
    return json_numpy.dumps({k: v for k, v in fields.items() if v is not None}).encode()


def ask(
    port: int, data: bytes, method: str = "POST", path: str = "/act", kind: str = "application/json", **headers: str
):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, data, {"Content-Type": kind, **headers})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_answer_equals_that_of_openvlas_server(port, policy, task):
    status, text = ask(port, body())
    action = json_numpy.loads(text)
    assert status == 200 and action.shape == (7,) and action.dtype == np.float64
    np.testing.assert_allclose(action, [*(ACTION[:3] * 0.015), *(ACTION[3:] * 0.1), 0.0], atol=1e-9)
    instruction, seen = policy.asked[0]
    assert instruction == "insert the plug" and np.array_equal(seen, image()), "equal pixel by pixel"
    status, text = ask(port, json.dumps({"encoded": body(unnorm_key="toy").decode()}).encode())
    assert status == 200 and isinstance(json.loads(text), str)
    assert np.array_equal(json_numpy.loads(json.loads(text)), action)
    status, text = ask(port, b"", "GET", "/health")
    answer = json.loads(text)
    assert status == 200 and answer["unnorm_key"] == "toy" and answer["image_size"] == SIDE


def test_gripper_is_1_when_open(task):
    with_gripper = task.action.model_copy(update={"gripper": True})
    values = np.append(ACTION, np.float32(1.0))
    assert physical_action(values, with_gripper)[6] == 1.0
    assert physical_action(-values, with_gripper)[6] == 0.0


@pytest.mark.parametrize(("height", "width"), [(40, 90), (64, 64), (256, 255), (1, 1)])
def test_image_of_another_size_than_the_camera_is_refused(port, policy, height, width):
    status, text = ask(port, body(image=image(height, width)))
    assert status == 400 and f"image: {width}x{height} px, expected 256x256 px, the size of camera 'wrist'" in text
    assert not policy.asked


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"", 400, "not valid JSON"),
        (b"[1]", 400, "expected a JSON object"),
        (b"[" * 100_000, 400, "not valid JSON"),
        (b"\xff\xfe\x00", 400, "not valid JSON"),
        (body(instruction=None), 400, "instruction: expected a string"),
        (body(instruction="  "), 400, "instruction: must not be empty"),
        (body(instruction="x" * 501), 413, "instruction: 501 characters, expected at most 500"),
        (body(instruction="a\nb"), 400, "holds a control character"),
        (body(image=None), 400, "image: expected an array"),
        (body(image=[[0]]), 400, "image: expected an array"),
        (body(image=image(64, 64).astype(np.float32)), 400, "image: expected dtype uint8, got <f4"),
        (body(image=image()[..., 0]), 400, "image: expected shape [height, width, 3]"),
        (body(image=image()[..., :2]), 400, "image: expected shape [height, width, 3]"),
        (body(image=image()[:0]), 400, "image: 256x0 px"),
        (body(unnorm_key="bridge_orig"), 400, "unnorm_key: 'bridge_orig', policy 'g' has 'toy'"),
        (body(unnorm_key=3), 400, "unnorm_key: expected a string"),
        (body(proprio=1), 400, "unknown field 'proprio'"),
        (b'{"encoded": "{}", "image": 1}', 400, "encoded: expected a string"),
        (b'{"encoded": "{"}', 400, "not valid JSON"),
        (b'{"instruction":"a","image":{"__numpy__":"","dtype":"|O","shape":[1,1,3]}}', 400, "image: expected dtype"),
        (b'{"instruction":"a","image":{"__numpy__":"","dtype":"|u1","shape":[9999,1,3]}}', 413, "at most 256x256"),
        (
            b'{"instruction":"a","image":{"__numpy__":"","dtype":"|u1","shape":[2,2,3]}}',
            400,
            "the base64 data are not",
        ),
        (b'{"instruction":"a","image":{"__numpy__":"####","dtype":"|u1","shape":[1,1,3]}}', 400, "cannot be decoded"),
        (b'{"instruction":"a","image":{"__numpy__":"AA==","dtype":"|u1","shape":[1,1,3]}}', 400, "cannot be decoded"),
    ],
)
def test_bad_body_gets_a_status_and_one_line(port, policy, data, status, reason):
    got, text = ask(port, data)
    assert got == status and reason in json.loads(text)["error"] and "\n" not in text
    assert not policy.asked


def raw(port: int, data: bytes, then: bytes = b"") -> int:
    """Return the status of the answer to these bytes; `then` is sent after the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(data)
        line = client.makefile("rb").readline()
        return int(line.split()[1])


HEAD = b"POST /act HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (HEAD, 411),
        (HEAD + b"Content-Length: -1\r\n", 400),
        (HEAD + b"Content-Length: 1e3\r\n", 400),
        (HEAD + b"Content-Length: 9\r\nContent-Length: 10\r\n", 400),
        (HEAD + b"Content-Length: " + b"9" * 19 + b"\r\n", 413),
        (HEAD + b"Content-Length: 20000000\r\n", 413),
        (HEAD + b"Transfer-Encoding: chunked\r\n", 411),
        (HEAD + b"Content-Length: 9\r\nContent-Encoding: gzip\r\n", 415),
        (HEAD.replace(b"application/json", b"text/plain") + b"Content-Length: 9\r\n", 415),
        (HEAD.replace(b"POST /act", b"GET /act"), 405),
        (HEAD.replace(b"POST /act", b"POST /health") + b"Content-Length: 9\r\n", 405),
        (HEAD.replace(b"POST /act", b"PUT /act"), 405),
        (HEAD.replace(b"POST /act", b"POST /other"), 404),
        (HEAD.replace(b"Host: localhost\r\n", b""), 400),
        (HEAD.replace(b"localhost", b"robot.example.com"), 403),
        (HEAD.replace(b"localhost", b"localhost.evil.com:80"), 403),
        (HEAD.replace(b"localhost", b"127.0.0.1:1"), 403),
        (HEAD + b"Origin: http://evil.example\r\nContent-Length: 9\r\n", 403),
        (HEAD + b"Origin: null\r\nContent-Length: 9\r\n", 403),
        (HEAD + b"X: " + b"x" * 200_000 + b"\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no HTTP at all\r\n", 400),
    ],
)
def test_bad_header_is_refused_before_the_body(port, policy, head, status):
    """No byte of the body is sent, so the server cannot have waited for it."""
    assert raw(port, head + b"\r\n") == status
    assert not policy.asked


def test_oversized_body_is_answered_while_it_is_being_sent(port):
    """A body of 19.8 MB is refused by its length; a client that still sends it can read the reason."""
    data = b"{" + b" " * 19_800_000 + b"}"
    started_s = time.monotonic()
    status, text = ask(port, data)
    assert status == 413 and str(max_body_bytes(SIDE)) in text and time.monotonic() - started_s < 5


def test_host_names_of_the_loopback_are_accepted(port):
    for host in ("localhost", f"localhost:{port}", "127.0.0.1", f"127.0.0.1:{port}", f"LOCALHOST:{port}"):
        assert ask(port, b"", "GET", "/health", Host=host)[0] == 200


@pytest.mark.parametrize("sent", [b"", b"POST /a", HEAD, HEAD + b"Content-Length: 900\r\n\r\n{"])
def test_incomplete_request_times_out(quick, sent):
    """Expect 408 after the deadline, however little was sent; single bytes do not extend it."""
    with socket.create_connection(("127.0.0.1", quick), timeout=20) as client:
        client.sendall(sent)
        client.settimeout(0.05)
        started_s, answer = time.monotonic(), b""
        while not answer and time.monotonic() - started_s < 15:
            try:
                answer = client.recv(4096)
            except TimeoutError:
                with suppress(OSError):
                    client.sendall(b"x" if b"{" in sent else b"")
        assert answer.startswith(b"HTTP/1.1 408")


def test_connections_beyond_the_limit_are_refused(port):
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(8)]
        for client in held:
            client.sendall(b"POST")

        def refused() -> bool:
            return ask(port, b"", "GET", "/health")[0] == 503

        until(refused)
        with ThreadPoolExecutor(20) as pool:
            statuses = list(pool.map(lambda _: raw(port, HEAD + b"Content-Length: 9\r\n\r\n"), range(40)))
        assert set(statuses) == {503}
    until(lambda: ask(port, b"", "GET", "/health")[0] == 200)


def test_ended_worker_process_is_replaced(task, capfd):
    policy = Generalist()
    worker = Worker("g", policy, threaded=True)
    served = Served(Loaded("g", "toy", "", policy), worker)
    server = ActServer(ActService(task, lambda: served, threading.Lock()), 0)
    server.start()
    first = server._process
    first.kill()
    until(lambda: server._process is not first)
    assert ask(server.server_address[1], body())[0] == 200
    second = server._process
    server.stop()
    worker.close()
    assert second.poll() is not None
    assert "http: the HTTP process ended with code -9: restarting it" in capfd.readouterr().err


def test_server_ends_with_the_process_that_holds_the_policy():
    """Also when that process is killed: the pipe closes."""
    code = """
import signal, sys, threading
from pathlib import Path
from rldg_core.task import load_task
from rldg_policy.serving.act_http import ActServer
from rldg_policy.serving.act_request import ActService
server = ActServer(ActService(load_task(Path(sys.argv[1])), lambda: None, threading.Lock()), 0)
print(server._process.pid, flush=True)
signal.pause()
"""
    holder = subprocess.Popen([sys.executable, "-c", code, str(TASK_FILE)], stdout=subprocess.PIPE, text=True)
    pid = int(holder.stdout.readline())
    holder.kill()
    holder.wait()
    until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])
    holder.stdout.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "robot.example.com", ""])
def test_reachable_addresses_are_refused(task, host):
    with pytest.raises(UserError, match=r"not a loopback address, and there is no authentication.*ssh -L"):
        ActServer(ActService(task, lambda: None, threading.Lock()), 0, host)


def test_unsuitable_policy_is_refused(task):
    for made, reason in ((Generalist(key=""), "not a generalist"), (Generalist(cameras=("a", "b")), "has one")):
        worker = Worker("g", made, threaded=False)
        service = ActService(task, lambda: Served(Loaded("g", "toy", "", made), worker), threading.Lock())  # noqa: B023
        with pytest.raises(RefusedError, match=reason) as caught:
            service.act(parse_act(body()))
        assert caught.value.status == 503


def test_slow_answer_times_out(task, monkeypatch):
    policy = Generalist()
    monkeypatch.setattr(act_request, "ANSWER_WITHIN_S", 0.05)
    worker = Worker("g", policy, threaded=True)
    policy.go.clear()
    served = Served(Loaded("g", "toy", "", policy), worker)
    service = ActService(task, lambda: served, threading.Lock())
    with pytest.raises(RefusedError, match="no answer within") as caught:
        service.act(parse_act(body()))
    assert caught.value.status == 503
    policy.go.set()
    worker.close()


def test_episode_has_priority(task, observe):
    """Requests are refused during an episode, and so is a request that still waits when it starts."""
    policy = Generalist()
    lock, woken = threading.RLock(), threading.Semaphore(0)
    server = PolicyServer(Settings(task), woken.release)
    server.add(Loaded("g", "toy", "", policy), activate=True)

    def between_episodes() -> Served:
        if server.episode_runs:
            raise RefusedError(409, "an episode is running")
        return server.store.served

    service = ActService(task, between_episodes, lock)
    assert service.act(parse_act(body())).shape == (7,)
    policy.go.clear()
    policy.begun.clear()
    server.store.served.worker.begin(Session("blocks", 0, lambda result: None))
    server.store.served.worker.observe(observe(0), True)
    assert policy.begun.wait(20)
    statuses: list[int] = []

    def refused() -> None:
        with pytest.raises(RefusedError) as caught:
            service.act(parse_act(body()))
        statuses.append(caught.value.status)

    waits = threading.Thread(target=refused)
    waits.start()
    worker = server.store.served.worker
    deadline = threading.Event()
    while not worker.waiting:
        assert not deadline.wait(0.001)
    with lock:
        server.start(Episode("e", "insert", 1, 0, 0))
    policy.go.set()
    waits.join(20)
    refused()
    assert statuses == [409, 409]
    server.observe(observe(0), 0.0)
    while (action := server.next_action(0, 0.0)) is None:
        assert woken.acquire(timeout=20)
    assert policy.asked[-1][0] == "insert" and np.array_equal(action.values, ACTION)
    server.end("e")
    assert service.act(parse_act(body())).shape == (7,)
    server.store.close(timeout_s=5)


def test_used_port_is_refused(task, port):
    with pytest.raises(UserError, match=rf"http 127.0.0.1:{port}: cannot listen"):
        ActServer(ActService(task, lambda: None, threading.Lock()), port)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("|u1"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
arrays = st.fixed_dictionaries(
    {},
    optional={
        "__numpy__": json_values | st.just("AAAA"),
        "dtype": json_values | st.sampled_from(["|u1", "uint8", "|O", "<f8"]),
        "shape": json_values | st.lists(st.integers(-3, 5000), min_size=3, max_size=3) | st.just([1, 1, 3]),
    },
)
requests = st.fixed_dictionaries(
    {},
    optional={
        "image": json_values | arrays,
        "instruction": json_values | st.just("insert"),
        "unnorm_key": json_values,
        "encoded": json_values | st.text(),
    },
)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60) | requests.map(lambda r: json.dumps(r).encode()))
def test_any_body_is_read_or_refused(data: bytes) -> None:
    request = refusal = None
    try:
        request = parse_act(data)
    except RefusedError as error:
        refusal = error
    if refusal:
        assert refusal.status in (400, 413) and str(refusal) and "\n" not in str(refusal)
    else:
        assert request.image.dtype == np.uint8 and request.image.shape[2] == 3 and request.instruction.strip()
