"""Well-formed but wrong external bags: names, frames, clocks, units, several episodes in one bag."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from rldg_core.errors import UserError
from rldg_core.frames import compose_delta, rotation_of
from rldg_core.image_codec import decode_jpeg
from rldg_data.bags.reading import episode_info, read_episode
from rldg_data.external.frames import check_frame
from rldg_data.external.importing import import_bag, load_mapping, read_external
from rldg_data.testing.external import (
    MAPPING,
    MS,
    SCALE,
    STORE,
    TICKS,
    Messages,
    T,
    array,
    at,
    executed,
    header,
    mapping,
    observed,
    only,
    picture,
    raw_image,
    stamped_pose,
    targets,
    trajectory,
    transform,
    twist,
    vector,
    write_bag,
)

ARM = [f"fr3_joint{n}" for n in range(1, 8)]
FINGERS = ["fr3_finger_joint1", "fr3_finger_joint2"]


def encoded(colour: tuple[int, int, int], encoding: str) -> Any:
    """Return rows of 12 x 16 px of one colour; rldg_core's test_raw_image checks the arithmetic."""
    red, green, blue = colour
    matrix = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
    y, cb, cr = np.rint(matrix @ colour + [16, 128, 128]).astype(int)
    pixel = {
        "rgb8": [red, green, blue] * 2,
        "bgr8": [blue, green, red] * 2,
        "rgba8": [red, green, blue, 9] * 2,
        "bgra8": [blue, green, red, 9] * 2,
        "mono8": [red] * 2,
        "yuv422_yuy2": [y, cb, y, cr],
        "uyvy": [cb, y, cr, y],
    }
    if encoding in pixel:
        return np.tile(np.array(pixel[encoding], np.uint8), (12, 8))
    return np.tile(np.array([[red, green], [green, blue]], np.uint8), (6, 8))


def good(seed: int = 0) -> Messages:
    poses, actions = trajectory(seed)
    return observed(poses) + targets(poses, actions)


def joint_state(ns: int, names: list[str], positions: Any) -> Any:
    empty = np.empty(0)
    values = np.asarray(positions, np.float64)
    return T["sensor_msgs/msg/JointState"](header=header(ns), name=names, position=values, velocity=empty, effort=empty)


def wrench(ns: int, values: Any, frame: str) -> Any:
    force = T["geometry_msgs/msg/Wrench"](force=vector(values[:3]), torque=vector(values[3:]))
    return T["geometry_msgs/msg/WrenchStamped"](header=header(ns, frame), wrench=force)


def every_tick(topic: str, make: Callable[[int], Any]) -> Messages:
    return [(topic, at(k) + MS, make(k)) for k in range(TICKS)]


def check_refused(tmp_path: Path, messages: Messages, text: str, **settings: Any) -> str:
    """Check that importing is refused with this line and writes nothing."""
    bag = write_bag(tmp_path / "theirs", messages)
    with pytest.raises(UserError, match=text) as caught:
        import_bag(mapping(**settings), bag, tmp_path / "out")
    assert str(caught.value).startswith(f"{bag}: ") and "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("frame", "expected", "known"),
    [
        *[(name, "base", True) for name in ("base", "fr3_link0", "FR3_LINK0", "/robot1/base_link", "left_panda_link0")],
        *[(f"{body}_base", "base", False) for body in ("camera", "table", "gripper", "tool", "wrist", "robot/mobile")],
        ("robotiq_85_base_link", "base", False),
        ("camera_link0", "base", False),
        *[(name, "tcp", True) for name in ("tcp", "fr3_hand_tcp", "gripper_tcp", "left/tool0", "fr3_K")],
        *[(name, "tcp", False) for name in ("camera_tool0", "ft_sensor_ee", "table_tcp")],
    ],
)
def test_frame_of_another_body_is_refused_unless_declared(frame: str, expected: Any, known: bool) -> None:
    if known:
        return check_frame(frame, expected)
    with pytest.raises(ValueError, match=f"frame_id is '{frame}', expected the {expected} frame .*set `frame_id: "):
        check_frame(frame, expected)
    check_frame(frame, expected, declared=frame)


@pytest.mark.parametrize("order", ["sorted", "fingers first", "two messages"])
def test_joints_and_fingers_are_matched_by_name(tmp_path: Path, order: str) -> None:
    values = {**{name: 0.1 * n for n, name in enumerate(ARM)}, FINGERS[0]: 0.01, FINGERS[1]: 0.012}
    names = sorted(values) if order == "sorted" else [*FINGERS, *reversed(ARM)]

    def message(k: int) -> Any:
        own = names if order != "two messages" or k % 2 else names[::-1]
        return joint_state(at(k), own, [values[name] for name in own])

    settings = {"joints": {"topic": "/joint_states"}, "gripper_width": {"topic": "/joint_states"}}
    steps = only(mapping(**settings), write_bag(tmp_path / "theirs", good() + every_tick("/joint_states", message)))
    for step in steps:
        np.testing.assert_allclose(step.observation.joint_positions, np.arange(7) * 0.1)
        assert step.observation.gripper_width_m == pytest.approx(0.022)


def number(value: float) -> Any:
    return T["std_msgs/msg/Float64"](data=value)


@pytest.mark.parametrize(("width_m", "before"), [(0.0, -1.0), (0.08, 1.0), (None, 1.0)])
def test_gripper_state_before_the_first_command_is_the_measured_one(
    tmp_path: Path, width_m: float | None, before: float
) -> None:
    """Gripper commands are often published only on change."""
    messages = [*good(), ("/command", at(8.5), number(0.08 - (width_m or 0.0)))]
    settings: dict[str, Any] = {"gripper_action": {"topic": "/command", "open": 0.08, "closed": 0.0}}
    if width_m is not None:
        fingers = [width_m / 2] * 2
        messages += every_tick("/fingers", lambda k: joint_state(at(k), FINGERS, fingers))
        settings["gripper_width"] = {"topic": "/fingers"}
    steps = only(mapping(**settings), write_bag(tmp_path / "theirs", messages))
    after = -1.0 if width_m == 0.08 else 1.0
    np.testing.assert_allclose(executed(steps)[:, 6], [before] * 8 + [after] * 3)


@pytest.mark.parametrize("field", ["position.fr3_finger_joint1", "position.1"])
def test_single_finger_needs_scale_two_for_the_width(tmp_path: Path, field: str) -> None:
    messages = good() + every_tick("/fingers", lambda k: joint_state(at(k), FINGERS, [0.02, 0.02]))
    width = {"topic": "/fingers", "field": field}
    check_refused(
        tmp_path / "half", messages, f"field '{field}' is one of two fingers: .*`scale: 2.0`", gripper_width=width
    )
    bag = write_bag(tmp_path / "theirs", messages)
    steps = only(mapping(gripper_width={**width, "scale": 2.0}), bag)
    assert steps[0].observation.gripper_width_m == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"instruction": "  "}, "instruction: .*must not be empty"),
        ({"instruction": "x" * 2048}, "instruction: .*2048 characters, expected at most 500"),
        ({"instruction": "insert\nit"}, "instruction: .*line break"),
        ({"episodes": [{"to_s": 1.0, "instruction": "a\x00b"}]}, "instruction: .*control character"),
        ({"cameras": {"../x": {"topic": "/image"}}}, "cameras"),
        ({"cameras": {"": {"topic": "/image"}}}, "cameras"),
    ],
)
def test_unusable_text_in_a_mapping_is_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump({**MAPPING, **change}))
    with pytest.raises(UserError, match=text):
        load_mapping(tmp_path / "mapping.yaml")


@pytest.mark.parametrize(
    ("names", "settings", "text"),
    [
        (
            ARM[:6],
            {"joints": {"topic": "/j"}},
            r"topic /j: message 0: joints are 'fr3_joint1', .* expected joint1 to joint7",
        ),
        ([], {"joints": {"topic": "/j"}}, "topic /j: message 0: .*0 joint names"),
        (ARM, {"gripper_width": {"topic": "/j"}}, "topic /j: message 0: joints are .* expected finger_joint1"),
        (
            [*ARM, *FINGERS],
            {"gripper_width": {"topic": "/j", "field": "position.0", "scale": 2.0}},
            "field 'position.0' is joint 'fr3_joint1' of the arm, expected a finger",
        ),
        (ARM, {"joints": {"topic": "/j", "field": "position"}, "wrench": {"topic": "/j"}}, "is not a wrench"),
        (ARM, {"joints": {"topic": "/j", "field": "effort"}}, "field 'effort': joints are positions"),
    ],
)
def test_unmatched_joints_are_refused_by_name(tmp_path: Path, names: list[str], settings: Any, text: str) -> None:
    check_refused(
        tmp_path,
        good() + every_tick("/j", lambda k: joint_state(at(k), names, np.zeros(max(len(names), 7))[: len(names) or 7])),
        text,
        **settings,
    )


def test_field_can_name_a_joint(tmp_path: Path) -> None:
    def message(k: int) -> Any:
        names = ["robotiq_knuckle", "other"] if k % 2 else ["other", "robotiq_knuckle"]
        return joint_state(at(k), names, [0.03, 0.5] if k % 2 else [0.5, 0.03])

    settings = {"gripper_width": {"topic": "/j", "field": "position.robotiq_knuckle", "scale": 2.0}}
    steps = only(mapping(**settings), write_bag(tmp_path / "theirs", good() + every_tick("/j", message)))
    assert [s.observation.gripper_width_m for s in steps] == pytest.approx([0.06] * TICKS)


def in_frame(messages: Messages, topic: str, frame: str) -> Messages:
    for name, _, message in messages:
        if name == topic:
            message.header.frame_id = frame
    return messages


@pytest.mark.parametrize("topic", ["/pose", "/target"])
@pytest.mark.parametrize("frame", ["fr3_hand_tcp", "camera_link", "world", "map"])
def test_pose_in_another_frame_is_refused(tmp_path: Path, topic: str, frame: str) -> None:
    check_refused(
        tmp_path, in_frame(good(), topic, frame), f"topic {topic}: message 0: frame_id is '{frame}', expected the base"
    )


@pytest.mark.parametrize("frame", ["", "fr3_link0", "panda_link0", "robot1/base_link", "base"])
def test_common_names_of_the_base_frame_are_accepted(tmp_path: Path, frame: str) -> None:
    messages = in_frame(in_frame(good(), "/pose", frame), "/target", frame)
    np.testing.assert_allclose(
        executed(only(mapping(), write_bag(tmp_path / "theirs", messages))), trajectory()[1], atol=1e-5
    )


def test_declared_frame_is_accepted(tmp_path: Path) -> None:
    messages = in_frame(good(), "/pose", "table")
    assert only(mapping(pose={"topic": "/pose", "frame_id": "table"}), write_bag(tmp_path / "theirs", messages))
    check_refused(
        tmp_path / "2",
        messages,
        "frame_id is 'table', the mapping says 'desk'",
        pose={"topic": "/pose", "frame_id": "desk"},
    )


def test_transform_of_another_body_is_refused(tmp_path: Path) -> None:
    poses, _ = trajectory()
    messages = [m for m in good() if m[0] != "/pose"] + every_tick(
        "/pose", lambda k: transform(at(k), poses[k], "fr3_link5")
    )
    check_refused(tmp_path, messages, "child_frame_id is 'fr3_link5', expected the tcp frame")
    known = mapping(pose={"topic": "/pose", "child_frame_id": "fr3_link5"})
    assert only(known, write_bag(tmp_path / "again", messages))


@pytest.mark.parametrize(
    ("frame", "declared"), [("base", "tcp"), ("fr3_link0", "tcp"), ("fr3_hand_tcp", "base"), ("ft_sensor", "tcp")]
)
def test_wrench_in_another_frame_is_refused(tmp_path: Path, frame: str, declared: str) -> None:
    messages = good() + every_tick("/wrench", lambda k: wrench(at(k), [1, 2, 3, 0, 0, 0], frame))
    check_refused(
        tmp_path,
        messages,
        f"topic /wrench: message 0: frame_id is '{frame}', expected the {declared} frame",
        wrench={"topic": "/wrench", "frame": declared},
    )


def test_wrench_in_base_axes_is_rotated_to_the_tcp(tmp_path: Path) -> None:
    poses, _ = trajectory()
    messages = good() + every_tick("/wrench", lambda k: wrench(at(k), [1, 2, 3, 0.1, 0, 0], "fr3_link0"))
    steps = only(mapping(wrench={"topic": "/wrench", "frame": "base"}), write_bag(tmp_path / "theirs", messages))
    for step, pose in zip(steps, poses, strict=True):
        expected = [rotation_of(pose).inv().apply(part) for part in ([1, 2, 3], [0.1, 0, 0])]
        np.testing.assert_allclose(step.observation.wrench_tcp, np.concatenate(expected), atol=1e-9)


def test_twist_in_another_frame_is_refused(tmp_path: Path) -> None:
    messages = good() + every_tick("/twist", lambda k: twist(at(k), np.zeros(6), "base"))
    check_refused(
        tmp_path,
        messages,
        "topic /twist: message 0: frame_id is 'base', expected the tcp",
        action={"kind": "twist", "topic": "/twist"},
    )


def shifted(messages: Messages, topic: str, by_s: Callable[[int], float]) -> Messages:
    """Shift the stamps against the log time."""
    moved: Messages = []
    number = 0
    for name, log_ns, message in messages:
        if name == topic:
            stamp = message.header.stamp
            ns = stamp.sec * 10**9 + stamp.nanosec + round(by_s(number) * 1e9)
            message.header.stamp = header(ns).stamp
            number += 1
        moved.append((name, log_ns, message))
    return moved


@pytest.mark.parametrize("topic", ["/image", "/pose", "/target"])
@pytest.mark.parametrize("by_s", [-0.7, -0.15, 0.15, 0.7])
def test_stamps_of_another_clock_are_refused(tmp_path: Path, topic: str, by_s: float) -> None:
    text = r"(recorded -?\d\.\d{3} s after its stamps.*different clocks.*set `offset_s`|do not overlap|nothing for)"
    check_refused(tmp_path, shifted(good(), topic, lambda _: by_s), text)


def test_drifting_clock_is_refused(tmp_path: Path) -> None:
    poses, actions = trajectory()
    messages = targets(poses, actions) + [m for m in observed(poses) if m[0] == "/pose"]
    for k in range(5 * TICKS):
        messages.append(("/image", at(k / 5) + 10 * MS, raw_image(at(k / 5) - k * 8 * MS, picture(k))))
    check_refused(tmp_path, messages, "/image is recorded .* after its stamps, ")


def test_declared_clock_offset_is_accepted(tmp_path: Path) -> None:
    poses, actions = trajectory()
    messages = shifted(good(), "/image", lambda _: -0.3)
    cameras = {"wrist": {"topic": "/image", "size_px": 64, "offset_s": 0.3}}
    steps = only(mapping(cameras=cameras), write_bag(tmp_path / "theirs", messages))
    np.testing.assert_allclose(executed(steps), actions, atol=1e-5)
    np.testing.assert_allclose([s.observation.pose_base_tcp for s in steps], poses, atol=1e-9)
    late = mapping(max_stamp_offset_s=0.5)
    assert only(late, write_bag(tmp_path / "late", messages))


def two_episodes(pause: float, jump_m: float) -> Messages:
    """Return messages of two episodes; the second begins `pause` ticks later at another pose."""
    messages = good()
    poses, actions = trajectory(0)
    away = [poses[-1] + np.array([jump_m, 0, 0, 0, 0, 0, 0])]
    for action in actions:
        away.append(compose_delta(away[-1], action * SCALE))
    begin = TICKS - 1 + pause
    for k, pose in enumerate(away):
        ns = at(begin + k)
        messages += [
            ("/pose", ns + 7 * MS, stamped_pose(ns, pose)),
            ("/image", ns + 30 * MS, raw_image(ns, picture(k))),
        ]
        if k < len(actions):
            target = compose_delta(pose, actions[k] * SCALE)
            messages.append(("/target", at(begin + k + 0.4), stamped_pose(at(begin + k + 0.3), target)))
    return messages


ADVICE = r".*if these are several episodes, cut them \(`episodes` or `cut` in the mapping\)"


def test_several_episodes_in_one_bag_are_refused(tmp_path: Path) -> None:
    check_refused(tmp_path, two_episodes(1, 0.05), rf"topic /pose: the arm jumps .* before step {TICKS}, .*{ADVICE}")
    check_refused(
        tmp_path / "2",
        two_episodes(20, 0.0),
        rf"topic /image: 1 gaps, .* 2 s before step {TICKS}.*several episodes.*{ADVICE}",
    )


def test_time_ranges_become_episodes(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "theirs", two_episodes(1, 0.05))
    given = [
        {"from_s": 0, "to_s": 1.15},
        {"from_s": 1.15, "to_s": 2.4, "success": False, "object": "hdmi", "instruction": "again"},
    ]
    results = import_bag(mapping(episodes=given), bag, tmp_path / "out")
    assert [one.steps for one in results] == [TICKS, TICKS]
    infos = [episode_info(one.path) for one in results]
    assert [(i.success, i.object, i.instruction, i.rate_hz) for i in infos] == [
        (True, "usb", "insert the plug", 10.0),
        (False, "hdmi", "again", 10.0),
    ]
    assert len({i.episode_id for i in infos}) == 2
    np.testing.assert_allclose(executed(read_episode(results[0].path)), trajectory()[1], atol=1e-5)
    second = read_episode(results[1].path)
    np.testing.assert_allclose(executed(second), trajectory()[1], atol=1e-5)
    assert second[0].is_first and second[0].index == 0 and second[-1].truncated


@pytest.mark.parametrize("cut", ["gap", "empty", "bool"])
def test_cuts_become_episodes(tmp_path: Path, cut: str) -> None:
    pause = 20 if cut == "gap" else 3
    messages = two_episodes(pause, 0.2)
    starts = [at(-0.2), at(TICKS - 1 + pause - 0.2)]
    if cut == "empty":
        messages += [("/start", ns, T["std_msgs/msg/Empty"]()) for ns in starts]
    if cut == "bool":
        for begin, end in ((starts[0], at(TICKS - 0.5)), (starts[1], at(2 * TICKS + pause))):
            messages += [("/start", ns, T["std_msgs/msg/Bool"](data=on)) for ns, on in ((begin, True), (end, False))]
    setting: dict[str, Any] = {"gap_s": 1.0} if cut == "gap" else {"topic": "/start"}
    found = read_external(mapping(cut=setting), write_bag(tmp_path / "theirs", messages))
    assert [len(one.steps) for one in found] == [TICKS, TICKS]
    for one in found:
        np.testing.assert_allclose(executed(one.steps), trajectory()[1], atol=1e-5)


def test_faulty_second_episode_leaves_no_bag(tmp_path: Path) -> None:
    given = [{"to_s": 1.15}, {"from_s": 1.15, "to_s": 1.2}]
    check_refused(tmp_path, two_episodes(1, 0.05), "episode 1: ", episodes=given)
    check_refused(
        tmp_path / "2",
        good(),
        r"episodes: from_s 99: the bag ends after 1\.\d+ s",
        episodes=[{"from_s": 99, "to_s": 100}],
    )


def commands(widths: list[float]) -> Messages:
    return [("/width", at(k) + MS, array([width])) for k, width in enumerate(widths)]


@pytest.mark.parametrize(
    ("opened", "closed", "scale"),
    [(0.08, 0.03, 1.0), (0.08, 0.06, 1.0), (0.08, 0.0, 1.0), (0.04, 0.015, 1.0), (0.03, 0.0, 1.0)],
)
def test_width_commands_become_open_and_close(tmp_path: Path, opened: float, closed: float, scale: float) -> None:
    widths = [opened] * 5 + [closed] * 4 + [opened] * (TICKS - 9)
    gripper = {"topic": "/width", "field": "data.0", "open": 0.08, "closed": 0.0}
    steps = only(mapping(gripper_action=gripper), write_bag(tmp_path / "theirs", good() + commands(widths)))
    assert executed(steps)[:, 6].tolist() == [1.0] * 5 + [-1.0] * 4 + [1.0] * (TICKS - 10)


@pytest.mark.parametrize(
    ("widths", "text"),
    [
        ([40.0] * 6 + [0.0] * 6, "topic /width: 0 .. 500 of the way from closed to open, expected 0 .. 1"),
        ([0.04] * 12, "topic /width: stays at 0.5 of the way from closed to open"),
        ([-0.08] * 6 + [0.0] * 6, "topic /width: -1 .. 0 of the way"),
    ],
)
def test_ambiguous_gripper_commands_are_refused(tmp_path: Path, widths: list[float], text: str) -> None:
    gripper = {"topic": "/width", "field": "data.0", "open": 0.08, "closed": 0.0}
    check_refused(tmp_path, good() + commands(widths), re.escape(text), gripper_action=gripper)


def test_gripper_topic_after_the_last_image_is_refused(tmp_path: Path) -> None:
    gripper = {"topic": "/width", "field": "data.0", "open": 0.08, "closed": 0.0}
    late = [("/width", at(900), array([0.08])), ("/width", at(901), array([0.0]))]
    check_refused(tmp_path, good() + late, "topic /width: no message before the last image", gripper_action=gripper)


def test_paused_second_camera_is_refused(tmp_path: Path) -> None:
    messages = good()
    for k in [0, 1, 2, 3, 9, 10, 11]:
        messages.append(("/side", at(k) + 20 * MS, raw_image(at(k), picture(k))))
    cameras = {name: {"topic": topic, "size_px": 64} for name, topic in (("wrist", "/image"), ("side", "/side"))}
    check_refused(tmp_path, messages, r"topic /side: no message for 0\.\d+ s before", cameras=cameras)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "yuv422_yuy2", "uyvy", "bayer_rggb8"])
def test_colour_encodings_are_converted(tmp_path: Path, encoding: str) -> None:
    colour = (150, 150, 150) if encoding == "mono8" else (200, 100, 50)
    rows = encoded(colour, encoding)
    messages = [m for m in good() if m[0] != "/image"]
    for k in range(TICKS):
        image = raw_image(at(k), np.zeros((12, 16, 3), np.uint8), encoding)
        image.data, image.step = rows.reshape(-1), rows.shape[1]
        messages.append(("/image", at(k) + 20 * MS, image))
    cameras = {"wrist": {"topic": "/image", "size_px": 32}}
    steps = only(mapping(cameras=cameras), write_bag(tmp_path / "theirs", messages))
    pixels = decode_jpeg(steps[0].observation.images["wrist"])
    assert np.abs(pixels[4:-4, 4:-4].astype(int) - colour).max() <= 8


@pytest.mark.parametrize("storage", list(StoragePlugin))
@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_compressed_bag_is_imported(tmp_path: Path, storage: StoragePlugin, mode: CompressionMode) -> None:
    if storage is StoragePlugin.MCAP and mode is CompressionMode.MESSAGE:
        pytest.skip("MCAP compresses chunks, not messages")
    writer = Writer(tmp_path / "theirs", version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for topic, log_ns, message in good():
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], log_ns, STORE.serialize_cdr(message, kind))
    np.testing.assert_allclose(executed(only(mapping(), tmp_path / "theirs")), trajectory()[1], atol=1e-5)


def test_split_bag_is_imported(tmp_path: Path) -> None:
    """Import a bag of two files, as written by `ros2 bag record --max-bag-duration`."""
    messages = sorted(good(), key=lambda m: m[1])
    half = len(messages) // 2
    first, second = (
        write_bag(tmp_path / name, part) for name, part in (("a", messages[:half]), ("b", messages[half:]))
    )
    (file,) = second.glob("*.mcap")
    file.rename(first / file.name)
    metadata, other = (yaml.safe_load((bag / "metadata.yaml").read_text()) for bag in (first, second))
    ours, theirs = (each["rosbag2_bagfile_information"] for each in (metadata, other))
    ours["relative_file_paths"] += theirs["relative_file_paths"]
    ours["files"] += theirs["files"]
    ours["message_count"] += theirs["message_count"]
    known = {each["topic_metadata"]["name"] for each in ours["topics_with_message_count"]}
    ours["topics_with_message_count"] += [
        each for each in theirs["topics_with_message_count"] if each["topic_metadata"]["name"] not in known
    ]
    (first / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    np.testing.assert_allclose(executed(only(mapping(), first)), trajectory()[1], atol=1e-5)


def test_many_clipped_actions_are_refused(tmp_path: Path) -> None:
    poses, actions = trajectory()
    for k in (2, 5):
        actions[k] = np.array([3.0, 0, 0, 0, 0, 0])
    messages = observed(poses) + targets(poses, actions)
    check_refused(tmp_path, messages, r"topic /target: the actions of 2 of 11 steps are beyond the scale \(limit 10%\)")


def test_deltas_in_undeclared_axes_are_refused(tmp_path: Path) -> None:
    """The tool points down: base and tcp axes differ in the signs of y and z."""
    down = np.array([1.0, 0, 0, 0])
    messages: Messages = []
    for k in range(TICKS):
        pose = np.concatenate([[0.5, 0.01 * k, 0.3 - 0.01 * k], down])
        messages += observed([pose] * (k + 1))[-2:]
        messages.append(("/delta", at(k + 0.4), array([0, 0.01, -0.01, 0, 0, 0])))
    action = {"kind": "delta", "topic": "/delta", "frame": "base"}
    assert only(mapping(action=action), write_bag(tmp_path / "right", messages))
    check_refused(
        tmp_path,
        messages,
        r"topic /delta: the arm moves against its actions",
        action={**action, "frame": "tcp"},
    )
    small = {**action, "unit_m": 0.1}
    check_refused(
        tmp_path / "2",
        messages,
        "topic /delta: the arm moves 10 times as far as its actions: a wrong unit",
        action=small,
    )


def test_action_topic_outside_the_images_is_refused(tmp_path: Path) -> None:
    messages = [m for m in good() if m[0] != "/target"]
    messages += [("/target", at(500), stamped_pose(at(500), trajectory()[0][0]))]
    check_refused(tmp_path, messages, "topic /target: no message between the first and the last image")


@pytest.mark.parametrize("factor", [1000.0, 100.0])
def test_positions_in_another_unit_are_refused(tmp_path: Path, factor: float) -> None:
    messages = good()
    for name, _, message in messages:
        if name in ("/pose", "/target"):
            point = message.pose.position
            point.x, point.y, point.z = point.x * factor, point.y * factor, point.z * factor
    check_refused(tmp_path, messages, "(m from base|the arm jumps)")


def test_width_in_another_unit_is_refused(tmp_path: Path) -> None:
    messages = good() + every_tick("/width", lambda k: array([40.0]))
    check_refused(tmp_path, messages, "gripper_width_m: 40 m", gripper_width={"topic": "/width", "field": "data.0"})


def test_imported_bag_states_its_rate_and_view(tmp_path: Path) -> None:
    cameras = {"wrist": {"topic": "/image", "size_px": 64, "crop": {"x": 0, "y": 0, "width": 32, "height": 32}}}
    (result,) = import_bag(mapping(cameras=cameras), write_bag(tmp_path / "theirs", good()), tmp_path / "out")
    info = episode_info(result.path)
    assert info.rate_hz == 10.0
    crop = '{"height": 32, "width": 32, "x": 0, "y": 0}'
    assert info.views == f'{{"wrist": {{"crop": {crop}, "height": 64, "image_size": 64, "width": 64}}}}'
