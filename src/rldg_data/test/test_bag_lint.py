"""Lint of bags: each check finds exactly the bag that has its fault, and none reports a sound bag."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from rldg_core.frames import compose_delta
from rldg_core.image_codec import encode_jpeg
from rldg_core.task import Task
from rldg_core.types import ExecutedAction, Source, Step
from rldg_data.bags.cdr import encode_step
from rldg_data.bags.episode_info import EpisodeInfo
from rldg_data.bags.mcap_writer import McapWriter
from rldg_data.bags.metadata import Storage, Topic
from rldg_data.bags.reading import UNFINISHED, episode_name, read_episode
from rldg_data.bags.recording import STEP_QOS
from rldg_data.bags.schemas import STEP_TYPE
from rldg_data.lint import Finding, lint
from rldg_data.lint.bag import DESCRIPTIONS, variants
from rldg_data.testing.steps import assert_same_steps, jpeg, make_episode, make_task, with_twists

DOCUMENT = Path(__file__).parents[3] / "docs/reference/data.md"
SMALL = make_task().cameras["wrist"].model_copy(update={"image_size": 64})
TASK = make_task().model_copy(update={"cameras": {"wrist": SMALL}})
STEPS = 21
PERIOD_NS = 100_000_000
BLACK = encode_jpeg(np.zeros((64, 64, 3), np.uint8))
ROTATION_BACK = np.array([1, 1, 1, -1, -1, -1], np.float32)


def good_steps(number: int = 0) -> list[Step]:
    """Return an episode whose arm moves 3 mm per step, as its actions command."""
    rng = np.random.default_rng(number)
    pose = np.array([0.5, 0.1, 0.2, *Rotation.from_euler("xyz", [3.0, 0.1, 0.4]).as_quat()])
    steps = []
    for i, step in enumerate(make_episode(STEPS - 1, seed=number, image_size=64)):
        seen = replace(
            step.observation,
            stamp_ns=step.observation.stamp_ns + number * 3600 * 10**9,
            images={"wrist": jpeg(64, 100 * number + i)},
            pose_base_tcp=pose,
            gripper_width_m=float(np.float32(0.04 + 0.0001 * i)),
        )
        action = replace(step.action, observation_stamp_ns=seen.stamp_ns)
        if not step.is_last:
            done = (np.array([0.2, 0.05, -0.05, 0.1, -0.1, 0.1]) + rng.uniform(-0.01, 0.01, 6)).astype(np.float32)
            action = replace(action, requested=done, executed=done)
            pose = compose_delta(pose, TASK.action.to_delta_tcp(done))
        steps.append(replace(step, observation=seen, action=action))
    return with_twists(steps)


@dataclass(frozen=True)
class Raw:
    """Messages of a driver's topic as pairs (log time, stamp) [ns]."""

    topic: str
    times_ns: Sequence[tuple[int, int]]


def write_bag(
    folder: Path,
    steps: Sequence[Step],
    custom_data: Mapping[str, str] | None = None,
    log_times_ns: Sequence[int] | None = None,
    raw: Sequence[Raw] = (),
    messages: Sequence[bytes] = (),
) -> Path:
    """Write a bag of the given Steps. custom_data: replaced entries; messages: serialised, appended to `step`."""
    actions = [step.action for step in steps if not step.is_last]
    info = EpisodeInfo.of(steps[0], actions, steps[-1].success, TASK, "2026-01-01T00:00:00+00:00")
    writer = McapWriter(folder, folder.name, Storage(), {})
    writer.add_topic(Topic("/rldg/step", STEP_TYPE, STEP_QOS))
    times = log_times_ns or [step.observation.stamp_ns for step in steps]
    for step, time_ns in zip(steps, times, strict=True):
        writer.write("/rldg/step", encode_step(step), time_ns, time_ns)
    for data in messages:
        writer.write("/rldg/step", data, times[0], times[0])
    for one in raw:
        writer.add_topic(Topic(one.topic, "geometry_msgs/msg/PoseStamped"))
        for time_ns, stamp_ns in one.times_ns:
            stamp = (stamp_ns // 10**9).to_bytes(4, "little") + (stamp_ns % 10**9).to_bytes(4, "little")
            writer.write(one.topic, b"\0\1\0\0" + stamp + bytes(64), time_ns, time_ns)
    writer.close({**info.to_custom_data(), **(custom_data or {})})
    return folder


def write_good(bag_dir: Path, count: int = 2) -> list[Path]:
    return [write_bag(bag_dir / episode_name(i), good_steps(i)) for i in range(count)]


def found(bag_dir: Path, task: Task = TASK) -> list[Finding]:
    return list(lint(bag_dir, find_tasks=lambda name: variants(task) if name == task.name else ()))


def edit(steps: list[Step], index: int, **changes: Any) -> list[Step]:
    return [replace(s, **changes) if i == index else s for i, s in enumerate(steps)]


def edit_observation(steps: list[Step], index: int, **changes: Any) -> list[Step]:
    return edit(steps, index, observation=replace(steps[index].observation, **changes))


def edit_action(steps: list[Step], index: int, **changes: Any) -> list[Step]:
    return edit(steps, index, action=replace(steps[index].action, **changes))


def delayed(steps: list[Step], start: int, by_ns: int) -> list[Step]:
    """Return the Steps with the stamps shifted from index `start` on."""

    def moved(step: Step) -> Step:
        stamp_ns = step.observation.stamp_ns + by_ns
        action = replace(step.action, observation_stamp_ns=stamp_ns)
        return replace(step, observation=replace(step.observation, stamp_ns=stamp_ns), action=action)

    return [moved(s) if i >= start else s for i, s in enumerate(steps)]


def held(steps: list[Step]) -> list[Step]:
    still = np.zeros(6, np.float32)
    return [
        s if s.is_last else edit_action([s], 0, source=Source.HOLD, executed=still, requested=still)[0] for s in steps
    ]


def swapped(steps: list[Step]) -> list[Step]:
    return [replace(s, index=5 if s.index == 4 else s.index) for s in steps]


def bomb() -> bytes:
    """Return a JPEG whose header claims 65,500 x 65,500 px."""
    data = bytearray(jpeg(64, 1))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (65500).to_bytes(2, "big") * 2
    return bytes(data)


def reset_half_way(steps: list[Step]) -> list[Step]:
    """Return an episode whose arm jumps back 6 cm between two steps."""
    there = [s.observation.pose_base_tcp - (i >= 10) * 0.06 * np.eye(7)[0] for i, s in enumerate(steps)]
    return [replace(s, observation=replace(s.observation, pose_base_tcp=p)) for s, p in zip(steps, there, strict=True)]


Change = Callable[[list[Step]], list[Step]]
WRONG_STEPS: dict[str, tuple[Change, str, str, str]] = {
    # name: (change that causes the fault, severity, check, part of the message)
    "a repeated index": (swapped, "error", "order", "index of Step number 4 is 5, expected 4"),
    "a missing Step": (lambda s: s[:7] + s[8:], "error", "order", "index of Step number 7 is 8, expected 7"),
    "an unchanged step_count": (lambda s: edit(s, 9, step_count=0), "error", "order", "step_count of Step number 9"),
    "another episode id": (
        lambda s: edit(s, 9, episode_id="other"),
        "error",
        "order",
        "episode_id is 'other' in Step 9",
    ),
    "another instruction": (lambda s: edit(s, 9, instruction="no"), "error", "order", "instruction is 'no' in Step 9"),
    "a second first Step": (lambda s: edit(s, 9, is_first=True), "error", "flags", "is_first of Step 9"),
    "no last Step": (lambda s: edit(s, STEPS - 1, is_last=False), "error", "flags", "is_last of Step 20"),
    "terminated and truncated": (
        lambda s: edit(s, STEPS - 1, truncated=True),
        "error",
        "flags",
        "terminated and truncated",
    ),
    "an early end": (lambda s: edit(s, 9, terminated=True), "error", "flags", "11 Steps follow the end"),
    "an early success": (lambda s: edit(s, 9, success=True), "error", "flags", "a success ends the task"),
    "neither terminated nor truncated": (
        lambda s: [replace(x, terminated=False, success=False) for x in s],
        "error",
        "flags",
        "neither terminated nor truncated",
    ),
    "two different outcomes": (lambda s: edit(s, STEPS - 1, success=False), "error", "flags", "end differently"),
    "a decreasing stamp": (lambda s: delayed(s, 9, -2 * PERIOD_NS), "error", "stamps", "not after that of Step 8"),
    "no clock": (lambda s: delayed(s, 0, -s[0].observation.stamp_ns), "error", "stamps", "0: the clock"),
    "a pause": (lambda s: delayed(s, 9, 2 * PERIOD_NS), "warning", "gap", "before step 9"),
    "a long pause": (lambda s: delayed(s, 9, 20 * PERIOD_NS), "error", "gap", "before step 9"),
    "a jump": (reset_half_way, "error", "jump", "before step 10"),
    "half the rate": (
        lambda s: [delayed([x], 0, i * PERIOD_NS)[0] for i, x in enumerate(s)],
        "error",
        "rate",
        "5 steps per second by its stamps, 10 Hz",
    ),
    "NaN in the wrench": (
        lambda s: edit_observation(s, 9, wrench_tcp=np.full(6, np.nan)),
        "error",
        "observation",
        "Step 9: wrench",
    ),
    "millimetres": (
        lambda s: [
            edit_observation([x], 0, pose_base_tcp=x.observation.pose_base_tcp * ([1e3] * 3 + [1] * 4))[0] for x in s
        ],
        "error",
        "observation",
        "21 Steps, first Step 0: pose_base_tcp",
    ),
    "an invalid quaternion": (
        lambda s: edit_observation(s, 9, pose_base_tcp=np.zeros(7)),
        "error",
        "observation",
        "quaternion",
    ),
    "six joints": (
        lambda s: edit_observation(s, 9, joint_positions=np.zeros(6)),
        "error",
        "observation",
        "6 values, expected 7",
    ),
    "an impossible gripper width": (
        lambda s: edit_observation(s, 9, gripper_width_m=2.88),
        "error",
        "observation",
        "gripper_width_m: 2.88 m",
    ),
    "a truncated image": (
        lambda s: edit_observation(s, 9, images={"wrist": jpeg(64, 1)[:-40]}),
        "error",
        "image",
        "Step 9: a truncated",
    ),
    "an image bomb": (lambda s: edit_observation(s, 9, images={"wrist": bomb()}), "error", "image", "65500x65500 px"),
    "no image": (lambda s: edit_observation(s, 9, images={"wrist": b""}), "error", "image", "Step 9: an empty image"),
    "another size": (
        lambda s: edit_observation(s, 9, images={"wrist": jpeg(32, 1)}),
        "error",
        "image",
        "32x32 px, before 64x64 px",
    ),
    "another camera": (
        lambda s: edit_observation(s, 9, images={"wrist": jpeg(64, 1), "side": jpeg(64, 1)}),
        "error",
        "image",
        "cameras of Step 9: 'wrist', 'side'",
    ),
    "a frozen camera": (
        lambda s: [edit_observation([x], 0, images={"wrist": jpeg(64, 1)})[0] for x in s],
        "error",
        "frozen",
        "repeats in 20 of 20 steps",
    ),
    "black images": (
        lambda s: [edit_observation([x], 0, images={"wrist": BLACK})[0] for x in s],
        "error",
        "pixels",
        "'wrist' of step 0: uniform brightness (0 of 255",
    ),
    "one topic for two cameras": (
        lambda s: [
            edit_observation([x], 0, images={"wrist": jpeg(64, i), "side": jpeg(64, i)})[0] for i, x in enumerate(s)
        ],
        "error",
        "pixels",
        "'side' and 'wrist' are the same images",
    ),
    "NaN in an action": (
        lambda s: edit_action(s, 9, executed=np.full(6, np.nan, np.float32)),
        "error",
        "action",
        "Step 9: an action is not finite",
    ),
    "an action in metres": (
        lambda s: edit_action(s, 9, executed=np.full(6, 1.5, np.float32)),
        "error",
        "action",
        "Step 9: executed action of 1.5",
    ),
    "actions of two lengths": (
        lambda s: edit_action(s, 9, executed=np.zeros(7, np.float32)),
        "error",
        "action",
        "6, 7 values",
    ),
    "an action without a source": (
        lambda s: edit_action(s, 9, source=Source.NONE),
        "error",
        "action",
        "without a source (NONE)",
    ),
    "a late action": (
        lambda s: edit_action(s, 9, observation_stamp_ns=s[8].observation.stamp_ns),
        "error",
        "action",
        "-0.100 s",
    ),
    "an action in the last Step": (
        lambda s: edit(s, STEPS - 1, action=s[0].action),
        "error",
        "action",
        "the last Step has an action",
    ),
    "actions beyond the scale": (
        lambda s: [x if i % 2 or x.is_last else edit_action([x], 0, action_clipped=True)[0] for i, x in enumerate(s)],
        "error",
        "clipped",
        "10 of 20 steps",
    ),
    "a frozen gate": (held, "error", "no_action", "20 transitions without an executed action"),
    "a single Step": (
        lambda s: [replace(s[-1], index=0, is_first=True, step_count=100)],
        "error",
        "no_action",
        "0 transitions",
    ),
    "rotations opposite to the actions": (
        lambda s: [x if x.is_last else edit_action([x], 0, executed=x.action.executed * ROTATION_BACK)[0] for x in s],
        "error",
        "motion",
        "the arm turns against its actions (cosine -1.00)",
    ),
    "linear and angular twist swapped": (
        lambda s: [edit_observation([x], 0, twist_base_tcp=np.roll(x.observation.twist_base_tcp, 3))[0] for x in s],
        "error",
        "twist",
        "linear and angular are swapped; expected base axes, m/s",
    ),
    "a twist of zeros": (
        lambda s: [edit_observation([x], 0, twist_base_tcp=np.zeros(6))[0] for x in s],
        "warning",
        "twist",
        "linear twist of zeros while the tcp moves 0.06",
    ),
    "NaN as reward": (lambda s: edit(s, 9, reward=float("nan")), "error", "reward", "not finite in Step 9"),
    "a success without reward": (
        lambda s: [replace(x, reward=0.0) for x in s],
        "warning",
        "reward",
        "without a reward",
    ),
    "a failure with a reward": (
        lambda s: [replace(x, success=False) for x in s],
        "error",
        "reward",
        "a failure whose last transition has reward 1, expected 0",
    ),
    "no object": (lambda s: [replace(x, object="") for x in s], "error", "names", "object: must not be empty"),
    "no instruction": (lambda s: [replace(x, instruction=" ") for x in s], "error", "instruction", "empty"),
    "an overlong instruction": (
        lambda s: [replace(x, instruction="x" * 2048) for x in s],
        "error",
        "instruction",
        "2048 characters, expected at most 500",
    ),
    "an instruction of two lines": (
        lambda s: [replace(x, instruction="insert\nit") for x in s],
        "error",
        "instruction",
        "line break",
    ),
    "a gripper width missing for a while": (
        lambda s: edit_observation(s, 9, gripper_width_m=float("nan")),
        "error",
        "observation",
        "no gripper width in 1 of 21 steps, first step 9, expected all or none",
    ),
    "joints missing at the start": (
        lambda s: edit_observation(s, 0, joint_positions=np.empty(0)),
        "error",
        "observation",
        "no joint positions in 1 of 21 steps, first step 0",
    ),
    "small images": (
        lambda s: [edit_observation([x], 0, images={"wrist": jpeg(32, i)})[0] for i, x in enumerate(s)],
        "error",
        "task",
        "camera wrist is 32x32 px, the task has 64",
    ),
    "an unknown camera": (
        lambda s: [edit_observation([x], 0, images={"side": jpeg(64, i)})[0] for i, x in enumerate(s)],
        "error",
        "task",
        "cameras 'side', the task has wrist",
    ),
    "an unexpected gripper": (
        lambda s: [x if x.is_last else edit_action([x], 0, executed=np.ones(7, np.float32) * 0.1)[0] for x in s],
        "error",
        "task",
        "actions of 7 values, the task has 6",
    ),
}


def test_good_bags_have_no_findings(tmp_path: Path) -> None:
    write_good(tmp_path, 3)
    assert found(tmp_path) == []
    assert found(tmp_path / "episode_000001") == []


@pytest.mark.parametrize("name", WRONG_STEPS)
def test_faulty_steps_are_reported(tmp_path: Path, name: str) -> None:
    change, severity, check, part = WRONG_STEPS[name]
    write_good(tmp_path)
    write_bag(tmp_path / "episode_000002", change(good_steps(2)))
    findings = found(tmp_path)
    assert {f.episode for f in findings if f.severity == "error"} <= {"episode_000002", ""}
    of_it = [f for f in findings if (f.check, f.severity, f.episode) == (check, severity, "episode_000002")]
    assert part in of_it[0].message
    assert all(len(str(f).splitlines()) == 1 for f in findings)


@pytest.mark.parametrize(
    ("custom_data", "part"),
    [
        ({"success": "false"}, "custom_data.success is False, the Steps say True"),
        ({"steps": "19"}, "custom_data.steps is 19, the Steps say 20"),
        ({"source": "human"}, "custom_data.source is 'human', the Steps say 'policy'"),
        ({"policy_id": "x"}, "custom_data.policy_id is 'x', the Steps say 'specialist'"),
        ({"policy_version": "8"}, "custom_data.policy_version is 8"),
        ({"object": "hdmi"}, "custom_data.object is 'hdmi', the Steps say 'usb_a'"),
        ({"episode_id": "y" * 5_000_000}, "yyy...', the Steps say 'run-2'"),
        ({"seed": "9"}, "custom_data.seed is 9, the Steps say 2"),
        ({"instruction": "z"}, "custom_data.instruction is 'z'"),
    ],
)
def test_metadata_contradicting_the_steps_are_an_error(tmp_path: Path, custom_data: dict[str, str], part: str) -> None:
    write_good(tmp_path)
    write_bag(tmp_path / "episode_000002", good_steps(2), custom_data)
    (finding,) = [f for f in found(tmp_path) if f.check == "contents"]
    assert (finding.severity, finding.episode) == ("error", "episode_000002")
    assert part in finding.message
    assert len(finding.message) < 400


@pytest.mark.parametrize(
    ("custom_data", "check", "severity", "part"),
    [
        ({"steps": "many"}, "metadata", "error", "custom_data.steps: 'many', expected int"),
        ({"config_hash": "0123"}, "task", "warning", "recorded with configuration 0123 of task insertion"),
        ({"action_scale_m": "0.03"}, "task", "error", "action scale"),
        ({"complete": "false"}, "incomplete", "error", "an incomplete episode"),
    ],
)
def test_implausible_metadata_are_reported(
    tmp_path: Path, custom_data: dict[str, str], check: str, severity: str, part: str
) -> None:
    write_good(tmp_path)
    write_bag(tmp_path / "episode_000002", good_steps(2), custom_data)
    (finding,) = found(tmp_path)
    assert (finding.check, finding.severity, finding.episode) == (check, severity, "episode_000002")
    assert part in finding.message


def cut_off(bag: Path) -> None:
    file = bag / f"{bag.name}_0.mcap"
    os.truncate(file, file.stat().st_size * 2 // 3)


def one_bit(bag: Path) -> None:
    file = bag / f"{bag.name}_0.mcap"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def without_index(bag: Path) -> None:
    file = bag / f"{bag.name}_0.mcap"
    os.truncate(file, file.stat().st_size - 20)


def renamed(old: str, new: str) -> Callable[[Path], None]:
    def change(bag: Path) -> None:
        text = (bag / "metadata.yaml").read_text()
        assert old in text
        (bag / "metadata.yaml").write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("damage", "check", "part"),
    [
        (cut_off, "damaged", "no index at its end"),
        (one_bit, "damaged", "bytes cannot be read (CRC"),
        (without_index, "damaged", "no index at its end"),
        (lambda bag: (bag / f"{bag.name}_0.mcap").unlink(), "damaged", "No such file"),
        (lambda bag: (bag / f"{bag.name}_0.mcap").write_bytes(b""), "damaged", "not an MCAP file"),
        (lambda bag: (bag / "metadata.yaml").unlink(), "metadata", "no metadata.yaml"),
        (lambda bag: (bag / "metadata.yaml").write_text("- a"), "metadata", "not the metadata of a rosbag2 bag"),
        (renamed("message_count: 21", "message_count: 20"), "counts", "21 messages, metadata.yaml says 20"),
        (renamed("nanoseconds_since_epoch: 1700007200", "nanoseconds_since_epoch: 1700007201"), "counts", "log times"),
        (renamed("storage_identifier: mcap", "storage_identifier: sqlite3"), "metadata", "storage 'sqlite3'"),
    ],
)
def test_damaged_bag_is_an_error(tmp_path: Path, damage: Callable[[Path], object], check: str, part: str) -> None:
    write_good(tmp_path)
    damage(write_bag(tmp_path / "episode_000002", good_steps(2)))
    findings = found(tmp_path)
    assert {(f.episode, f.severity) for f in findings} == {("episode_000002", "error")}
    (finding,) = [f for f in findings if f.check == check]
    assert part in finding.message


def test_bag_without_decodable_steps_is_an_error(tmp_path: Path) -> None:
    write_bag(tmp_path / "episode_000000", good_steps(), messages=[b"\0\1\0\0garbage"])
    writer = McapWriter(tmp_path / "episode_000001", "episode_000001", Storage(), {})
    writer.close({})
    findings = {f.episode: f for f in found(tmp_path) if f.check == "steps"}
    assert "1 Steps cannot be decoded" in findings["episode_000000"].message
    assert "none; expected one" in findings["episode_000001"].message


def offset(steps: Sequence[Step], by_ns: int) -> list[tuple[int, int]]:
    return [(step.observation.stamp_ns, step.observation.stamp_ns - by_ns) for step in steps]


def test_wrong_log_times_and_stamp_offsets_are_reported(tmp_path: Path) -> None:
    steps = good_steps()
    stamps = [step.observation.stamp_ns for step in steps]
    for number, (times, raw, severity, check, part) in enumerate(
        [
            ([0, *stamps[1:]], [], "error", "log_time", "1 messages with log time 0"),
            ([s + 3 * 10**9 for s in stamps], [], "warning", "log_time", "3.000 s after its stamps"),
            ([s - 10**8 for s in stamps], [], "warning", "log_time", "-0.100 s after its stamps"),
            (
                None,
                [Raw("/camera", offset(steps, 7 * 10**8)), Raw("/pose", offset(steps, 10**6))],
                "error",
                "stamp_offset",
                "/camera is recorded 0.700 s after its stamps, /pose 0.001 s",
            ),
        ]
    ):
        folder = tmp_path / str(number)
        write_bag(folder / episode_name(0), steps, log_times_ns=times, raw=raw)
        (finding,) = [f for f in found(folder) if f.check == check]
        assert finding.severity == severity
        assert part in finding.message


def test_duplicate_episode_ids_and_unfinished_bags_are_reported(tmp_path: Path) -> None:
    write_good(tmp_path)
    write_bag(tmp_path / "episode_000002", good_steps(1))
    write_bag(tmp_path / UNFINISHED / "episode_000003.1", good_steps(3))
    findings = {(f.check, f.severity, f.episode) for f in found(tmp_path)}
    assert ("episode_id", "error", "episode_000002") in findings
    assert ("unfinished", "warning", "") in findings


def test_every_check_is_documented_and_has_a_case() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", DOCUMENT.read_text().partition("### Bags\n")[2], re.M))
    assert {name: rows.get(name) for name in DESCRIPTIONS} == DESCRIPTIONS
    source = Path(__file__).read_text()
    assert [name for name in DESCRIPTIONS if f'"{name}"' not in source] == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at_byte=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_flipped_bit_is_reported_or_changes_no_step(
    tmp_path_factory: pytest.TempPathFactory, at_byte: float, bit: int
) -> None:
    """Never raise; where no error is reported, the Steps read equal those written."""
    folder = tmp_path_factory.mktemp("bags")
    bag = write_bag(folder / episode_name(0), good_steps())
    file = bag / f"{bag.name}_0.mcap"
    data = bytearray(file.read_bytes())
    data[int(at_byte * len(data))] ^= 1 << bit
    file.write_bytes(data)
    if not [f for f in found(folder) if f.severity == "error"]:
        assert_same_steps(read_episode(bag), good_steps())


def test_checks_never_raise_on_partial_episodes(tmp_path: Path) -> None:
    """Report an error for each incomplete episode instead of raising."""
    steps = good_steps()
    empty = ExecutedAction(0, np.empty(0, np.float32), np.empty(0, np.float32), Source.NONE)
    for number, some in enumerate((steps[-1:], steps[:1], steps[3:5], [replace(s, action=empty) for s in steps])):
        write_bag(tmp_path / episode_name(number), some)
    assert {f.episode for f in found(tmp_path) if f.severity == "error"} >= {episode_name(i) for i in range(4)}
