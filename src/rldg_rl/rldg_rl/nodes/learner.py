"""Node `learner`: receives Steps, publishes weights and status, writes checkpoints. It trains with rldg_rl.learner."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rclpy.node import Node

from rldg_core import from_msg
from rldg_core.errors import UserError
from rldg_core.task import Task
from rldg_core.types import Step
from rldg_msgs.msg import LearnerStatus, PolicyWeights
from rldg_msgs.msg import Step as StepMsg
from rldg_rl import config as configuration
from rldg_rl import run_folder
from rldg_rl.checkpoint import write_checkpoint, write_specialist_of
from rldg_rl.config import RLConfig
from rldg_rl.learner import Learner, Weights
from rldg_rl.pacing import RULES, StepOrder
from rldg_rl.recordings import Journal, StartSummary, WatchedFolder, prepare, read_bag
from rldg_rl.runtime import use_one_core
from rldg_ros import qos, to_msg
from rldg_ros.log import Log
from rldg_ros.pace import pace_parameter
from rldg_ros.parameters import parameter, required, task_parameter
from rldg_ros.reporting import ERROR, OK, Report, Reporter
from rldg_ros.runner import run_node
from rldg_ros.subscriptions import refusals


class LearnerNode(Node):  # type: ignore[misc]
    """Trains a specialist with RLPD on the Steps of topic `step` and of bags.

    Parameters: task, task_dirs, lockstep (what changes: rldg_rl.pacing); run_dir (checkpoints, specialist, tensorboard;
    its `bags` folder refills replay when a run is resumed); demo_bag_dirs (string array: folders of demonstration
    bags); extra_bag_dirs (bags of earlier runs, for the online replay); watch_dir (new closed bags in it are learned
    from: checked every watch_period_s, in lock-step at the start and at the end of each episode); config_file (YAML
    overrides of RLConfig); seed; updates_per_step, period_steps, checkpoint_every_steps (0: as configured).
    """

    def __init__(self) -> None:
        super().__init__("learner")
        task = task_parameter(self)
        self._pace = pace_parameter(self)
        self._newest_error = ""
        self._rules = RULES[self._pace.name](self._log_error)
        run_dir = str(parameter(self, "run_dir", "", "Folder of checkpoints, specialist and tensorboard."))
        self._run_dir = Path(required(run_dir, "run_dir"))
        self._lock = run_folder.lock(self._run_dir)
        demo_bag_dirs = self._folders("demo_bag_dirs", "Folders of demonstration bags.")
        extra_bag_dirs = self._folders("extra_bag_dirs", "Folders of bags of earlier runs, for the online replay.")
        config = self._configuration(task)
        self._weights = self.create_publisher(PolicyWeights, "policy_weights", qos.EVENTS)
        self._status = self.create_publisher(LearnerStatus, "learner_status", qos.LATCHED)
        # Subscribed before the slow part, so that Steps which arrive meanwhile wait in the queue.
        self.create_subscription(StepMsg, "step", self._on_step, qos.STEPS)

        seed = int(parameter(self, "seed", 0, "Seed of everything random in the learner.", low=0))
        self._learner = Learner(config, task, seed)
        self._learner.warm_up()
        self._report_start(
            prepare(self._learner, demo_bag_dirs, self._run_dir, extra_bag_dirs, self._rules.exact_resume)
        )
        self._order = StepOrder()
        self._episode_id = next(reversed(self._learner.progress.seen.to_json()), "")
        self._between_episodes = True
        self._reported: set[str] = set()
        self._unsaved = ""
        self._checkpointed = self._learner.counters.env_steps
        self._rate_since = time.monotonic(), self._learner.counters.env_steps
        self._board = run_folder.TensorBoard(self._run_dir, self._learner.counters.env_steps)
        self._watch()
        for weights in self._learner.progress.issued:
            self._publish_weights(weights)
        self._publish_status()
        Reporter(self, self._report, log_changes=False)

    def _configuration(self, task: Task) -> RLConfig:
        config_file = str(parameter(self, "config_file", "", "YAML file with overrides of RLConfig; empty: none."))
        return configuration.with_learner(
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

    def _folders(self, name: str, description: str) -> list[Path]:
        return [Path(folder) for folder in parameter(self, name, [""], description) if folder]

    def _report_start(self, start: StartSummary) -> None:
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

    # --- input -------------------------------------------------------------------------------------------

    def _on_step(self, message: StepMsg) -> None:
        with refusals(self).of("step"):
            self._take(from_msg.step(message))

    def _take(self, step: Step) -> None:
        duplicate = self._learner.knows(step)
        if duplicate and not self._order.started:
            self._rules.on_known_first_step(step)
        if not duplicate and (reason := self._order.gap(step)):
            self._rules.on_lost_steps(reason)
        weights = self._learner.consume(step)
        if duplicate:
            return
        self._episode_id, self._between_episodes = step.episode_id, step.is_last
        self._report_rejections("topic step")
        if weights:
            self._publish_weights(weights)
        if step.is_last:
            self._rules.on_episode_end(self._read_new_bags)
        if weights or step.is_last:
            self._publish_status()
        # Between episodes only: a checkpoint within one is useless when the process ends before its bag is closed.
        every = self._learner.config.learner.checkpoint_every_steps
        if step.is_last and self._learner.counters.env_steps >= self._checkpointed + every:
            self._save_or_report()

    def _report_rejections(self, where: str) -> None:
        """Log each new reason why Steps are left out once."""
        for reason, count in self._learner.rejections.items():
            if reason not in self._reported:
                self._reported.add(reason)
                self._log_error(f"{where}: {reason}: {count} Steps left out so far")

    def _watch(self) -> None:
        """Learn from the bags in watch_dir and begin to watch it."""
        self._watched: WatchedFolder | None = None
        period_s = float(parameter(self, "watch_period_s", 1.0, "Time between two checks of watch_dir [s].", low=0.01))
        folder = str(parameter(self, "watch_dir", "", "Folder whose new closed bags are learned from; empty: off."))
        if not folder:
            return
        self._rules.check_watch_dir(Path(folder), self._run_dir)
        self._watched = WatchedFolder(Path(folder))
        self._read_new_bags()
        self._pace.watch(self, period_s, self._read_new_bags)

    def _read_new_bags(self) -> None:
        """Learn from the bags that appeared; a bag that is refused is reported and skipped."""
        for bag in self._watched.new_bags() if self._watched else []:
            try:
                steps = read_bag(bag, self._learner)
            except UserError as error:
                self._log_error(str(error))
                continue
            if all(self._learner.knows(step) for step in steps):
                continue
            Journal(self._run_dir).append(bag, self._episode_id)
            new = self._learner.consume_recorded(steps)
            Log(self).info(f"{bag}: {new} new Steps of {len(steps)}")
            self._report_rejections(str(bag))
            self._rules.on_watched_bag(lambda: self._publish_weights(self._learner.first_weights()))

    # --- checkpoints -------------------------------------------------------------------------------------

    def _save_or_report(self) -> None:
        """Write a checkpoint, or report why not: training continues, and the old checkpoint stays."""
        try:
            self.save()
            self._unsaved = ""
        except UserError as error:
            self._unsaved = f"no checkpoint: {error}"
            self._log_error(self._unsaved)

    def save(self) -> None:
        """Write a checkpoint and the specialist; within an episode, write the specialist only."""
        self._checkpointed = self._learner.counters.env_steps
        if self._between_episodes:
            Log(self).info(f"checkpoint {write_checkpoint(self._run_dir, self._learner)}")
        else:
            write_specialist_of(self._learner, self._run_dir / "specialist")

    def stop(self) -> None:
        """Close the log and write the last checkpoint. Raises UserError when it cannot be written."""
        if error := self._board.close():
            self._log_error(error)
        self.save()

    # --- output ------------------------------------------------------------------------------------------

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
            self._log_error(error)
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

    def _log_error(self, text: str) -> None:
        self._newest_error = text
        Log(self).error(text)

    def _report(self) -> Report:
        counters = self._learner.counters
        values = {
            "env_steps": str(counters.env_steps),
            "updates": str(counters.updates),
            "weights_version": str(counters.version),
            "episodes": str(counters.episodes),
            "rejected_steps": str(counters.rejected_steps),
            "newest_error": self._newest_error,
        }
        if self._unsaved:
            return Report(ERROR, self._unsaved, values)
        return Report(OK, "training" if self._order.started else "waiting for the first Step", values)


def main() -> None:
    """Entry point."""
    use_one_core()
    sys.exit(run_node(LearnerNode, on_stop=LearnerNode.stop))


if __name__ == "__main__":
    main()
