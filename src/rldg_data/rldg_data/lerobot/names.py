"""Which feature of a LeRobot dataset is what: the default is what this suite writes, a YAML file says it for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rldg_core.configuration import load_model

Finite = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


class FeatureNames(BaseModel):
    """images: feature -> camera; empty: every image and video feature that is no depth map.

    components: feature -> what each of its values is (`rldg_data.lerobot.components`), instead of the names that the
    dataset gives them. state: 7 or 8 values, tcp in base [m], quaternion xyzw, gripper width [m]. twist: differences of
    the poses where a dataset has none; wrench: zeros where it has none. action: 6 or 7 values, delta of the tcp in tcp
    axes and the gripper. action_unit: "m_rad", or "normalised" in [-1, 1], to be multiplied by the task's scale.
    gripper_closed_open: values of the action that mean closed and open. assume_success: what an episode is that has
    neither next.success nor next.reward.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: dict[str, str] = Field(default_factory=dict)
    components: dict[str, list[str]] = Field(default_factory=dict)
    state: str = "observation.state"
    twist: str = "observation.twist"
    wrench: str = "observation.wrench"
    action: str = "action"
    action_unit: Literal["m_rad", "normalised"] = "m_rad"
    gripper_closed_open: tuple[Finite, Finite] = (0.0, 1.0)
    assume_success: bool = False

    @model_validator(mode="after")
    def _distinct(self) -> FeatureNames:
        if self.gripper_closed_open[0] == self.gripper_closed_open[1]:
            raise ValueError("gripper_closed_open: closed and open are the same value")
        return self


def load_feature_names(path: Path) -> FeatureNames:
    """Read the YAML file. Raises UserError `path: key: reason`."""
    return load_model(FeatureNames, path, "feature names")
