"""The teleop node as a process: SpaceMouse messages become `teleop_action`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import Twist
from sensor_msgs.msg import Joy

from rldg_msgs.msg import TeleopAction
from rldg_ros import to_msg

DOMAIN = 36


def test_teleop_forwards_a_twist_stream_and_reports_silence(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(DOMAIN)
    statuses = rig.record_statuses()
    twist_out = rig.bench.create_publisher(Twist, "/spacenav/twist", 10)
    joy_out = rig.bench.create_publisher(Joy, "/spacenav/joy", 10)
    process = rig.start("teleop", override_button=0)
    rig.until(lambda: len(rig.bench.teleop) > 2, what="teleop_action at the control rate")
    assert not any(t.active for t in rig.bench.teleop)
    for value in [0.0, 0.003, 0.2, 0.4, -2.0]:  # a recorded stream
        twist_out.publish(to_msg.twist([value, 0, 0, 0, 0, 0]))
        wanted, is_active = np.float32(max(value, -1.0) if value != 0.003 else 0.0), abs(value) > 0.02
        rig.until(
            lambda w=wanted, a=is_active: rig.bench.teleop[-1].active is a and rig.bench.teleop[-1].action[0] == w,
            2.0,
            f"twist {value}",
        )
    assert rig.bench.teleop[-1].source == TeleopAction.HUMAN
    rig.until(lambda: not rig.bench.teleop[-1].active, 2.0, "a silent driver counts as still")
    joy_out.publish(Joy(buttons=[1, 0]))
    rig.until(lambda: rig.bench.teleop[-1].active, 2.0, "override button")
    rig.until(lambda: not rig.bench.teleop[-1].active, 2.0, "a driver that ended holds no button")
    expected = "/spacenav/twist: no messages: is spacenavd running?"
    rig.until(lambda: statuses.newest("teleop") == expected, 5.0, expected)
    assert rig.end(process)[0] == 0
