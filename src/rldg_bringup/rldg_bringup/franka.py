"""Parameters of ros2_control for a Franka arm, from a template, the arm's names and the task's gains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from rldg_core.configuration import read_yaml
from rldg_core.task import GainsConfig

JOINTS = 7


@dataclass(frozen=True)
class Arm:
    """Names of an arm as in franka_description: `<prefix>_<type>_joint1`; `end_effector_frame` "" means the default."""

    robot_type: str = "fr3"
    prefix: str = ""
    has_hand: bool = True
    end_effector_frame: str = ""

    @property
    def name(self) -> str:
        """What all joints and frames of the arm begin with."""
        return f"{self.prefix}_{self.robot_type}" if self.prefix else self.robot_type

    @property
    def joints(self) -> list[str]:
        """The seven joints, from the base."""
        return [f"{self.name}_joint{number}" for number in range(1, JOINTS + 1)]

    @property
    def controlled_frame(self) -> str:
        """Frame that Cartesian targets are for: the tcp of the hand, else the flange."""
        return self.end_effector_frame or f"{self.name}_{'hand_tcp' if self.has_hand else 'link8'}"


def controllers_yaml(template: Path, arm: Arm, gains: GainsConfig) -> str:
    """Return the parameter file of the controller manager: the template with the arm's names and the gains.

    Stiffness in N/m and Nm/rad, damping in Ns/m and Nms/rad. Raises UserError when the template cannot be read.
    """
    parameters = read_yaml(template)
    controller = parameters["/**"]["cartesian_impedance_controller"]["ros__parameters"]
    controller["joints"] = arm.joints
    controller["end_effector_frame"] = arm.controlled_frame
    controller["task"] = {
        **{f"k_pos_{axis}": float(gains.stiffness) for axis in "xyz"},
        **{f"d_pos_{axis}": float(gains.damping) for axis in "xyz"},
        **{f"k_rot_{axis}": float(gains.rotational_stiffness) for axis in "xyz"},
        **{f"d_rot_{axis}": float(gains.rotational_damping) for axis in "xyz"},
        "error_clip": {
            **{axis: float(gains.error_clip_m) for axis in "xyz"},
            **{f"r{axis}": float(gains.error_clip_rad) for axis in "xyz"},
        },
    }
    return yaml.safe_dump(parameters, sort_keys=False)
