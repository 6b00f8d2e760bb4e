"""`rldg record --topics vendor` and `rldg bag`, as a person uses them: record, look, lose, repair, import again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from rldg_bringup.runner import executable_path
from rldg_data.bags.reading import find_bags, read_episode

DOMAIN = "105"
DEADLINE_S = 100.0
MAPPING = {
    "task": "insertion",
    "object": "vga",
    "instruction": "insert the VGA connector",
    "success": True,
    "source": "scripted",
    "cameras": {"wrist": {"topic": "/camera/camera/color/image_raw", "jpeg_quality": 90}},
    "pose": {"topic": "/franka_robot_state_broadcaster/current_pose"},
    "wrench": {"topic": "/franka_robot_state_broadcaster/external_wrench_in_stiffness_frame"},
    "joints": {"topic": "/franka_robot_state_broadcaster/measured_joint_states"},
    "action": {"kind": "target", "topic": "/target_pose"},
}


def rldg(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command; stdout and stderr as text."""
    return subprocess.run(
        [executable_path("rldg_bringup", "rldg"), *map(str, arguments)],
        env={**os.environ, "ROS_DOMAIN_ID": DOMAIN, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One demonstration with the drivers' topics beside its Steps."""
    folder = tmp_path_factory.mktemp("bags")
    done = rldg("record", "insertion", "--episodes", 1, "--out", folder, "--topics", "vendor", "--json")
    assert done.returncode == 0, done.stderr
    return folder


def test_info_tells_topics_counts_and_rates(bags: Path) -> None:
    (bag,) = find_bags(bags)
    steps = len(read_episode(bag))
    (told,) = json.loads(rldg("bag", "info", bags, "--json").stdout)
    topics = {topic["name"]: topic for topic in told["topics"]}
    assert (topics["/rldg/step"]["messages"], topics["/rldg/step"]["rate_hz"]) == (steps, 10.0)
    # Every frame of the drivers, from the one that the first observation was made of.
    assert topics["/camera/camera/color/image_raw"]["messages"] == steps
    assert topics["/target_pose"]["messages"] == steps - 1
    text = rldg("bag", "info", bag).stdout
    assert "sensor_msgs/msg/Image" in text
    assert "demonstration-0/000000" in text


def test_the_drivers_topics_become_the_same_steps_again(bags: Path, tmp_path: Path) -> None:
    """Our own raw topics as an external bag: what the observer, the gate and the episode manager made of them live."""
    (bag,) = find_bags(bags)
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(yaml.safe_dump(MAPPING))
    done = rldg("bag", "import", mapping, bag, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    live = read_episode(bag)
    again = read_episode(tmp_path / "out" / "episode_000000")
    assert len(again) == len(live)
    for one, other in zip(live, again, strict=True):
        seen, found = one.observation, other.observation
        assert (seen.stamp_ns, seen.images) == (found.stamp_ns, found.images)
        for name in ("pose_base_tcp", "twist_base_tcp", "wrench_tcp", "joint_positions"):
            np.testing.assert_allclose(getattr(found, name), getattr(seen, name), atol=1e-9, err_msg=name)
        np.testing.assert_allclose(other.action.executed, one.action.executed, atol=1e-6)
        assert (one.reward, one.terminated, one.success) == (other.reward, other.terminated, other.success)


def test_a_damaged_bag_is_repaired_and_shown(bags: Path, tmp_path: Path) -> None:
    (bag,) = find_bags(bags)
    damaged = Path(shutil.copytree(bag, tmp_path / "bags" / bag.name))
    (file,) = damaged.glob("*.mcap")
    os.truncate(file, file.stat().st_size // 2)
    refused = rldg("bag", "show", damaged)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f"{file}: truncated or corrupt" in refused.stderr
    report = json.loads(rldg("bag", "repair", tmp_path / "bags", "--json").stdout)
    (repaired,) = report["repaired"]
    assert repaired["complete"] is False
    assert 0 < repaired["steps"] < len(read_episode(bag))
    assert "nothing to repair" in rldg("bag", "repair", damaged).stderr
    shown = rldg("bag", "show", damaged, "--out", tmp_path / "a.png")
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_lint_finds_nothing_in_what_the_recorder_wrote_and_its_exit_code_tells(bags: Path, tmp_path: Path) -> None:
    (bag,) = find_bags(bags)
    good = rldg("bag", "lint", bags, bag, "--json")
    assert (good.returncode, json.loads(good.stdout)["findings"]) == (0, [])
    copy = Path(shutil.copytree(bag, tmp_path / bag.name))
    (copy / "metadata.yaml").write_text((copy / "metadata.yaml").read_text().replace("success: 'true'", "success: no"))
    (file,) = copy.glob("*.mcap")
    os.truncate(file, file.stat().st_size // 2)
    bad = rldg("bag", "lint", copy)
    assert bad.returncode == 1
    assert f"error: damaged: {bag.name}: {file.name}: no index at its end" in bad.stdout
    assert rldg("bag", "lint", tmp_path / "nowhere").returncode == 2


def test_megabytes_of_text_are_cut_on_the_terminal(bags: Path, tmp_path: Path) -> None:
    (bag,) = find_bags(bags)
    copy = Path(shutil.copytree(bag, tmp_path / bag.name))
    text = (copy / "metadata.yaml").read_text()
    (copy / "metadata.yaml").write_text(text.replace("object: vga", f"object: {'x' * 900_000}"))
    for arguments in (["info", copy], ["info", tmp_path], ["lint", copy]):
        done = rldg("bag", *arguments)
        assert "x" * 100 in done.stdout + done.stderr or arguments[0] == "lint", done.stderr
        assert len(done.stdout + done.stderr) < 40_000


def test_whatever_a_bag_says_is_printed_as_it_stands(bags: Path, tmp_path: Path) -> None:
    (bag,) = find_bags(bags)
    for number in range(2):
        copy = Path(shutil.copytree(bag, tmp_path / f"episode_00000{number}"))
        text = (copy / "metadata.yaml").read_text()
        (copy / "metadata.yaml").write_text(text.replace("object: vga", 'object: "[/b]\\e[31m"'))
    for arguments in ([tmp_path], [tmp_path / "episode_000000"]):
        done = rldg("bag", "info", *arguments)
        assert done.returncode == 0, done.stderr
        assert "[/b]" in done.stdout
        assert "\x1b[31m" not in done.stdout


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    for arguments in (
        ("bag", "info", tmp_path / "nowhere"),
        ("bag", "show", tmp_path),
        ("bag", "repair", tmp_path),
        ("bag", "import", tmp_path / "a.yaml", tmp_path, "--out", tmp_path / "out"),
    ):
        done = rldg(*arguments)
        assert done.returncode == 2
        assert done.stderr.strip().count("\n") == 0, done.stderr
        assert done.stderr.startswith("rldg: ")
