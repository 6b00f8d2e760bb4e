"""Smoke test of all stages: `rldg demo --quick` in real processes."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from rldg_bringup.runner import executable_path

DOMAIN = 61


@pytest.mark.timeout(400)
def test_quick_demo_runs_and_resumes(tmp_path: Path) -> None:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)}
    command = [str(executable_path("rldg_bringup", "rldg")), "demo", "--quick", "--out", str(tmp_path), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert json.loads(done.stdout) == report
    assert all(stage["wall_s"] >= 0 for stage in report["stages"])
    assert len(report["stages"]) == 11
    assert report["specialist"]["episodes"] == 1
    for name in ("scripted", "rldg"):
        for group in ("seen", "unseen"):
            assert report["generalists"][name][group]["episodes"] == 1
            assert 0 <= report["generalists"][name][group]["success"] <= 1
    assert report["swap"]["attempts"] == report["swap"]["confirmed"] == 4
    assert report["training"]["updates"] > 0
    for name in ("success_rate", "learning_curve", "actions"):
        with Image.open(tmp_path / "plots" / f"{name}.png") as image:
            assert image.width > 300
    for policy in ("specialist", "scripted", "rldg"):
        for camera in ("wrist", "scene"):
            with Image.open(tmp_path / "media" / f"{policy}_{camera}.gif") as gif:
                assert gif.n_frames > 5
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0
    assert all(stage["resumed"] for stage in json.loads(again.stdout)["stages"])
