"""Node `learner`: Steps in; weights, status and checkpoints out. All learning is in rldg_rl.learner."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from rldg_core import from_msg
from rldg_core.errors import UserError
from rldg_core.types import Step
from rldg_msgs.msg import LearnerStatus, PolicyWeights
from rldg_msgs.msg import Step as StepMsg
from rldg_rl import config as configuration
from rldg_rl import run_folder
from rldg_rl.checkpoint import write_checkpoint, write_specialist_of
from rldg_rl.learner import Learner, Weights
from rldg_rl.recordings import Start, prepare, read_bag
from rldg_rl.runtime import use_one_core
from rldg_rl.watching import Journal, WatchedFolder
from rldg_ros import qos, to_msg
from rldg_ros.log import Log
from rldg_ros.parameters import lockstep_parameter, parameter, required, task_parameter
from rldg_ros.runner import run_node
from rldg_ros.subscriptions import refusals


class LearnerNode(Node):  # type: ignore[misc]
    """RLPD, fed by `step` and by bags.

    Parameters: task, task_dirs; run_dir (checkpoints, specialist, tensorboard; its `bags` folder refills replay on
    resume); demo_bag_dirs (string array: folders of demonstration bags); extra_bag_dirs (bags of earlier runs, for
    the online replay); watch_dir (closed bags that appear there are learned from: looked at every watch_period_s,
    in lock-step at the start and at the end of an episode only); config_file (YAML overrides of RLConfig); seed;
    lockstep (a lost Step is then an error); updates_per_step, period_steps, checkpoint_every_steps (0: as configured).
    """

    def __init__(self) -> None:
        super().__init__("learner")
        task = task_parameter(self)
        self._lockstep = lockstep_parameter(self)
        run_dir = str(parameter(self, "run_dir", "", "Folder of checkpoints, specialist and tensorboard."))
        self._run_dir = Path(required(run_dir, "run_dir"))
        self._lock = run_folder.lock(self._run_dir)
        demo_bag_dirs = self._folders("demo_bag_dirs", "Folders of demonstration bags.")
        extra_bag_dirs = self._folders("extra_bag_dirs", "Folders of bags of earlier runs, for the online replay.")
        config_file = str(parameter(self, "config_file", "", "YAML file with overrides of RLConfig; empty: none."))
        config = configuration.with_learner(
            configuration.load(Path(config_file) if config_file else None, task),
            updates_per_step=float(
                parameter(self, "updates_per_step", 0.0, "Updates per environment step; 0: as configured.", low=0.0)
            ),
            period_steps=int(
                parameter(self, "period_steps", 0, "Steps between versions of weights; 0: as configured.", low=0)
            ),
            checkpoint_every_steps=int(
                parameter(self, "checkpoint_every_steps", 0, "Steps between checkpoints; 0: as configured.", low=0)
            ),
        )
        self._weights = self.create_publisher(PolicyWeights, "policy_weights", qos.EVENTS)
        self._status = self.create_publisher(LearnerStatus, "learner_status", qos.LATCHED)
        # Before the slow part: Steps that arrive meanwhile wait in the queue.
        self.create_subscription(StepMsg, "step", self._on_step, qos.STEPS)

        seed = int(parameter(self, "seed", 0, "Seed of everything random in the learner.", low=0))
        self._learner = Learner(config, task, seed)
        self._learner.warm_up()
        self._report_start(prepare(self._learner, demo_bag_dirs, self._run_dir, extra_bag_dirs, self._lockstep))
        self._expected_step_count: int | None = None
        self._episode_id = next(reversed(self._learner.progress.seen.to_json()), "")
        self._between_episodes = True
        self._reported: set[str] = set()
        self._checkpointed = self._learner.counters.env_steps
        self._rate_since = time.monotonic(), self._learner.counters.env_steps
        self._board = run_folder.TensorBoard(self._run_dir, self._learner.counters.env_steps)
        self._watch()
        for weights in self._learner.progress.issued:
            self._publish_weights(weights)
        self._publish_status()

    def _folders(self, name: str, description: str) -> list[Path]:
        return [Path(folder) for folder in parameter(self, name, [""], description) if folder]

    def _report_start(self, start: Start) -> None:
        log, counters = Log(self), self._learner.counters
        log.info(
            f"{start.demonstrations} demonstrations of {counters.demo_transitions} transitions, "
            f"{start.failed_demonstrations} failed ones left out; {start.earlier_episodes} episodes of earlier runs "
            f"with {counters.earlier_transitions} transitions"
        )
        if start.resumed_from or start.recorded_episodes:
            log.info(f"resumed from {start.resumed_from}, {start.recorded_episodes} recorded episodes")
        if start.missing_episodes:
            log.warning(f"{start.missing_episodes} episodes of the checkpoint have no bag in {self._run_dir / 'bags'}")

    # --- streams ----------------------------------------------------------------------------------------

    def _on_step(self, message: StepMsg) -> None:
        with refusals(self).of("step"):
            self._take(from_msg.step(message))

    def _take(self, step: Step) -> None:
        duplicate = self._learner.knows(step)
        if duplicate and self._lockstep and self._expected_step_count is None:
            raise UserError(
                f"topic step: episode {step.episode_id} was learned from before this start: "
                "resume the run with its bags (`rldg train`), or use a new run_dir"
            )
        if not duplicate:
            self._check_gap(step.step_count, step.is_last)
        weights = self._learner.consume(step)
        if duplicate:
            return
        self._episode_id, self._between_episodes = step.episode_id, step.is_last
        self._report_rejections("topic step")
        if weights:
            self._publish_weights(weights)
        if step.is_last and self._lockstep:
            self._look()
        if weights or step.is_last:
            self._publish_status()
        # A checkpoint within an episode is of no use when that episode is lost.
        every = self._learner.config.learner.checkpoint_every_steps
        if step.is_last and self._learner.counters.env_steps >= self._checkpointed + every:
            self._save_or_report()

    def _check_gap(self, step_count: int, is_last: bool) -> None:
        expected, self._expected_step_count = self._expected_step_count, step_count + (not is_last)
        if expected is not None and step_count != expected:
            reason = f"topic step: step_count {step_count} after {expected - 1}: transitions were lost"
            if self._lockstep:
                raise UserError(reason)
            Log(self).error(reason)

    def _report_rejections(self, where: str) -> None:
        """One line for every new reason why Steps are left out."""
        for reason, count in self._learner.rejections.items():
            if reason not in self._reported:
                self._reported.add(reason)
                Log(self).error(f"{where}: {reason}: {count} Steps left out so far")

    def _watch(self) -> None:
        """Look at watch_dir now and, in real time, every watch_period_s."""
        self._watched: WatchedFolder | None = None
        period_s = float(parameter(self, "watch_period_s", 1.0, "Time between two looks at watch_dir [s].", low=0.01))
        folder = str(parameter(self, "watch_dir", "", "Folder whose new closed bags are learned from; empty: off."))
        if not folder:
            return
        if self._lockstep and Path(folder).resolve() == (self._run_dir / "bags").resolve():
            raise UserError(f"parameter watch_dir: {folder} holds this run's own bags, which `step` brings")
        self._watched = WatchedFolder(Path(folder))
        self._look()
        if not self._lockstep:
            self.create_timer(period_s, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _look(self) -> None:
        """Learn from the bags that appeared; one that is no good is reported and passed over."""
        for bag in self._watched.new_bags() if self._watched else []:
            try:
                steps = read_bag(bag, self._learner)
            except UserError as error:
                Log(self).error(str(error))
                continue
            if all(self._learner.knows(step) for step in steps):
                continue
            Journal(self._run_dir).append(bag, self._episode_id)
            new = self._learner.consume_recorded(steps)
            Log(self).info(f"{bag}: {new} new Steps of {len(steps)}")
            self._report_rejections(str(bag))
            if not self._lockstep:
                self._publish_weights(self._learner.first_weights())

    # --- checkpoints ------------------------------------------------------------------------------------

    def _save_or_report(self) -> None:
        """A full disk does not end the training: the old checkpoint stays, the next one is tried again."""
        try:
            self.save()
        except UserError as error:
            Log(self).error(f"no checkpoint: {error}")

    def save(self) -> None:
        """Write a checkpoint and the specialist; within an episode the specialist alone."""
        self._checkpointed = self._learner.counters.env_steps
        if self._between_episodes:
            Log(self).info(f"checkpoint {write_checkpoint(self._run_dir, self._learner)}")
        else:
            write_specialist_of(self._learner, self._run_dir / "specialist")

    def stop(self) -> None:
        """End in order. Raises UserError when the last checkpoint cannot be written."""
        if error := self._board.close():
            Log(self).error(error)
        self.save()

    # --- out --------------------------------------------------------------------------------------------

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
        learner, env_steps = self._learner, self._learner.counters.env_steps
        (then, steps), now = self._rate_since, time.monotonic()
        self._rate_since = now, env_steps
        values = run_folder.figures(learner, (env_steps - steps) / max(1e-9, now - then))
        if error := self._board.write(values, learner.losses, env_steps):
            Log(self).error(error)
        fields = LearnerStatus.get_fields_and_field_types()
        self._status.publish(
            LearnerStatus(
                header=to_msg.header(self.get_clock().now().nanoseconds),
                env_steps=env_steps,
                loss_names=list(learner.losses),
                losses=to_msg.floats(list(learner.losses.values())),
                **{name: value for name, value in values.items() if name in fields},
            )
        )


def main() -> None:
    """Entry point."""
    use_one_core()
    sys.exit(run_node(LearnerNode, on_stop=LearnerNode.stop))


if __name__ == "__main__":
    main()
