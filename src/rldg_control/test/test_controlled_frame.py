"""The frame that the controller moves against the one that is measured, with the geometry of an FR3's URDF."""

from __future__ import annotations

import numpy as np
import pytest
from fr3_urdf import FR3_URDF, READY_POSE, READY_Q

from rldg_control.controlled_frame import frame_fault, frame_pose
from rldg_core.frames import compose_delta


def test_the_ready_pose_of_a_franka_is_where_franka_says() -> None:
    np.testing.assert_allclose(frame_pose(FR3_URDF, "fr3_hand_tcp", READY_Q)[:3], READY_POSE[:3], atol=1e-3)
    assert frame_fault(READY_POSE, frame_pose(FR3_URDF, "fr3_hand_tcp", READY_Q), "fr3_hand_tcp") == ""


def test_another_end_effector_is_named_with_the_difference() -> None:
    fault = frame_fault(READY_POSE, frame_pose(FR3_URDF, "fr3_hand", READY_Q), "fr3_hand")
    assert fault.startswith(
        "the measured pose is not that of the controller's end_effector_frame fr3_hand: 103.4 mm and 0.000 rad apart"
    )
    turned = frame_fault(READY_POSE, frame_pose(FR3_URDF, "fr3_link8", READY_Q), "fr3_link8")
    assert "103.4 mm and 0.785 rad apart" in turned
    longer = compose_delta(READY_POSE, [0, 0, 0.045, 0, 0, 0])
    assert "45.0 mm" in frame_fault(longer, frame_pose(FR3_URDF, "fr3_hand_tcp", READY_Q), "fr3_hand_tcp")


@pytest.mark.parametrize(
    ("urdf", "frame", "joints", "line"),
    [
        ("<robot", "fr3_hand", READY_Q, "robot_description is no XML"),
        (
            FR3_URDF,
            "panda_hand_tcp",
            READY_Q,
            "robot_description: 0 joints move frame 'panda_hand_tcp', expected the 7",
        ),
        (FR3_URDF, "fr3_link4", READY_Q, "robot_description: 4 joints move frame 'fr3_link4', expected the 7"),
        (FR3_URDF, "fr3_hand_tcp", [], "0 joint positions, expected 7"),
        (
            FR3_URDF.replace("0 0 0.333", "0 0 nan"),
            "fr3_hand",
            READY_Q,
            "robot_description: xyz='0 0 nan'",
        ),
        (FR3_URDF.replace("0 0 0.333", "0 x 1"), "fr3_hand", READY_Q, "could not convert string to float"),
    ],
)
def test_what_cannot_be_compared_is_one_line(urdf: str, frame: str, joints: list[float], line: str) -> None:
    with pytest.raises(ValueError, match=r"XML|expected|could not") as error:
        frame_pose(urdf, frame, joints)
    assert str(error.value).startswith(line)
