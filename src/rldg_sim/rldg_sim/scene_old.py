"""The whole cell as MJCF: one model for the physics, one with the same bodies to draw it.

The impedance controller runs inside MuJoCo. Twelve `general` actuators act on the tool site: six
springs relative to the target, a mocap body, with bias -K x and a force limited to K * error_clip, and six
dampers with bias -D v. The wrench is therefore clip(K e) - D v, the reference limiting of SERL's and crisp's
controllers, evaluated at every physics step in C. As e is measured in the frame of the target, its rotation
vector stays far from pi whatever the tool's orientation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rldg_core.frames import pose_at, rotation_of
from rldg_core.task import GainsConfig, Task
from rldg_sim.connectors import Connector
from rldg_sim.panda import HAND_TCP_M, arm_mjcf
from rldg_sim.port import grip_width_m, meshes, plug_contacts, plug_visuals, port_contacts, port_visuals
from rldg_sim.pose_math import wxyz

Array = NDArray[np.float64]

SHOULDER_M = 0.02
"""Distance tcp -> shoulder of the plug along the tool's z axis."""
PHYSICS_STEP_S = 0.001
WRIST_FOVY_DEG = 50.0
WRIST_POSITION = np.array([0.09, 0.0, 0.05])
WRIST_AIM = np.array([-0.004, 0.0, 0.154])
"""Wrist camera in the hand's frame: where it is and the point that it looks at, just below the plug."""
_AXES = ("1 0 0 0 0 0", "0 1 0 0 0 0", "0 0 1 0 0 0", "0 0 0 1 0 0", "0 0 0 0 1 0", "0 0 0 0 0 1")


def _numbers(values: Array) -> str:
    return " ".join(f"{v:.9g}" for v in np.asarray(values, dtype=np.float64).ravel())


def port_pose_base(task: Task) -> Array:
    """Pose (7,) of the port in base: its origin is the middle of the mouth, z leads into the port."""
    target = np.array(task.target_pose_base_tcp)
    return pose_at(target, np.concatenate([rotation_of(target).apply([0.0, 0.0, SHOULDER_M]), np.zeros(3)]))


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


def _placed(pose_base: Array) -> str:
    return f'pos="{_numbers(pose_base[:3])}" quat="{_numbers(wxyz(pose_base[3:]))}"'


def _wrist_axes() -> Array:
    """Camera axes x (right) and y (up in the image: away from the hand along the tool)."""
    back = (WRIST_POSITION - WRIST_AIM) / np.linalg.norm(WRIST_POSITION - WRIST_AIM)
    right = np.array([0.0, 1.0, 0.0])
    return np.concatenate([right, np.cross(back, right)])


def _actuators(gains: GainsConfig) -> str:
    bias, limits = impedance_parameters(gains)
    rows = []
    for k in range(12):
        limit = f'forcelimited="true" forcerange="{_numbers(limits[k])}"' if k < 6 else ""
        # Dampers are isotropic, so they may act in the site's own axes.
        reference = 'refsite="target"' if k < 6 else ""
        rows.append(
            f'<general site="tcp" {reference} gear="{_AXES[k % 6]}" gainprm="0" biastype="affine" '
            f'biasprm="{_numbers(bias[k])}" {limit}/>'
        )
    return "\n".join(rows)


def physics_mjcf(task: Task, item: Connector) -> str:
    """MJCF of what moves and touches: arm, plug, port and the Cartesian impedance, with nothing to draw.

    The arm's own controller compensates gravity and nothing else in the cell can fall, so gravity is off,
    which is the same and saves its computation. The port's boxes belong to the world body, whose contacts
    need no broad phase.
    """
    port = port_pose_base(task)
    hand = f"""
        <site name="tcp" pos="0 0 {HAND_TCP_M}"/>
        <body name="plug" pos="0 0 {HAND_TCP_M + SHOULDER_M}">
          <inertial pos="0 0 -.005" mass="0.03" diaginertia="4e-6 4e-6 4e-6"/>
          {plug_contacts(item)}
        </body>"""
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
    <body name="target" mocap="true" {_placed(port)}><site name="target"/></body>
    <frame {_placed(port)}>{port_contacts(item)}</frame>
    {arm_mjcf(hand, drawn=False)}
  </worldbody>
  <actuator>
    {_actuators(task.impedance.compliant)}
  </actuator>
</mujoco>"""


def drawn_mjcf(task: Task, item: Connector) -> str:
    """MJCF of what cameras see: the same bodies in the same order, cameras and lights, without contact or control.

    Geom group 1 is what the wrist camera cannot see: arm, base and floor cost half of its rendering.
    """
    half_width = grip_width_m(item) / 2
    fingers = "\n".join(
        f"""
        <geom type="box" pos="0 {side * (half_width + 0.006)} {HAND_TCP_M - 0.020}" size=".009 .006 .026"
              rgba=".75 .76 .78 1"/>
        <geom type="box" pos="0 {side * (half_width + 0.001)} {HAND_TCP_M}" size=".0085 .001 .007"
              rgba=".1 .1 .1 1"/>"""
        for side in (-1, 1)
    )
    hand = f"""
        <geom type="box" pos="0 0 .032" size=".026 .1 .034" rgba=".9 .9 .91 1"/>
        {fingers}
        <camera name="wrist" pos="{_numbers(WRIST_POSITION)}" xyaxes="{_numbers(_wrist_axes())}"
                fovy="{WRIST_FOVY_DEG}"/>
        <body name="plug" pos="0 0 {HAND_TCP_M + SHOULDER_M}">{plug_visuals(item)}</body>"""
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
    {meshes(item)}
  </asset>
  <worldbody>
    <light name="key" pos=".9 .5 1.4" dir="-.4 -.5 -1.2" directional="true" diffuse=".5 .5 .5"
           specular=".15 .15 .15"/>
    <light name="fill" pos=".6 -.8 1.2" dir="-.1 .8 -1" directional="true" diffuse=".2 .2 .2" specular="0 0 0"
           castshadow="false"/>
    <camera name="scene" pos=".95 .45 .42" xyaxes="-.684 .729 0 -.212 -.199 .956" fovy="36"/>
    <geom name="table" type="box" pos=".35 0 -.02" size=".75 .6 .02" rgba=".62 .53 .43 1"/>
    <geom name="ground" type="plane" group="1" pos="0 0 -.75" size="4 4 .1" rgba=".5 .52 .55 1"/>
    <geom name="base" type="cylinder" group="1" pos="0 0 .07" size=".09 .07" rgba=".9 .9 .91 1"/>
    <frame {_placed(port_pose_base(task))}>{port_visuals(item)}</frame>
    {arm_mjcf(hand, drawn=True)}
  </worldbody>
</mujoco>"""
