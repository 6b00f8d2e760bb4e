"""External bags: every kind of action, clocks and rates, and refusal of what does not match the mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer

from rldg_core.errors import UserError
from rldg_core.frames import rotation_of
from rldg_core.image_codec import decode_jpeg, encode_jpeg
from rldg_core.types import Source
from rldg_data.bags.reading import episode_info, read_episode
from rldg_data.bags.summary import summarize
from rldg_data.external.importing import import_bag, load_mapping
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
    compressed,
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


@pytest.mark.parametrize(
    ("storage", "delay"), [(StoragePlugin.MCAP, 0.3), (StoragePlugin.SQLITE3, 0.3), (StoragePlugin.MCAP, 0.0)]
)
def test_targets_become_the_actions_that_led_to_them(tmp_path: Path, storage: StoragePlugin, delay: float) -> None:
    """With delay 0, targets carry the stamp of the observation they answer, as in our own bags."""
    poses, actions = trajectory()
    bag = write_bag(tmp_path / "theirs", observed(poses) + targets(poses, actions, delay), storage)
    counts = {topic.name: topic.messages for topic in summarize(bag).topics}
    assert counts == {"/pose": TICKS, "/image": TICKS, "/target": TICKS - 1}
    (result,) = import_bag(mapping(), bag, tmp_path / "out")
    assert (result.steps, result.clipped, result.repeated) == (TICKS, 0, 0)
    steps = read_episode(result.path)
    np.testing.assert_allclose(executed(steps), actions, atol=1e-5)
    np.testing.assert_allclose([s.observation.pose_base_tcp for s in steps], poses, atol=1e-9)
    assert [s.observation.stamp_ns for s in steps] == [at(k) for k in range(TICKS)]
    for k, step in enumerate(steps):
        image = decode_jpeg(step.observation.images["wrist"])
        assert np.abs(image.astype(int) - picture(k)).max() < 6
    assert [s.reward for s in steps] == [0.0] * (TICKS - 2) + [1.0, 0.0]
    assert (steps[-2].terminated, steps[-1].terminated, steps[-1].success, steps[-1].is_last) == (True,) * 4
    assert steps[0].action.source == Source.HUMAN
    moved = poses[1][:3] - poses[0][:3]
    np.testing.assert_allclose(steps[1].observation.twist_base_tcp[:3], moved / 0.1, atol=1e-6)
    info = episode_info(result.path)
    assert (info.task, info.object, info.success, info.source, info.steps) == (
        "insertion",
        "usb",
        True,
        "human",
        TICKS - 1,
    )
    assert info.action_scale_m == 0.015


@pytest.mark.parametrize("frame", ["tcp", "base"])
def test_twists_are_averaged_over_a_step(tmp_path: Path, frame: str) -> None:
    poses, actions = trajectory()
    messages = observed(poses)
    for k, action in enumerate(actions):
        for part, share in ((0.2, 0.5), (0.7, 1.5)):
            velocity = action * SCALE / 0.1 * share
            if frame == "base":
                velocity = np.concatenate([rotation_of(poses[k]).apply(v) for v in (velocity[:3], velocity[3:])])
            messages.append(("/twist", at(k + part), twist(at(k + part), velocity, frame)))
    bag = write_bag(tmp_path / "theirs", messages)
    steps = only(mapping(action={"kind": "twist", "topic": "/twist", "frame": frame}), bag)
    np.testing.assert_allclose(executed(steps), actions, atol=1e-5)


def test_arrays_without_header_are_aligned_to_the_header_clock(tmp_path: Path) -> None:
    """The drivers stamp in simulated time, hours away from the recorder's clock."""
    poses, actions = trajectory()
    hours = 5 * 3600 * 10**9
    messages = [(topic, log_ns + hours, message) for topic, log_ns, message in observed(poses)]
    for k, action in enumerate(actions):
        values = [9.0, *(action * SCALE * 1000), 0.02 if k > 5 else 0.08]
        messages.append(("/teleop", at(k + 0.6) + hours, array(values)))
    changes = {
        "action": {"kind": "delta", "topic": "/teleop", "first": 1, "unit_m": 1e-3, "unit_rad": 1e-3},
        "gripper_action": {"topic": "/teleop", "field": "data.7", "open": 0.08, "closed": 0.02},
    }
    steps = only(mapping(**changes), write_bag(tmp_path / "theirs", messages))
    got = executed(steps)
    np.testing.assert_allclose(got[:, :6], actions, atol=1e-4)
    np.testing.assert_allclose(got[:, 6], [1.0] * 6 + [-1.0] * 5, atol=1e-5)


def test_optional_topics_and_field_paths_are_read(tmp_path: Path) -> None:
    poses, actions = trajectory()
    messages = targets(poses, actions)
    jpegs = [encode_jpeg(picture(k)) for k in range(TICKS)]
    for k, pose in enumerate(poses):
        joints = T["sensor_msgs/msg/JointState"](
            header=header(at(k)),
            name=["fr3_finger_joint1", *(f"fr3_joint{n}" for n in range(7, 0, -1))],
            position=np.array([0.02, *(np.arange(6.0, -1.0, -1.0) / 7 + k * 0.1)]),
            velocity=np.empty(0),
            effort=np.full(8, 0.5),
        )
        force = T["geometry_msgs/msg/Wrench"](force=vector([1, 2, k]), torque=vector([0, 0, 0.1]))
        wrench = T["geometry_msgs/msg/WrenchStamped"](header=header(at(k), "fr3_hand_tcp"), wrench=force)
        messages += [
            ("/joints", at(k), joints),
            ("/wrench", at(k), wrench),
            ("/tf_of_tool", at(k), transform(at(k), pose)),
            ("/camera", at(k), compressed(at(k), jpegs[k])),
        ]
    changes = {
        "cameras": {"side": {"topic": "/camera", "size_px": 64}},
        "pose": {"topic": "/tf_of_tool"},
        "joints": {"topic": "/joints"},
        "wrench": {"topic": "/wrench"},
        "gripper_width": {"topic": "/joints", "field": "effort.0", "scale": 0.1},
        "success": False,
        "source": "policy",
    }
    steps = only(mapping(**changes), write_bag(tmp_path / "theirs", messages))
    assert [s.observation.images["side"] for s in steps] == jpegs  # already of the right size: stored unchanged
    np.testing.assert_allclose(steps[3].observation.joint_positions, np.arange(7.0) / 7 + 0.3)
    np.testing.assert_allclose(steps[3].observation.wrench_tcp, [1, 2, 3, 0, 0, 0.1])
    assert steps[3].observation.gripper_width_m == pytest.approx(0.05)
    np.testing.assert_allclose(executed(steps), actions, atol=1e-5)
    assert (steps[-1].success, steps[-1].truncated, steps[-2].truncated, steps[-1].terminated) == (
        False,
        True,
        True,
        False,
    )


def test_fast_camera_is_subsampled_and_messages_are_sorted(tmp_path: Path) -> None:
    poses, actions = trajectory()
    messages = targets(poses, actions) + [m for m in observed(poses) if m[0] == "/pose"]
    for k in range(3 * TICKS - 2):
        messages.append(("/image", at(k / 3), raw_image(at(k / 3), picture(k))))
    rng = np.random.default_rng(0)
    late = [(topic, log_ns + int(rng.integers(0, 90 * MS)), message) for topic, log_ns, message in messages]
    shuffled = [late[i] for i in rng.permutation(len(late))]
    steps = only(mapping(), write_bag(tmp_path / "theirs", shuffled))
    np.testing.assert_allclose(executed(steps), actions, atol=1e-5)
    colours = [int(decode_jpeg(s.observation.images["wrist"])[..., 0].mean().round()) for s in steps]
    np.testing.assert_allclose(colours, [k * 15 % 256 for k in range(TICKS)], atol=4)


def test_topics_of_unknown_types_are_ignored(tmp_path: Path) -> None:
    """rosbag2 stores service events with the definition of the service instead of a message."""
    poses, actions = trajectory()
    kind, definition = "example_interfaces/srv/AddTwoInts_Event", "int64 a\n---\nint64 sum\n"
    with Writer(tmp_path / "theirs", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        odd = writer.add_connection("/add/_service_event", kind, msgdef=definition, rihs01="x")
        writer.write(odd, at(0), b"\0\1\0\0")
        connections: dict[str, Any] = {}
        for topic, log_ns, message in observed(poses) + targets(poses, actions):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=STORE)
            writer.write(connections[topic], log_ns, STORE.serialize_cdr(message, message.__msgtype__))
    steps = only(mapping(), tmp_path / "theirs")
    np.testing.assert_allclose(executed(steps), actions, atol=1e-5)


def test_large_actions_are_clipped_and_counted(tmp_path: Path) -> None:
    poses, actions = trajectory()
    actions[4] = np.array([3.0, 0, 0, 0, 0, 0])
    bag = write_bag(tmp_path / "theirs", observed(poses) + targets(poses, actions))
    (result,) = import_bag(mapping(), bag, tmp_path / "out")
    assert result.clipped == 1
    step = read_episode(result.path)[4]
    assert step.action.action_clipped
    np.testing.assert_allclose(step.action.executed, [1, 0, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(step.action.requested, [3, 0, 0, 0, 0, 0], atol=1e-5)


def nan_pose(messages: Messages) -> Messages:
    return [*messages, ("/pose", at(4.5), stamped_pose(at(4.5), [np.nan, 0, 0, 0, 0, 0, 1]))]


def depth_png(messages: Messages) -> Messages:
    png = cv2.imencode(".png", np.zeros((64, 64), np.uint16))[1].tobytes()
    return [m if m[0] != "/image" else ("/image", m[1], compressed(m[1] - 30 * MS, png, "png")) for m in messages]


def corrupt_jpeg(messages: Messages) -> Messages:
    return [m if m[0] != "/image" else ("/image", m[1], compressed(m[1] - 30 * MS, b"\xff\xd8no")) for m in messages]


def raw_16_bit(messages: Messages) -> Messages:
    return [m if m[0] != "/image" else ("/image", m[1], raw_image(m[1], picture(1), "16UC1")) for m in messages]


def pose_gap(messages: Messages) -> Messages:
    return [m for m in messages if m[0] != "/pose" or not at(4) <= m[1] <= at(8)]


def late_pose(messages: Messages) -> Messages:
    return [
        m if m[0] != "/pose" else ("/pose", m[1], stamped_pose(m[1] + 10**12, [0, 0, 0, 0, 0, 0, 1])) for m in messages
    ]


def unchanged(messages: Messages) -> Messages:
    return messages


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (nan_pose, {}, r"topic /pose: message \d+: .*nan.* is not finite"),
        (depth_png, {}, r"topic /image: message \d+: a PNG of 16 bits"),
        (corrupt_jpeg, {}, r"topic /image: message \d+: a truncated or corrupt JPEG"),
        (raw_16_bit, {}, r"topic /image: message \d+: image encoding is '16UC1', expected one of rgb8"),
        (pose_gap, {}, r"topic /pose: no message for 0\.\d+ s before \d+, max_age_s is 0\.200"),
        (late_pose, {}, "topics do not overlap in time: /pose"),
        (
            unchanged,
            {"pose": {"topic": "/nothing"}},
            "topic /nothing: not in the bag, which has /image, /pose, /target",
        ),
        (unchanged, {"pose": {"topic": "/image"}}, "topic /image: message 0: .* is not a pose"),
        (unchanged, {"pose": {"topic": "/pose", "field": "pose.x.1"}}, "field 'pose.x.1': .* has no 'x'"),
        (unchanged, {"rate_hz": 50}, r"topic /image: 10\.00 frames per second, rate_hz is 50"),
        (unchanged, {"action": {"kind": "twist", "topic": "/target"}}, "message 0: .* is not a twist"),
        (unchanged, {"action": {"kind": "delta", "topic": "/target"}}, "message 0: .* is not an array"),
        (unchanged, {"cameras": {"a": {"topic": "/pose"}}}, "topic /pose: message 0: .* is not an image"),
        (
            unchanged,
            {"cameras": {"a": {"topic": "/image", "crop": {"x": 0, "y": 0, "width": 90, "height": 9}}}},
            "exceeds the 64x64",
        ),
    ],
)
def test_mismatch_with_the_mapping_is_refused(
    tmp_path: Path, change: Any, settings: dict[str, Any], message: str
) -> None:
    poses, actions = trajectory()
    bag = write_bag(tmp_path / "theirs", change(observed(poses) + targets(poses, actions)))
    with pytest.raises(UserError, match=message) as caught:
        import_bag(mapping(**settings), bag, tmp_path / "out")
    assert str(caught.value).startswith(f"{bag}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_damaged_bag_is_refused(tmp_path: Path) -> None:
    poses, actions = trajectory()
    bag = write_bag(tmp_path / "theirs", observed(poses) + targets(poses, actions))
    (file,) = bag.glob("*.mcap")
    content = file.read_bytes()
    for damaged in (b"", content[:100], content[: len(content) // 2], content[:-30]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="not a readable bag: ") as caught:
            import_bag(mapping(), bag, tmp_path / "out")
        assert "\n" not in str(caught.value)
    (bag / "metadata.yaml").unlink()
    with pytest.raises(UserError, match="not a readable bag"):
        import_bag(mapping(), bag, tmp_path / "out")
    with pytest.raises(UserError, match="no such bag"):
        import_bag(mapping(), tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": ""}, "task: "),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"cameras": {}}, "cameras: "),
        ({"cameras": {"wrist": {"topic": "no topic"}}}, r"cameras\.wrist\.topic: "),
        ({"action": {"kind": "dance", "topic": "/a"}}, "action: "),
        ({"pose": {"topic": "/pose", "field": "a..b"}}, r"pose\.field: "),
        (
            {"cameras": {"wrist": {"topic": "/image"}, "side": {"topic": "image"}}},
            "cameras: side and wrist are both topic /image",
        ),
        ({"action": {"kind": "target", "topic": "/pose"}}, "action: topic /pose is the measured pose"),
        ({"object": " "}, "object: must not be empty"),
        ({"rate_hz": 0}, "rate_hz: "),
        ({"success": "perhaps"}, "success: "),
        ({"gripper_action": {"topic": "/a", "open": 1, "closed": 1}}, "gripper_action: open and closed must differ"),
    ],
)
def test_invalid_mapping_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "mapping.yaml"
    file.write_text(yaml.safe_dump({**MAPPING, **change}))
    with pytest.raises(UserError, match=message) as caught:
        load_mapping(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
