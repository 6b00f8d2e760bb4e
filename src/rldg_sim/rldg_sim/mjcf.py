"""The arm under Cartesian impedance, the wrist camera and the table as MJCF: what scenes are built of.

The impedance controller runs inside MuJoCo. Twelve `general` actuators act on the tool site: six
springs relative to the target, a mocap body, with bias -K x and a force limited to K * error_clip, and six
dampers with bias -D v. The wrench is therefore clip(K e) - D v, the reference limiting of SERL's and crisp's
controllers, evaluated at every physics step in C. As e is measured in the frame of the target, its rotation
vector stays far from pi whatever the tool's orientation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rldg_core.task import GainsConfig, Task
from rldg_sim.panda import HAND_TCP_M, arm_mjcf
from rldg_sim.pose_math import wxyz

Array = NDArray[np.float64]

PHYSICS_STEP_S = 0.001
CARTESIAN_ACTUATORS = 12
"""The first actuators of every model: six springs, six dampers."""
_AXES = ("1 0 0 0 0 0", "0 1 0 0 0 0", "0 0 1 0 0 0", "0 0 0 1 0 0", "0 0 0 0 1 0", "0 0 0 0 0 1")


def numbers(values: Array) -> str:
    """Numbers as an attribute of MJCF."""
    return " ".join(f"{v:.9g}" for v in np.asarray(values, dtype=np.float64).ravel())


def placed(pose_base: Array) -> str:
    """Attributes pos and quat of a pose (7,)."""
    return f'pos="{numbers(pose_base[:3])}" quat="{numbers(wxyz(pose_base[3:]))}"'


def impedance_parameters(gains: GainsConfig) -> tuple[Array, Array]:
    """(12, 3) bias parameters and (12, 2) force limits of the actuators: six springs, then six dampers."""
    stiffness = np.repeat([gains.stiffness, gains.rotational_stiffness], 3)
    damping = np.repeat([gains.damping, gains.rotational_damping], 3)
    clip = stiffness * np.repeat([gains.error_clip_m, gains.error_clip_rad], 3)
    bias = np.zeros((12, 3))
    bias[:6, 1], bias[6:, 2] = -stiffness, -damping
    limits = np.zeros((12, 2))
    limits[:6, 0], limits[:6, 1] = -clip, clip
    return bias, limits


def actuators(gains: GainsConfig) -> str:
    """The Cartesian impedance as actuators on the site "tcp"."""
    bias, limits = impedance_parameters(gains)
    rows = []
    for k in range(CARTESIAN_ACTUATORS):
        limit = f'forcelimited="true" forcerange="{numbers(limits[k])}"' if k < 6 else ""
        # Dampers are isotropic, so they may act in the site's own axes.
        reference = 'refsite="target"' if k < 6 else ""
        rows.append(
            f'<general site="tcp" {reference} gear="{_AXES[k % 6]}" gainprm="0" biastype="affine" '
            f'biasprm="{numbers(bias[k])}" {limit}/>'
        )
    return "\n".join(rows)


def held_physics_mjcf(task: Task, goal: str, held: str, more: str = "") -> str:
    """Arm with a firmly held body and a goal that it touches: MJCF elements `goal` of the world, `held` of the hand.

    more: further sections of the model.

    The arm's own controller compensates gravity and nothing else in the cell can fall, so gravity is off,
    which is the same and saves its computation.
    """
    hand = f"""
        <site name="tcp" pos="0 0 {HAND_TCP_M}"/>
        {held}"""
    return f"""
<mujoco model="rldg cell">
  <compiler angle="radian" autolimits="true" balanceinertia="true"/>
  <option timestep="{PHYSICS_STEP_S}" integrator="Euler" cone="elliptic" iterations="20" ls_iterations="10">
    <flag gravity="disable" island="disable" equality="disable" frictionloss="disable" sensor="disable"
          spring="disable"/>
  </option>
  <size memory="8M"/>
  <default><geom condim="3" friction="0.25 0.002 0.0001" solref="0.01 1" solimp="0.9 0.95 0.001" mass="0"/></default>
  <worldbody>
    <body name="target" mocap="true"><site name="target"/></body>
    {goal}
    {arm_mjcf(hand, drawn=False)}
  </worldbody>
  <actuator>
    {actuators(task.impedance.compliant)}
  </actuator>
  {more}
</mujoco>"""


@dataclass(frozen=True)
class WristCamera:
    """Where the wrist camera sits in the hand's frame [m], the point that it looks at, and its vertical angle."""

    position: tuple[float, float, float]
    aim: tuple[float, float, float]
    fovy_deg: float

    def mjcf(self) -> str:
        """The camera; its image's right is the hand's y, its image's up leads away from the hand along the tool."""
        back = np.array(self.position) - np.array(self.aim)
        back /= np.linalg.norm(back)
        right = np.array([0.0, 1.0, 0.0])
        axes = np.concatenate([right, np.cross(back, right)])
        return (
            f'<camera name="wrist" pos="{numbers(np.array(self.position))}" xyaxes="{numbers(axes)}" '
            f'fovy="{self.fovy_deg}"/>'
        )


TABLE_MJCF = '<geom name="table" type="box" pos=".35 0 -.02" size=".75 .6 .02" rgba=".62 .53 .43 1"/>'
SCENE_CAMERA_MJCF = '<camera name="scene" pos=".95 .45 .42" xyaxes="-.684 .729 0 -.212 -.199 .956" fovy="36"/>'
TABLE_VIEW_MJCF = '<camera name="scene" pos="1.05 .5 .5" xyaxes="-.684 .729 0 -.39 -.366 .845" fovy="40"/>'
"""What lies on the table and the arm above it."""


def drawn_mjcf(
    assets: str,
    world: str,
    hand: str,
    camera: WristCamera,
    table: str = TABLE_MJCF,
    view: str = SCENE_CAMERA_MJCF,
    free: str = "",
) -> str:
    """MJCF of what cameras see: light, table, arm, and a kind's assets and elements of the world and of the hand.

    `free` are the bodies whose joints come after the arm's.

    Geom group 1 is what the wrist camera cannot see: arm, base and floor cost half of its rendering.
    """
    palm = '<geom type="box" pos="0 0 .032" size=".026 .1 .034" rgba=".9 .9 .91 1"/>'
    return f"""
<mujoco model="rldg cell, drawn">
  <compiler angle="radian" autolimits="true" balanceinertia="true"/>
  <visual>
    <quality shadowsize="512" offsamples="0" numslices="20" numstacks="8" numquads="1"/>
    <headlight ambient=".35 .35 .35" diffuse=".2 .2 .2" specular="0 0 0"/>
    <map znear="0.005" zfar="20"/>
    <global offwidth="1920" offheight="1440"/>
  </visual>
  <default><geom contype="0" conaffinity="0" mass="0"/></default>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1=".86 .9 .94" rgb2=".55 .6 .66" width="32" height="192"/>
    {assets}
  </asset>
  <worldbody>
    <light name="key" pos=".9 .5 1.4" dir="-.4 -.5 -1.2" directional="true" diffuse=".5 .5 .5"
           specular=".15 .15 .15"/>
    <light name="fill" pos=".6 -.8 1.2" dir="-.1 .8 -1" directional="true" diffuse=".2 .2 .2" specular="0 0 0"
           castshadow="false"/>
    {view}
    {table}
    <geom name="ground" type="plane" group="1" pos="0 0 -.75" size="4 4 .1" rgba=".5 .52 .55 1"/>
    <geom name="base" type="cylinder" group="1" pos="0 0 .07" size=".09 .07" rgba=".9 .9 .91 1"/>
    {world}
    {arm_mjcf(f"{palm}{hand}{camera.mjcf()}", drawn=True)}
    {free}
  </worldbody>
</mujoco>"""


def fixed_fingers_mjcf(width_m: float) -> str:
    """Fingers that are drawn only, `width_m` apart."""
    return "\n".join(
        f"""
        <geom type="box" pos="0 {side * (width_m / 2 + 0.006)} {HAND_TCP_M - 0.020}" size=".009 .006 .026"
              rgba=".75 .76 .78 1"/>
        <geom type="box" pos="0 {side * (width_m / 2 + 0.001)} {HAND_TCP_M}" size=".0085 .001 .007"
              rgba=".1 .1 .1 1"/>"""
        for side in (-1, 1)
    )
