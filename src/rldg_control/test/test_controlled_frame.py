"""The frame that the controller moves compared with the measured one, with the geometry of an FR3's URDF."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rldg_control.controlled_frame import frame_fault, frame_pose
from rldg_core.frames import compose_delta


def test_ready_pose_of_a_franka_is_the_published_one(fr3: Any) -> None:
    computed = frame_pose(fr3.urdf, "fr3_hand_tcp", fr3.ready_q)
    np.testing.assert_allclose(computed[:3], fr3.ready_pose[:3], atol=1e-3)
    assert frame_fault(fr3.ready_pose, computed, "fr3_hand_tcp") == ""


def test_other_end_effector_is_reported_with_the_difference(fr3: Any) -> None:
    fault = frame_fault(fr3.ready_pose, frame_pose(fr3.urdf, "fr3_hand", fr3.ready_q), "fr3_hand")
    assert fault.startswith(
        "the measured pose is not that of the controller's end_effector_frame fr3_hand: 103.4 mm and 0.000 rad apart"
    )
    turned = frame_fault(fr3.ready_pose, frame_pose(fr3.urdf, "fr3_link8", fr3.ready_q), "fr3_link8")
    assert "103.4 mm and 0.785 rad apart" in turned
    longer = compose_delta(fr3.ready_pose, [0, 0, 0.045, 0, 0, 0])
    assert "45.0 mm" in frame_fault(longer, frame_pose(fr3.urdf, "fr3_hand_tcp", fr3.ready_q), "fr3_hand_tcp")


@pytest.mark.parametrize(
    ("found", "replacement", "frame", "joint_count", "line"),
    [
        ("</robot>", "", "fr3_hand", 7, "robot_description is not valid XML"),
        ("", "", "panda_hand_tcp", 7, "robot_description: 0 joints move frame 'panda_hand_tcp', expected the 7"),
        ("", "", "fr3_link4", 7, "robot_description: 4 joints move frame 'fr3_link4', expected the 7"),
        ("", "", "fr3_hand_tcp", 0, "0 joint positions, expected 7"),
        ("0 0 0.333", "0 0 nan", "fr3_hand", 7, "robot_description: xyz='0 0 nan'"),
        ("0 0 0.333", "0 x 1", "fr3_hand", 7, "could not convert string to float"),
    ],
)
def test_unusable_robot_description_raises_value_error(
    fr3: Any, found: str, replacement: str, frame: str, joint_count: int, line: str
) -> None:
    urdf = fr3.urdf.replace(found, replacement) if found else fr3.urdf
    with pytest.raises(ValueError, match=r"XML|expected|could not") as error:
        frame_pose(urdf, frame, fr3.ready_q[:joint_count])
    assert str(error.value).startswith(line)
