"""`recorder`: writes one closed bag per episode from `step` and the listed raw topics."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.topic_endpoint_info import TopicEndpointInfo

from rldg_core.errors import UserError
from rldg_data.bags.cdr import header_stamp_ns
from rldg_data.bags.mcap_writer import PRESETS
from rldg_data.bags.metadata import Storage, Topic
from rldg_data.bags.recording import EpisodeRecorder
from rldg_data.bags.repair import set_partials_aside
from rldg_data.nodes.offered_qos import matching_qos, recorded_qos
from rldg_msgs.msg import RecorderStatus, Step
from rldg_ros.log import Log
from rldg_ros.pace import pace_parameter
from rldg_ros.parameters import parameter, required, task_parameter
from rldg_ros.qos import LATCHED, STEPS
from rldg_ros.reporting import ERROR, OK, WARN, Report, Reporter, steady_timer
from rldg_ros.runner import run_node
from rldg_ros.subscriptions import subscribe

DISCOVERY_S = 0.2
RAW_PATIENCE_S = 5.0
"""Maximum wait for publishers of the listed topics before subscribing to `step`."""
QUIET_S = 0.2
"""At shutdown, all Steps count as received after this time without one; twice the period at 10 Hz."""
DRAIN_LIMIT_S = 1.5


class RecorderNode(Node):
    """Parameters: task, task_dirs, lockstep; bag_dir; topics (raw; type and QoS from the graph); preset
    (mcap_writer.PRESETS); max_bagfile_size [bytes] and max_bagfile_duration [s], which split a bag, 0: never."""

    def __init__(self) -> None:
        super().__init__("recorder")
        task = task_parameter(self)
        self._pace = pace_parameter(self)
        folder = str(parameter(self, "bag_dir", "", "Folder for one bag per episode."))
        self._bag_dir = bag_dir = Path(required(folder, "bag_dir")).absolute()
        storage = self._storage()
        topics = parameter(self, "topics", [""], "Topics recorded raw beside `step`.")
        self._missing = {self.resolve_topic_name(name) for name in topics if name}
        try:
            bag_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"parameter bag_dir: {bag_dir}: {error.strerror}") from error
        self.recorder = EpisodeRecorder(bag_dir, task, self.resolve_topic_name("step"), storage)
        if moved := set_partials_aside(bag_dir):
            Log(self).warning(
                f"an earlier recorder left {len(moved)} unfinished bags: `rldg bag repair {moved[0].parent}`"
            )
        self._reported = self.recorder.counters
        self._last_step_s = time.monotonic()
        self._status = self.create_publisher(RecorderStatus, "recorder_status", LATCHED)
        self._publish_status()
        self._reporter = Reporter(self, self._report, log_changes=False)
        steady_timer(self, DISCOVERY_S, self._discover)
        self._ready = False
        self._clock_missed = False
        self._patience_until_s = time.monotonic() + RAW_PATIENCE_S
        self._discover()
        Log(self).info(f"recording into {bag_dir}")

    def _storage(self) -> Storage:
        size = "Size at which a further file of a bag begins [bytes]; 0: one file."
        duration = "Duration after which a further file of a bag begins [s]; 0: one file."
        return Storage(
            str(parameter(self, "preset", Storage.preset, "Compression of bags.", choices=tuple(PRESETS))),
            int(parameter(self, "max_bagfile_size", Storage.max_bagfile_size, size, low=0)),
            int(parameter(self, "max_bagfile_duration", Storage.max_bagfile_duration, duration, low=0)),
        )

    def _on_step(self, data: bytes) -> None:
        path = self.recorder.add_step(data, self._step_time_ns())
        if path:
            Log(self).info(f"closed {path.name}")
        self._publish_changes()
        # Taken after the Step is written: on a slow disk the next one is already queued.
        self._last_step_s = time.monotonic()

    def _step_time_ns(self) -> int | None:
        """Return the log time of a Step that arrives now; None: the stamp of its observation."""
        clock = self.get_clock()
        if not self._pace.clock_runs(clock) and not self._clock_missed:
            self._clock_missed = True
            Log(self).error(
                "use_sim_time is true but /clock has no publisher: message stamps are used as log times; "
                "set use_sim_time:=false on a robot"
            )
        return self._pace.arrival_ns(clock)

    def _publish_changes(self) -> None:
        """Log every lost episode and publish the counters, which commands wait for."""
        now, before = self.recorder.counters, self._reported
        if now == before:
            return
        self._reported = now
        self._publish_status()
        self._reporter.publish()
        if now.failed > before.failed:
            Log(self).error(f"episode lost: {now.last_error}")
        if now.dropped > before.dropped:
            Log(self).warning("dropped an incomplete episode")

    def _publish_status(self) -> None:
        now = self.recorder.counters
        status = RecorderStatus(
            closed=now.closed,
            dropped=now.dropped,
            failed=now.failed,
            newest_episode=now.newest_episode,
            last_error=now.last_error,
        )
        status.header.stamp = self.get_clock().now().to_msg()
        self._status.publish(status)

    def _discover(self) -> None:
        """Subscribe to the listed topics that have a publisher by now, then to `step`.

        In this order, no episode starts before the recorder has subscribed to everything.
        """
        for name in sorted(self._missing):
            publishers = self.get_publishers_info_by_topic(name)
            if publishers:
                self._missing.discard(name)
                self._subscribe(name, publishers)
        late = time.monotonic() > self._patience_until_s
        if not self._ready and (late or not self._missing):
            self._ready = True
            if self._missing:
                Log(self).warning(f"no publisher yet for {', '.join(sorted(self._missing))}: recording without")
            subscribe(self, Step, "step", self._on_step, STEPS, raw=True)

    def _subscribe(self, name: str, publishers: list[TopicEndpointInfo]) -> None:
        types = sorted({p.topic_type for p in publishers})
        if len(types) > 1:
            Log(self).error(f"topic {name}: not recorded, it has several types: {', '.join(types)}")
            return
        package, _, type_name = types[0].split("/")
        try:
            message_class = getattr(importlib.import_module(f"{package}.msg"), type_name)
        except (ImportError, AttributeError):
            Log(self).error(f"topic {name}: not recorded, its type {types[0]} is not installed")
            return
        profiles = [publisher.qos_profile for publisher in publishers]
        topic = Topic(name, types[0], recorded_qos(profiles))
        stamped = next(iter(message_class.get_fields_and_field_types().values()), "") == "std_msgs/Header"

        def on_message(data: bytes) -> None:
            # Without a clock (use_sim_time) the time is 0.
            time_ns = self.get_clock().now().nanoseconds or (header_stamp_ns(data) if stamped else 0)
            self.recorder.add_raw(topic, data, time_ns or None)
            self._publish_changes()

        subscribe(self, message_class, name, on_message, matching_qos(profiles), raw=True)
        Log(self).info(f"recording {name} ({types[0]})")

    def _report(self) -> Report:
        counters, missing = self.recorder.counters, " ".join(sorted(self._missing))
        values = {**{key: str(value) for key, value in vars(counters).items()}, "missing_topics": missing}
        if counters.failed:
            return Report(ERROR, f"episode lost: {counters.last_error}", values)
        if self._ready and missing:
            return Report(WARN, f"recording without {missing}: no publisher", values)
        return Report(OK, f"recording into {self._bag_dir}", values)

    def finish(self) -> None:
        """Record the Steps still in the queue, then drop the open episode.

        A stack is stopped as soon as its last episode has ended, when its last Steps may still be queued.
        Raises UserError when episodes were lost, so that the exit code is not 0.
        """
        executor = SingleThreadedExecutor()
        executor.add_node(self)
        stopped_s = self._last_step_s = time.monotonic()
        while time.monotonic() < min(self._last_step_s + QUIET_S, stopped_s + DRAIN_LIMIT_S):
            executor.spin_once(timeout_sec=QUIET_S / 2)
        executor.remove_node(self)
        self.recorder.abandon()
        self._publish_changes()
        failed = self.recorder.counters.failed
        if failed:
            raise UserError(f"{failed} episodes lost: {self.recorder.counters.last_error}")


def main() -> None:
    """Entry point."""
    sys.exit(run_node(RecorderNode, RecorderNode.finish))
