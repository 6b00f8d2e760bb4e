"""The recorder in its own process: bags from live Steps, SIGKILL, full disk, extra topics, bad parameters."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosbags.highlevel import AnyReader
from std_msgs.msg import String

from rldg_core.types import Step
from rldg_data.bags.reading import UNFINISHED, bag_info, episode_info, find_bags, read_episode, read_steps
from rldg_data.bags.repair import repair_bag
from rldg_data.testing.steps import assert_same_steps, make_episode, make_task
from rldg_msgs.msg import RecorderStatus
from rldg_msgs.msg import Step as StepMsg
from rldg_ros import to_msg
from rldg_ros.qos import LATCHED, STEPS

DOMAIN = "100"
DEADLINE_S = 30.0


@pytest.fixture
def node() -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(DOMAIN))
    node = Node("test_recorder", context=context, namespace="rldg")
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def steps_out(node: Node) -> Publisher:
    return node.create_publisher(StepMsg, "step", STEPS)


def wait_until(node: Node, condition: Callable[[], bool], what: str) -> None:
    executor = rclpy.executors.SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"timed out: {what}"
        executor.spin_once(timeout_sec=0.02)
    executor.remove_node(node)


@contextmanager
def recorder(
    tmp_path: Path, *arguments: str, preexec: Callable[[], None] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run the recorder, lock-step, into tmp_path/bags; its process group is killed at the end."""
    task_file = tmp_path / "insertion.yaml"
    task_file.write_text(yaml.safe_dump(make_task().model_dump(mode="json")))
    command = [sys.executable, "-c", "from rldg_data.nodes.recorder import main; main()"]
    command += ["--ros-args", "-r", "__ns:=/rldg", "-p", f"task:={task_file}", "-p", f"bag_dir:={tmp_path / 'bags'}"]
    command += ["-p", "lockstep:=true", *[a for extra in arguments for a in ("-p", extra)]]
    process = subprocess.Popen(
        command,
        env={**os.environ, "ROS_DOMAIN_ID": DOMAIN},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=preexec,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def stop(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE_S)
    return process.returncode, errors


def connected(node: Node, publisher: Publisher, recorders: int = 1) -> None:
    """Wait for the recorder; DDS counts a killed one for another 20 s."""
    wait_until(node, lambda: publisher.get_subscription_count() == recorders, "the recorder subscribes")


def publish(publisher: Publisher, steps: list[Step]) -> None:
    for step in steps:
        publisher.publish(to_msg.step(step))


def closed(bag_dir: Path) -> list[Path]:
    return find_bags(bag_dir) if bag_dir.is_dir() else []


def test_every_episode_becomes_a_bag(tmp_path: Path, node: Node, steps_out: Publisher) -> None:
    episodes = [make_episode(20, seed=seed, success=seed != 1, image_size=256) for seed in range(3)]
    with recorder(tmp_path) as process:
        connected(node, steps_out)
        for steps in episodes:
            publish(steps_out, steps)
        wait_until(node, lambda: len(closed(tmp_path / "bags")) == 3, "three bags")
        code, errors = stop(process)
    assert (code, [line for line in errors.splitlines() if "ERROR" in line]) == (0, [])
    for bag, steps in zip(find_bags(tmp_path / "bags"), episodes, strict=True):
        assert_same_steps(read_episode(bag), steps)
        assert episode_info(bag).success == steps[-1].success
        assert bag_info(bag).start_ns == steps[0].observation.stamp_ns
        with AnyReader([bag]) as reader:
            assert [c.topic for c in reader.connections] == ["/rldg/step"]


def test_steps_in_transit_are_recorded_at_shutdown(tmp_path: Path, node: Node, steps_out: Publisher) -> None:
    """The stack stops when the last episode ends: its bag must not depend on the order of processes."""
    messages = [to_msg.step(step) for seed in range(5) for step in make_episode(80, seed=seed, image_size=256)]
    with recorder(tmp_path) as process:
        connected(node, steps_out)
        for message in messages:
            steps_out.publish(message)
        assert stop(process)[0] == 0
    assert len(closed(tmp_path / "bags")) == 5


def test_kill_during_an_episode_leaves_a_repairable_bag(tmp_path: Path, node: Node, steps_out: Publisher) -> None:
    bag_dir = tmp_path / "bags"
    first, second, third = (make_episode(20, seed=seed, image_size=256) for seed in range(3))
    with recorder(tmp_path) as process:
        connected(node, steps_out)
        publish(steps_out, first)
        publish(steps_out, second[:12])
        chunk = sum(len(image) for step in second[:10] for image in step.observation.images.values())
        # Chunks of the first episode's bag are on disk before it is closed, too.
        wait_until(node, lambda: len(closed(bag_dir)) == 1, "the first bag")
        wait_until(
            node,
            lambda: any(file.stat().st_size > chunk for file in bag_dir.glob(".*.partial/*.mcap")),
            "an open bag with a chunk",
        )
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (bag,) = find_bags(bag_dir)
    assert_same_steps(read_episode(bag), first)
    assert len(list(bag_dir.glob(".*.partial"))) == 1

    with recorder(tmp_path) as process:
        connected(node, steps_out, recorders=2)
        publish(steps_out, second[12:])
        publish(steps_out, third)
        wait_until(node, lambda: len(closed(bag_dir)) == 2, "a second bag")
        assert stop(process)[0] == 0
    assert_same_steps(read_episode(find_bags(bag_dir)[1]), third)
    assert sorted(p.name for p in bag_dir.iterdir()) == ["episode_000000", "episode_000001", UNFINISHED]
    (left,) = (bag_dir / UNFINISHED).iterdir()
    repaired = repair_bag(left)
    assert repaired.complete is False
    # A chunk holds one second: of twelve Steps at 10 Hz, the first ten are on disk.
    assert_same_steps(read_steps(left), second[:10])


def test_interrupted_episodes_are_dropped_and_counted(tmp_path: Path, node: Node, steps_out: Publisher) -> None:
    bag_dir = tmp_path / "bags"
    statuses: list[RecorderStatus] = []
    node.create_subscription(RecorderStatus, "/rldg/recorder_status", statuses.append, LATCHED)
    episodes = [make_episode(8, seed=seed) for seed in range(4)]
    with recorder(tmp_path) as process:
        connected(node, steps_out)
        publish(steps_out, episodes[0][:4])
        publish(steps_out, episodes[1])
        publish(steps_out, episodes[2][:3] + episodes[2][4:])
        publish(steps_out, episodes[3][:5])
        wait_until(node, lambda: bool(statuses) and (statuses[-1].closed, statuses[-1].dropped) == (1, 2), "counters")
        assert statuses[-1].newest_episode == episodes[1][0].episode_id
        assert stop(process)[0] == 0
    (bag,) = find_bags(bag_dir)
    assert_same_steps(read_episode(bag), episodes[1])
    assert [p.name for p in bag_dir.iterdir()] == ["episode_000000"]


def test_full_disk_loses_one_episode_and_sets_the_exit_code(tmp_path: Path, node: Node, steps_out: Publisher) -> None:
    bag_dir = tmp_path / "bags"
    small, large = make_episode(3), make_episode(250, seed=1, image_size=256)
    reports: list[DiagnosticStatus] = []
    node.create_subscription(DiagnosticArray, "/diagnostics", lambda m: reports.extend(m.status), 10)
    limit = 2_000_000  # larger than the shared-memory segments of DDS
    with recorder(tmp_path, preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) as process:
        connected(node, steps_out)
        publish(steps_out, small)
        publish(steps_out, large)
        publish(steps_out, small)
        wait_until(node, lambda: len(closed(bag_dir)) == 2, "the episodes before and after")
        wait_until(node, lambda: {v.key: v.value for v in reports[-1].values}["closed"] == "2", "a report")
        code, errors = stop(process)
    assert code == 2
    assert (reports[-1].name, reports[-1].level) == ("/rldg/recorder", DiagnosticStatus.ERROR)
    assert reports[-1].message == f"episode lost: {bag_dir}: cannot write: File too large"
    assert errors.splitlines()[-1] == f"recorder: 1 episodes lost: {bag_dir}: cannot write: File too large"
    assert sum("ERROR" in line for line in errors.splitlines()) == 1
    assert "Traceback" not in errors
    for bag in find_bags(bag_dir):
        assert_same_steps(read_episode(bag), small)
    assert len(list(bag_dir.iterdir())) == 2


def test_listed_topics_are_recorded_and_transient_local_ones_in_every_bag(
    tmp_path: Path, node: Node, steps_out: Publisher
) -> None:
    label = node.create_publisher(String, "label", LATCHED)
    label.publish(String(data="one"))
    with recorder(tmp_path, "topics:=[label, never_published]") as process:
        connected(node, steps_out)
        wait_until(node, lambda: label.get_subscription_count() == 1, "the recorder subscribes to label")
        for number in range(2):
            # The transient-local message and the first Step travel on different topics: repeat until it is recorded.
            def recorded(seed: int = number) -> bool:
                before = len(closed(tmp_path / "bags"))
                publish(steps_out, make_episode(2, seed=seed))
                wait_until(node, lambda: len(closed(tmp_path / "bags")) == before + 1, "a bag")
                return "/rldg/label" in bag_info(closed(tmp_path / "bags")[-1]).topics

            wait_until(node, recorded, "a bag with the transient-local message")
        bag = closed(tmp_path / "bags")[-1]
        assert stop(process)[0] == 0
    assert bag_info(bag).topics["/rldg/label"] == ("std_msgs/msg/String", 1)
    with AnyReader([bag]) as reader:
        (connection,) = [c for c in reader.connections if c.topic == "/rldg/label"]
        ((_, _, raw),) = reader.messages([connection])
        assert reader.deserialize(raw, connection.msgtype).data == "one"
        assert connection.ext.offered_qos_profiles[0].durability.name == "TRANSIENT_LOCAL"
        assert len(read_episode(bag)) == 3


def test_bag_stores_the_qos_offered_by_every_publisher(tmp_path: Path, node: Node, steps_out: Publisher) -> None:
    """Discovery does not report the history depth; its 0 must not be stored."""
    offers = [
        QoSProfile(depth=7, reliability=ReliabilityPolicy.BEST_EFFORT, deadline=Duration(seconds=2)),
        QoSProfile(depth=1, lifespan=Duration(nanoseconds=1_500_000_000)),
        QoSProfile(depth=3, lifespan=Duration(nanoseconds=1_500_000_000)),
    ]
    publishers = [node.create_publisher(String, "label", offer) for offer in offers]
    with recorder(tmp_path, "topics:=[label]") as process:
        connected(node, steps_out)
        wait_until(node, lambda: all(p.get_subscription_count() == 1 for p in publishers), "the recorder subscribes")
        for publisher in publishers:
            publisher.publish(String(data="one"))
        publish(steps_out, make_episode(2))
        wait_until(node, lambda: len(closed(tmp_path / "bags")) == 1, "a bag")
        assert stop(process)[0] == 0
    (bag,) = closed(tmp_path / "bags")
    topics = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    offered = {
        t["topic_metadata"]["name"]: t["topic_metadata"]["offered_qos_profiles"]
        for t in topics["topics_with_message_count"]
    }
    infinite = {"sec": 9223372036, "nsec": 854775807}
    best_effort, reliable = sorted(offered["/rldg/label"], key=lambda profile: profile["reliability"])
    assert (best_effort["reliability"], reliable["reliability"]) == ("best_effort", "reliable")
    assert (best_effort["deadline"], best_effort["lifespan"]) == ({"sec": 2, "nsec": 0}, infinite)
    assert (reliable["deadline"], reliable["lifespan"]) == (infinite, {"sec": 1, "nsec": 500_000_000})
    for profile in (best_effort, reliable):
        assert (profile["history"], profile["depth"], profile["durability"]) == ("keep_last", 10, "volatile")
        assert (profile["liveliness"], profile["liveliness_lease_duration"]) == ("automatic", infinite)


@pytest.mark.parametrize("lockstep", ["false", "true"])
def test_messages_keep_their_stamps_without_a_clock(
    tmp_path: Path, node: Node, steps_out: Publisher, lockstep: str
) -> None:
    """With use_sim_time and no publisher of /clock yet, the clock returns 0."""
    steps = make_episode(3)
    start_ns = steps[0].observation.stamp_ns
    label, pose = node.create_publisher(String, "label", LATCHED), node.create_publisher(PoseStamped, "pose", LATCHED)
    arguments = ("topics:=[label, pose]", f"lockstep:={lockstep}", "use_sim_time:=true")
    with recorder(tmp_path, *arguments) as process:
        connected(node, steps_out)
        publish(steps_out, steps[:2])
        # Publish one topic after the other, so that the order is defined.
        wait_until(node, lambda: list((tmp_path / "bags").glob(".*.partial")) != [], "an open bag")
        stamped = PoseStamped(header=to_msg.header(start_ns + 150_000_000))
        for publisher, message in ((pose, stamped), (label, String(data="one"))):
            publisher.publish(message)
            assert publisher.wait_for_all_acked(Duration(seconds=DEADLINE_S))
        publish(steps_out, steps[2:])
        wait_until(node, lambda: len(closed(tmp_path / "bags")) == 1, "a bag")
        code, errors = stop(process)
    assert code == 0
    assert ("/clock has no publisher" in errors) == (lockstep == "false")
    (bag,) = closed(tmp_path / "bags")
    with AnyReader([bag]) as reader:
        times = [(connection.topic, time_ns - start_ns) for connection, time_ns, _ in reader.messages()]
    assert [t for name, t in times if name == "/rldg/step"] == [0, 100_000_000, 200_000_000, 300_000_000]
    assert [t for name, t in times if name == "/rldg/pose"] == [150_000_000]
    (late,) = [t for name, t in times if name == "/rldg/label"]
    assert late >= 0


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("preset:=fast", "recorder: parameter preset: expected none, zstd_fast or zstd_small, got 'fast'"),
        ("bag_dir:=''", "recorder: parameter bag_dir: must not be empty"),
        ("bag_dir:=/dev/null/bags", "recorder: parameter bag_dir: /dev/null/bags: Not a directory"),
    ],
)
def test_bad_parameter_is_refused_with_exit_code_2(tmp_path: Path, argument: str, message: str) -> None:
    with recorder(tmp_path, argument) as process:
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors.strip().removeprefix("node: ").removeprefix("recorder: ")) == (
        2,
        message.removeprefix("recorder: "),
    )
