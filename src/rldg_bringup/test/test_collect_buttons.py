"""`rldg classifier collect` reads the success button in its namespace while the driver publishes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rldg_bringup.cli import app

DOMAIN = 206
RATE_HZ, PRESSED_FRAMES, FRAMES = 20, 20, 60
SENDER = f"""
import rclpy
from sensor_msgs.msg import CompressedImage, Joy
from rldg_msgs.msg import Observation
from rldg_ros import to_msg
rclpy.init()
node = rclpy.create_node("observer", namespace="/robot1/rldg")
joy = node.create_publisher(Joy, "/robot1/spacenav/joy", 10)
seen = node.create_publisher(Observation, "/robot1/rldg/observation", 10)
while not (joy.get_subscription_count() and seen.get_subscription_count()):
    rclpy.spin_once(node, timeout_sec=0.01)
frames = iter(range({FRAMES}))
def send():
    k = next(frames, None)
    if k is None:
        return  # the observer goes on living: its end would end the command
    if k < {PRESSED_FRAMES}:
        joy.publish(Joy(buttons=[1]))
    image = CompressedImage(format="jpeg", data=b"x")
    seen.publish(Observation(header=to_msg.header(k + 1), camera_names=["wrist"], images=[image]))
node.create_timer(1 / {RATE_HZ}, send)
rclpy.spin(node)
"""


def test_stopped_driver_with_the_button_pressed_marks_no_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    sender = subprocess.Popen([sys.executable, "-c", SENDER])
    try:
        arguments = ["--out", str(tmp_path), "--namespace", "robot1", "--margin", "0", "--seconds", "6"]
        result = CliRunner().invoke(app, ["classifier", "collect", "insertion", *arguments])
        assert result.exit_code == 0, result.output
    finally:
        sender.kill()
        sender.wait()
    frames = {kind: sorted(int(p.stem.rpartition("~")[2].rpartition("_")[2]) for p in (tmp_path / kind).iterdir())
              for kind in ("positive", "negative")}  # fmt: skip
    assert len(frames["positive"]) > PRESSED_FRAMES / 2
    # The button counts as held for 0.5 s after its last message; the rest is tolerance for a busy machine.
    assert max(frames["positive"]) < PRESSED_FRAMES + 1.2 * RATE_HZ
    assert max(frames["negative"]) > FRAMES - 5
