"""The node `learner` in a real process: weights at the due steps, status, checkpoint, kill -9 and resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rl_samples import TASK_FILE, insertion, random_episodes, small

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("rldg_msgs.msg")

from rldg_core.files import sha256_hex  # noqa: E402
from rldg_core.types import Step  # noqa: E402
from rldg_msgs.msg import LearnerStatus, PolicyWeights  # noqa: E402
from rldg_msgs.msg import Step as StepMsg  # noqa: E402
from rldg_rl.learner import Learner  # noqa: E402
from rldg_rl.specialist import SpecialistPolicy  # noqa: E402
from rldg_ros import qos, to_msg  # noqa: E402

DOMAIN_ID = 21
DEADLINE_S = 150.0
CONFIG = """
preset: hil_serl
network: {hidden: [16, 16]}
agent: {batch_size: 16}
learner: {updates_per_call: 5, start_steps: 10, period_steps: 10, updates_per_step: 2.0}
"""


class Bench:
    """Publishes Steps, collects what the learner says, starts and ends its process."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "run"
        self.config = folder / "learner.yaml"
        self.config.write_text(CONFIG)
        self.log = folder / "learner.log"
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=DOMAIN_ID)
        self.node = rclpy.create_node("bench", context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.weights: list[Any] = []
        self.status: Any = None
        self.steps = self.node.create_publisher(StepMsg, "step", qos.STEPS)
        self.node.create_subscription(PolicyWeights, "policy_weights", self.weights.append, qos.EVENTS)
        self.node.create_subscription(LearnerStatus, "learner_status", self._on_status, qos.LATCHED)
        self.process: subprocess.Popen[bytes] | None = None

    def _on_status(self, message: Any) -> None:
        self.status = message

    def start(self, *extra: str) -> subprocess.Popen[bytes]:
        """Start the learner's process."""
        parameters = {
            "task": str(TASK_FILE),
            "run_dir": str(self.run_dir),
            "config_file": str(self.config),
            "lockstep": "true",
            "checkpoint_every_steps": "20",
        }
        arguments = [item for name, value in parameters.items() for item in ("-p", f"{name}:={value}")]
        code = "from rldg_rl.nodes.learner import main; main()"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, "--ros-args", *arguments, *extra],
                env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN_ID)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    def publish(self, steps: list[Step]) -> None:
        """Publish Steps in order."""
        for step in steps:
            self.steps.publish(to_msg.step(step))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Spin until the condition holds."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what} not in time; log:\n{self.log.read_text()}"
            assert self.process is None or self.process.poll() is None, f"learner died:\n{self.log.read_text()}"
            self.executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        """Kill what is left."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A bench that cleans up."""
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(400)
def test_weights_status_checkpoint_kill_and_resume(bench: Bench) -> None:
    steps = random_episodes(4, 9)  # 36 transitions
    process = bench.start()
    bench.wait(lambda: len(bench.weights) == 1, "first weights")
    bench.wait(lambda: bench.steps.get_subscription_count() == 1, "subscription")
    bench.publish(steps)
    bench.wait(lambda: len(bench.weights) == 4, "weights of 10, 20, 30 steps")
    bench.wait(lambda: bench.status is not None and bench.status.env_steps == 36, "status of the last episode")

    found = [(w.version, w.valid_from_step, w.period_steps) for w in bench.weights]
    assert found == [(0, 0, 10), (1, 20, 10), (2, 30, 10), (3, 40, 10)]
    # The pure learner gives the same bytes: nothing depends on the process.
    twin = Learner(small(), insertion(), 0)
    expected = [twin.first_weights(), *(w for step in steps if (w := twin.consume(step)))]
    for message, weights in zip(bench.weights, expected, strict=True):
        data = bytes(message.data)
        assert message.sha256 == sha256_hex(data) == weights.sha256
        assert message.spec_hash == twin.spec_hash
        assert len(data) < 1_000_000
    status = bench.status
    assert status.updates <= 2 * status.env_steps
    assert status.updates == twin.counters.updates
    assert status.replay_transitions == 36
    assert status.episodes == 4
    assert status.success_rate_20 == pytest.approx(0.5)
    assert "critic_loss" in list(status.loss_names)

    checkpoint = bench.run_dir / "checkpoints" / "00000020"
    assert (checkpoint / "learner.json").is_file()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    bench.weights.clear()
    process = bench.start()
    bench.wait(lambda: bool(bench.weights), "weights after the restart")
    assert bench.weights[0].version == 3  # one more than the checkpoint's
    assert bench.weights[0].valid_from_step == 0
    bench.wait(lambda: bench.status.env_steps == 20, "status of the checkpoint")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    policy = SpecialistPolicy(bench.run_dir / "specialist", insertion(), explore=False)
    assert policy.ready
    assert policy.spec.version == 3


@pytest.mark.timeout(200)
def test_bad_parameters_and_lost_steps_end_it_with_one_line(bench: Bench) -> None:
    process = bench.start("-p", "demo_bag_dirs:=['/nowhere']")
    assert process.wait(DEADLINE_S) == 2
    assert "/nowhere" in bench.log.read_text().splitlines()[-1]

    process = bench.start()
    bench.process = None  # it is expected to end
    bench.wait(lambda: len(bench.weights) == 1 and bench.steps.get_subscription_count() == 1, "first weights")
    steps = random_episodes(1, 9)
    bench.publish(steps[:3] + steps[4:])
    assert process.wait(DEADLINE_S) == 2
    assert "step_count 4 after 2: transitions were lost" in bench.log.read_text().splitlines()[-1]
