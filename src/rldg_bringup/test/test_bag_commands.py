"""`rldg record --topics vendor` and `rldg bag`: record, inspect, damage, repair and import a bag."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from rldg_data.bags.reading import find_bags, read_episode

DOMAIN = 105
DEADLINE_S = 100.0

Rldg = Callable[..., subprocess.CompletedProcess[str]]

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


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory, start_rldg: Callable[..., psutil.Popen]) -> Path:
    """Record one demonstration with vendor topics and Steps."""
    folder = tmp_path_factory.mktemp("bags")
    process = start_rldg("record", "insertion", "--episodes", 1, "--out", folder, "--topics", "vendor", "--json")
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    return folder


def test_info_states_topics_counts_and_rates(rldg: Rldg, bags: Path) -> None:
    (bag,) = find_bags(bags)
    steps = len(read_episode(bag))
    (summary,) = json.loads(rldg("bag", "info", bags, "--json").stdout)
    topics = {topic["name"]: topic for topic in summary["topics"]}
    assert (topics["/rldg/step"]["messages"], topics["/rldg/step"]["rate_hz"]) == (steps, 10.0)
    # Every frame of the drivers from the one used in the first observation.
    assert topics["/camera/camera/color/image_raw"]["messages"] == steps
    assert topics["/target_pose"]["messages"] == steps - 1
    text = rldg("bag", "info", bag).stdout
    assert "sensor_msgs/msg/Image" in text
    assert "demonstration-0/000000" in text


def test_cost_shows_force_time_path_and_score(rldg: Rldg, bags: Path) -> None:
    (bag,) = find_bags(bags)
    steps = read_episode(bag)
    (cost,) = json.loads(rldg("bag", "cost", bags, "--json").stdout)
    assert cost["duration_s"] == pytest.approx((len(steps) - 1) * 0.1)
    assert cost["peak_force_n"] == max(np.linalg.norm(step.observation.wrench_tcp[:3]) for step in steps)
    assert cost["success"] and 75.0 < cost["score"] < 99.0
    table = rldg("bag", "cost", bag).stdout
    assert f"{cost['score']:.2f}" in table and "1/1" in table


def test_imported_driver_topics_give_the_recorded_steps(rldg: Rldg, bags: Path, tmp_path: Path) -> None:
    """Import the recorded vendor topics as an external bag; the Steps equal those of the nodes."""
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


def test_damaged_bag_is_repaired_and_shown(rldg: Rldg, bags: Path, tmp_path: Path) -> None:
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


def test_lint_of_a_recorded_bag_has_no_findings_and_sets_the_exit_code(rldg: Rldg, bags: Path, tmp_path: Path) -> None:
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


def test_long_text_is_shortened_on_the_terminal(rldg: Rldg, bags: Path, tmp_path: Path) -> None:
    (bag,) = find_bags(bags)
    copy = Path(shutil.copytree(bag, tmp_path / bag.name))
    text = (copy / "metadata.yaml").read_text()
    (copy / "metadata.yaml").write_text(text.replace("object: vga", f"object: {'x' * 900_000}"))
    for arguments in (["info", copy], ["info", tmp_path], ["lint", copy]):
        done = rldg("bag", *arguments)
        assert "x" * 100 in done.stdout + done.stderr or arguments[0] == "lint", done.stderr
        assert len(done.stdout + done.stderr) < 40_000


def test_markup_in_a_bag_is_printed_literally(rldg: Rldg, bags: Path, tmp_path: Path) -> None:
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


def test_bad_input_is_refused(rldg: Rldg, tmp_path: Path) -> None:
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
