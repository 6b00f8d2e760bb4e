"""The node `learner` as a process: weights at the due steps, status, checkpoint, SIGKILL and resuming."""

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

import pytest
from rl_samples import TASK_FILE, insertion, random_episodes, small

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("rldg_msgs.msg")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402

from rldg_core.files import sha256_hex  # noqa: E402
from rldg_core.types import Step  # noqa: E402
from rldg_data.bags.recording import write_episode  # noqa: E402
from rldg_msgs.msg import LearnerStatus, PolicyWeights  # noqa: E402
from rldg_msgs.msg import Step as StepMsg  # noqa: E402
from rldg_rl.learner import Learner  # noqa: E402
from rldg_rl.specialist import SpecialistPolicy  # noqa: E402
from rldg_ros import qos, to_msg  # noqa: E402

DOMAIN = 126
DEADLINE_S = 150.0
PICK = insertion().model_copy(update={"name": "pick"})
CONFIG = """
preset: hil_serl
features: {image_encoder: none}
network: {hidden: [16, 16], state_bottleneck: 0}
agent: {batch_size: 16}
learner: {updates_per_call: 5, start_steps: 10, period_steps: 10, updates_per_step: 2.0}
"""


class Bench:
    """Publishes Steps, collects the learner's messages, starts and ends its process."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "run"
        self.config = folder / "learner.yaml"
        self.config.write_text(CONFIG)
        self.log = folder / "learner.log"
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = rclpy.create_node("bench", context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.weights: list[Any] = []
        self.status: Any = None
        self.steps = self.node.create_publisher(StepMsg, "step", qos.STEPS)
        self.node.create_subscription(PolicyWeights, "policy_weights", self.weights.append, qos.EVENTS)
        self.node.create_subscription(LearnerStatus, "learner_status", self._on_status, qos.LATCHED)
        self.report: Any = None
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.process: subprocess.Popen[bytes] | None = None

    def _on_status(self, message: Any) -> None:
        self.status = message

    def _on_diagnostics(self, message: Any) -> None:
        (self.report,) = message.status

    def start(self, lockstep: bool = True, **more: str) -> subprocess.Popen[bytes]:
        """Start the learner's process."""
        parameters = {
            "task": str(TASK_FILE),
            "run_dir": str(self.run_dir),
            "config_file": str(self.config),
            "lockstep": str(lockstep).lower(),
            "checkpoint_every_steps": "20",
            **more,
        }
        arguments = [item for name, value in parameters.items() for item in ("-p", f"{name}:={value}")]
        code = "from rldg_rl.nodes.learner import main; main()"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, "--ros-args", *arguments],
                env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    def last_line(self) -> str:
        """Return the last line of the log."""
        return self.log.read_text().splitlines()[-1]

    def publish(self, steps: list[Step]) -> None:
        """Publish Steps in order."""
        for step in steps:
            self.steps.publish(to_msg.step(step))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Spin until the condition holds."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what}: timed out; log:\n{self.log.read_text()}"
            assert self.process is None or self.process.poll() is None, f"the learner ended:\n{self.log.read_text()}"
            self.executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        """Kill the remaining processes."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.executor.shutdown()  # ends an interrupted spin, which would keep transient-local publishers alive
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return a bench that cleans up."""
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
    # The learner without ROS gives the same bytes: nothing depends on the process.
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

    values = lambda: {v.key: v.value for v in bench.report.values} if bench.report else {}  # noqa: E731
    bench.wait(lambda: values().get("env_steps") == "36", "diagnostics")
    assert (bench.report.name, bench.report.message) == ("/learner", "training")
    assert values()["updates"] == str(status.updates)

    # Not within an episode: 27, not 20.
    checkpoint = bench.run_dir / "checkpoints" / "00000027"
    assert (checkpoint / "learner.json").is_file()
    bench.process = None
    second = bench.start()
    assert second.wait(DEADLINE_S) == 2
    assert f"another learner (process {process.pid}) trains in this run folder" in bench.last_line()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    bench.weights.clear()
    process = bench.start()
    bench.wait(lambda: len(bench.weights) == 2, "weights after the restart")
    # The version that acts at step 27 and the one due at step 30, unchanged.
    assert [bytes(w.data) for w in bench.weights] == [w.data for w in expected[1:3]]
    assert [(w.version, w.valid_from_step) for w in bench.weights] == [(1, 20), (2, 30)]
    bench.wait(lambda: bench.status.env_steps == 27, "status of the checkpoint")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    policy = SpecialistPolicy(bench.run_dir / "specialist", insertion(), explore=False)
    assert policy.ready
    assert policy.spec.version == 2
    assert list((bench.run_dir / "tensorboard").glob("events.*"))


@pytest.mark.timeout(300)
def test_watched_bags_are_learned_from_except_duplicates_and_damaged_ones(bench: Bench, tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    bags.mkdir()
    steps = random_episodes(2, 9)
    write_episode(bags, steps[:10], insertion())
    bench.start(lockstep=False, watch_dir=str(bags), watch_period_s="0.1")
    bench.wait(lambda: bench.status is not None and bench.status.env_steps == 9, "the bag that was there")
    bench.wait(lambda: bench.steps.get_subscription_count() == 1, "subscription")
    (bags / "episode_000001").mkdir()
    write_episode(bags, [replace(step, task="pick") for step in steps[:10]], PICK)
    bench.publish(steps)
    bench.wait(lambda: bench.status.env_steps == 18, "the live episode")
    bench.wait(lambda: "episode of task 'pick'" in bench.log.read_text(), "the complaint about another task")
    assert "episode_000001" in bench.log.read_text()
    write_episode(bags, steps[10:], insertion())
    write_episode(bags, [replace(step, episode_id="other/0") for step in steps[:10]], insertion())
    bench.wait(lambda: "episode_000004: 10 new Steps of 10" in bench.log.read_text(), "the new bag")
    assert "episode_000003" not in bench.log.read_text()
    nan = replace(steps[0], episode_id="nan", reward=float("nan"))
    bench.publish([nan])
    bench.wait(lambda: "topic step: reward: not finite: 1 Steps left out" in bench.log.read_text(), "the complaint")


@pytest.mark.timeout(200)
def test_bad_parameters_and_lost_steps_end_the_node_with_one_line(bench: Bench) -> None:
    process = bench.start(demo_bag_dirs="['/nowhere']")
    assert process.wait(DEADLINE_S) == 2
    assert "/nowhere" in bench.last_line()

    process = bench.start()
    bench.process = None  # the node is expected to end
    bench.wait(lambda: len(bench.weights) == 1 and bench.steps.get_subscription_count() == 1, "first weights")
    steps = random_episodes(1, 9)
    bench.publish(steps[:3] + steps[2:3] + steps[4:])
    assert process.wait(DEADLINE_S) == 2
    assert "step_count 4 after 2: transitions were lost" in bench.last_line()
