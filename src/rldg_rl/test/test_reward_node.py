"""The node `reward` as a process: one answer per observation, hysteresis by stamps, one-line errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rl_samples import TASK_FILE, insertion, observation

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("rldg_msgs.msg")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402

from rldg_core.from_msg import stamp_ns  # noqa: E402
from rldg_core.image_codec import encode_jpeg  # noqa: E402
from rldg_msgs.msg import EpisodeEvent, Reward  # noqa: E402
from rldg_msgs.msg import Observation as ObservationMsg  # noqa: E402
from rldg_rl.classifier.checkpoint import SavedClassifier, view_hash, write_classifier  # noqa: E402
from rldg_rl.classifier.model import ClassifierConfig, init  # noqa: E402
from rldg_rl.classifier.reward import RewardClassifier  # noqa: E402
from rldg_rl.encoders.loading import load_encoder  # noqa: E402
from rldg_ros import qos, to_msg  # noqa: E402

DOMAIN = 135
DEADLINE_S = 90.0
PERIOD_NS = 100_000_000
GOOD, BAD, BROKEN = "good", "bad", "broken"


def image(kind: str) -> bytes:
    """Return an image with a bright lower half (good) or upper half (bad)."""
    if kind == BROKEN:
        return b"no jpeg"
    pixels = np.full((64, 64, 3), 20, np.uint8)
    pixels[32:] = 220 if kind == GOOD else 20
    pixels[:32] = 220 if kind == BAD else 20
    return encode_jpeg(pixels, 90)


def observation_message(stamp: int, kind: str) -> ObservationMsg:
    value = replace(observation([0.0] * 6), stamp_ns=stamp, images={"wrist": image(kind)})
    return to_msg.observation(value, "base")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a classifier whose head separates the features of `bad` from those of `good`."""
    from rldg_rl.features import camera_image

    encoder = load_encoder("random_conv")
    pair = [replace(observation([0.0] * 6), images={"wrist": image(kind)}) for kind in (BAD, GOOD)]
    bad, good = (encoder.encode(camera_image(o, "wrist")[None])[0].astype(np.float32) for o in pair)
    config = ClassifierConfig(encoder="random_conv", hidden=4)
    tensors = init(len(good), config.hidden, 0)
    direction = (good - bad) / np.square(good - bad).sum()
    tensors["dense/w"] = np.outer(direction, [20.0, -20.0, 0.0, 0.0]).astype(np.float32)
    offset = float((good + bad) @ direction / 2)
    tensors["dense/b"] = np.array([-20 * offset, 20 * offset, 0, 0], np.float32)
    tensors["out/w"] = np.array([[4.0], [-4.0], [0.0], [0.0]], np.float32)
    task = insertion()
    saved = SavedClassifier(
        config, tensors, len(good), 1.0, 0.5, task.name, view_hash(task, "wrist"), encoder.weights_sha256,
        ("vga",), None, {},
    )  # fmt: skip
    path = tmp_path_factory.mktemp("run") / "classifier"
    write_classifier(path, saved, b"")
    return path


class Bench:
    """Stands for observer and episode node."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = rclpy.create_node("bench", namespace="/rldg", context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.rewards: list[Any] = []
        self.observations = self.node.create_publisher(ObservationMsg, "observation", qos.STREAM)
        self.events = self.node.create_publisher(EpisodeEvent, "episode_event", qos.EVENTS)
        self.node.create_subscription(Reward, "reward", self.rewards.append, qos.STREAM)
        self.values: dict[str, str] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.processes: list[subprocess.Popen[str]] = []

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        (status,) = message.status
        assert status.name == "/rldg/reward"
        self.values = {value.key: value.value for value in status.values}

    def start(self, **parameters: Any) -> subprocess.Popen[str]:
        values = {"task": TASK_FILE, "lockstep": "true", **parameters}
        arguments = [item for name, value in values.items() for item in ("-p", f"{name}:={value}")]
        code = "from rldg_rl.nodes.reward import main; main()"
        self.processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code, "--ros-args", "-r", "__ns:=/rldg", *arguments],
                env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return self.processes[-1]

    def until(self, condition: Callable[[], Any]) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"timed out; {len(self.rewards)} rewards"
            self.executor.spin_once(timeout_sec=0.02)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=10)
        self.executor.shutdown()  # ends an interrupted spin, which would keep transient-local publishers alive
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_every_observation_is_answered_once_and_hysteresis_restarts(bench: Bench, folder: Path) -> None:
    process = bench.start(classifier=folder, consecutive_frames=2)
    bench.until(lambda: bench.observations.get_subscription_count() and bench.node.count_publishers("reward"))
    first = [BAD, GOOD, GOOD, BROKEN, GOOD]
    second = [GOOD, GOOD, BAD]
    stamps = [k * PERIOD_NS for k in range(1, 6)]
    stamps += [stamps[-1] + k * PERIOD_NS for k in (2, 3, 4)]  # a reset advances the clock by two periods
    start = EpisodeEvent(kind=EpisodeEvent.START)
    for number, (stamp, kind) in enumerate(zip(stamps, first + second, strict=True)):
        if number in (0, 6):  # START after the first observation of the second episode
            start.first_observation_stamp = to_msg.time(stamps[0 if number == 0 else 5])
            bench.events.publish(start)
        message = observation_message(stamp, kind)
        bench.observations.publish(message)
        bench.observations.publish(message)  # a transient-local topic may repeat it
        bench.until(lambda n=number: len(bench.rewards) > n)
    assert [stamp_ns(r.header.stamp) for r in bench.rewards] == stamps, "one answer each, with its stamp"
    assert [r.success for r in bench.rewards] == [False, False, True, False, False, False, True, False]
    assert all((r.probability > 0.9) == (k == GOOD) for r, k in zip(bench.rewards, first + second, strict=True))
    assert {r.source for r in bench.rewards} == {RewardClassifier.load(folder, insertion()).identity}
    bench.until(lambda: bench.values.get("judged") == "8")
    assert float(bench.values["newest_observation_age_s"]) < DEADLINE_S and bench.values["refused_messages"] == "1"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "observation: message refused: 7 bytes, neither a JPEG nor a PNG image" in output
    assert "Traceback" not in output


def test_bad_input_ends_the_node_with_one_line(bench: Bench, tmp_path: Path) -> None:
    reasons = ("parameter classifier: must not be empty", f"{tmp_path}/config.json: cannot read: No such file")
    processes = bench.start(), bench.start(classifier=tmp_path)
    for process, reason in zip(processes, reasons, strict=True):
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 2
        assert reason in output and "Traceback" not in output
