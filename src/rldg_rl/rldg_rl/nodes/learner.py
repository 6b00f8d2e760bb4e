"""Node `learner`: Steps in; weights, status and checkpoints out. All learning is in rldg_rl.learner."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rclpy.node import Node

from rldg_core import from_msg
from rldg_core.errors import UserError
from rldg_msgs.msg import LearnerStatus, PolicyWeights
from rldg_msgs.msg import Step as StepMsg
from rldg_rl import config as configuration
from rldg_rl.checkpoint import write_checkpoint
from rldg_rl.learner import Learner, Weights
from rldg_rl.recordings import prepare
from rldg_rl.runtime import use_one_core
from rldg_ros import qos, to_msg
from rldg_ros.parameters import parameter, required, task_parameter
from rldg_ros.runner import run_node


class LearnerNode(Node):  # type: ignore[misc]
    """RLPD, fed by `step`.

    Parameters: task, task_dirs; run_dir (checkpoints, specialist; its `bags` folder refills replay on resume);
    demo_bag_dirs (string array: folders of demonstration bags); config_file (YAML overrides of RLConfig);
    seed; lockstep (a lost Step is then an error); updates_per_step, period_steps, checkpoint_every_steps
    (0: as configured).
    """

    def __init__(self) -> None:
        super().__init__("learner")
        task = task_parameter(self)
        self._lockstep = bool(parameter(self, "lockstep", False))
        self._run_dir = Path(required(str(parameter(self, "run_dir", "")), "run_dir"))
        demo_bag_dirs = [Path(d) for d in parameter(self, "demo_bag_dirs", [""]) if d]
        config_file = str(parameter(self, "config_file", ""))
        config = configuration.with_learner(
            configuration.load(Path(config_file) if config_file else None),
            updates_per_step=float(parameter(self, "updates_per_step", 0.0)),
            period_steps=int(parameter(self, "period_steps", 0)),
            checkpoint_every_steps=int(parameter(self, "checkpoint_every_steps", 0)),
        )
        self._weights = self.create_publisher(PolicyWeights, "policy_weights", qos.EVENTS)
        self._status = self.create_publisher(LearnerStatus, "learner_status", qos.LATCHED)
        # Before the slow part: Steps that arrive meanwhile wait in the queue.
        self.create_subscription(StepMsg, "step", self._on_step, qos.STEPS)

        self._learner = Learner(config, task, int(parameter(self, "seed", 0)))
        self._learner.warm_up()
        start = prepare(self._learner, demo_bag_dirs, self._run_dir)
        self._expected_step_count: int | None = None
        self._checkpointed = self._learner.counters.env_steps
        self._rate_since = time.monotonic(), self._learner.counters.env_steps
        log = self.get_logger()
        transitions = self._learner.counters.demo_transitions
        log.info(
            f"{start.demonstrations} demonstrations of {transitions} transitions, "
            f"{start.failed_demonstrations} failed ones left out"
        )
        if start.resumed_from or start.recorded_episodes:
            log.info(f"resumed from {start.resumed_from}, {start.recorded_episodes} recorded episodes")
        if start.missing_episodes:
            log.warning(f"{start.missing_episodes} episodes of the checkpoint have no bag in {self._run_dir / 'bags'}")
        self._publish_weights(self._learner.first_weights())
        self._publish_status()

    def _on_step(self, message: StepMsg) -> None:
        step = from_msg.step(message)
        self._check_gap(step.step_count, step.is_last)
        weights = self._learner.consume(step)
        if weights:
            self._publish_weights(weights)
        if weights or step.is_last:
            self._publish_status()
        every = self._learner.config.learner.checkpoint_every_steps
        if self._learner.counters.env_steps >= self._checkpointed + every:
            self.save()

    def _check_gap(self, step_count: int, is_last: bool) -> None:
        expected, self._expected_step_count = self._expected_step_count, step_count + (not is_last)
        if expected is not None and step_count != expected:
            reason = f"topic step: step_count {step_count} after {expected - 1}: transitions were lost"
            if self._lockstep:
                raise UserError(reason)
            self.get_logger().error(reason)

    def save(self) -> None:
        """Write a checkpoint and the specialist."""
        self._checkpointed = self._learner.counters.env_steps
        self.get_logger().info(f"checkpoint {write_checkpoint(self._run_dir, self._learner)}")

    def _publish_weights(self, weights: Weights) -> None:
        self._weights.publish(
            PolicyWeights(
                header=to_msg.header(self.get_clock().now().nanoseconds),
                spec_hash=self._learner.spec_hash,
                version=weights.version,
                valid_from_step=weights.valid_from_step,
                period_steps=self._learner.config.learner.period_steps,
                sha256=weights.sha256,
                data=to_msg.octets(weights.data),
            )
        )

    def _publish_status(self) -> None:
        learner, counters = self._learner, self._learner.counters
        (then, steps), now = self._rate_since, time.monotonic()
        self._rate_since = now, counters.env_steps
        self._status.publish(
            LearnerStatus(
                header=to_msg.header(self.get_clock().now().nanoseconds),
                env_steps=counters.env_steps,
                updates=counters.updates,
                update_to_data=counters.updates / max(1, counters.env_steps),
                weights_version=counters.version,
                demo_transitions=len(learner.demonstrations),
                replay_transitions=len(learner.online),
                episodes=counters.episodes,
                success_rate_20=learner.success_rate,
                intervention_ratio_20=learner.intervention_ratio,
                steps_per_s=(counters.env_steps - steps) / max(1e-9, now - then),
                loss_names=list(learner.losses),
                losses=to_msg.floats(list(learner.losses.values())),
            )
        )


def main() -> None:
    """Entry point."""
    use_one_core()
    sys.exit(run_node(LearnerNode, on_stop=LearnerNode.save))


if __name__ == "__main__":
    main()
