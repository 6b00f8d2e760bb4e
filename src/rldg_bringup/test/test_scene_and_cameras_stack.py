"""A scene of another distribution with two cameras end to end: `rldg record`, the environment, both exports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from rldg_core.scenes import scene_class
from rldg_core.task import load_task
from rldg_data.bags.reading import find_bags, read_episode
from rldg_sim.env import CellEnv

DOMAIN = 144
EXAMPLE = Path(__file__).parents[3] / "examples" / "touch_scene"
SIDE = {
    "topic": "side/color/image_raw",
    "width": 96,
    "height": 64,
    "crop": {"x": 16, "y": 0, "width": 64, "height": 64},
    "image_size": 64,
    "mount": {"position_base_m": [0.9, 0.4, 0.35], "aim_base_m": [0.5, 0.0, 0.05]},
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the installed example, on the path of this process and its children."""
    folder = tmp_path / "site"
    info = folder / "touch_scene-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(EXAMPLE / "touch_scene.py", folder)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: touch-scene\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rldg.scenes]\ntouch = touch_scene:TouchScene\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    scene_class.cache_clear()
    return folder


def rldg(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)}
    done = subprocess.run(["rldg", *arguments], env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return done


def test_new_scene_with_two_cameras_is_recorded_and_exported(site: Path, tmp_path: Path) -> None:
    description = yaml.safe_load((EXAMPLE / "touch.yaml").read_text())
    description["cameras"]["side"] = SIDE
    file = tmp_path / "touch.yaml"
    file.write_text(yaml.safe_dump(description, sort_keys=False))
    bags = tmp_path / "bags"
    done = rldg("record", str(file), "--out", str(bags), "--episodes", "1", "--seed", "3", "--json")
    assert json.loads(done.stdout)["episodes"] == 1

    # The bag equals the environment bit for bit.
    env = CellEnv(load_task(file), day=3)
    (bag,) = find_bags(bags)
    steps = read_episode(bag)
    env.reset(seed=steps[0].seed)
    for step in steps[:-1]:
        seen = env.observation
        assert list(step.observation.images) == ["wrist", "side"]
        assert dict(step.observation.images) == dict(seen.images)
        np.testing.assert_array_equal(step.observation.pose_base_tcp, seen.pose_base_tcp)
        np.testing.assert_array_equal(step.observation.twist_base_tcp, seen.twist_base_tcp)
        *_, info = env.step(step.action.requested)
        np.testing.assert_array_equal(step.action.executed, info["executed"])
    assert env.frame.success == steps[-1].success
    env.close()

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: touch\nsources: [{bags: [bags]}]\ncameras: {image: wrist, side: side}\nfilter: {success: null}\n"
    )
    for format_, folder in (("rlds", "features.json"), ("lerobot", "meta/info.json")):
        root = tmp_path / format_
        rldg("export", str(recipe), "--format", format_, "--out", str(root))
        (description_file,) = root.rglob(folder)
        if format_ == "rlds":
            rldg("dataset", "lint", str(description_file.parent))
        assert '"side"' in description_file.read_text() or "images.side" in description_file.read_text()


def test_two_cameras_without_a_mount_are_refused_before_the_start(tmp_path: Path) -> None:
    description = yaml.safe_load((EXAMPLE / "touch.yaml").read_text())
    description["scene"] = {"kind": "connector"}
    description["cameras"]["other"] = {"topic": "other/image"}
    file = tmp_path / "touch.yaml"
    file.write_text(yaml.safe_dump(description, sort_keys=False))
    done = subprocess.run(["rldg", "up", "insertion", f"task:={file}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "cameras.other: has no mount, and the simulated wrist carries wrist already" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
