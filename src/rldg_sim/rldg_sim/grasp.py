"""The simulated hand with moving fingers: MJCF of a parallel gripper that really grasps.

Two slides carry the fingers. One actuator drives their sum, the width, like the hand's one motor, with a force
limit; a stiff spring on their difference is the rack that couples them; viscous friction of the drive limits
the speed and keeps a closed hand from being pushed open, as the real drive does. Friction and two flat pads
hold the object; nothing is welded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.task import Task
from rldg_sim.mjcf import CARTESIAN_ACTUATORS, PHYSICS_STEP_S, actuators
from rldg_sim.panda import GRIPPER_MAX_WIDTH_M, HAND_TCP_M, arm_mjcf
from rldg_sim.pose_math import wxyz
from rldg_sim.scene_model import SceneModel

Array = NDArray[np.float64]

GRASP_FORCE_N = 25.0
"""Largest force of the drive on each finger (the real hand: 70 N continuous; its examples grasp with 20 to 60 N)."""
SPEED_M_S = 0.1
"""Speed at which the width changes without load (the real hand: 0.05 m/s a finger)."""
PAD_HALF_M = (0.0105, 0.0035, 0.011)
"""Half sizes of a finger pad along x, y (towards the other finger), z of the hand."""
PAD_BELOW_TCP_M = 0.007
"""How far the pads reach beyond the tcp."""
FINGER_HALF_M = (0.0095, 0.007, 0.016)
GRAVITY_M_S2 = 9.81
SIDES = (("left", 1), ("right", -1))
OUT_OF_REACH_M = 0.06
"""An object whose middle leaves the safety box's ground plan by more than this is lost."""

_FINGERS = slice(7, 9)
"""The fingers' joints follow the arm's seven ..."""
_MOTOR = CARTESIAN_ACTUATORS
"""... and the motor the actuators of the impedance."""
_DRIVE_DAMPING = 2 * GRASP_FORCE_N / SPEED_M_S
# Of the motor behind its gears, as the finger feels it. Contact forces are computed with this inertia but
# without the damping, so that it must well exceed damping x time step (0.5 kg) or grasped objects jump away.
_DRIVE_INERTIA_KG = 2.0
_STIFFNESS = GRASP_FORCE_N / 0.002
_RACK_STIFFNESS = 8000.0
_PAD_CENTRE_Z = HAND_TCP_M + PAD_BELOW_TCP_M - PAD_HALF_M[2]
_FINGER_CENTRE_Z = _PAD_CENTRE_Z - PAD_HALF_M[2] - FINGER_HALF_M[2]


def fingers_mjcf(drawn: bool) -> str:
    """Bodies of the two fingers in the frame of the hand: contact shapes, or what cameras see."""
    colours = ('rgba=".12 .12 .13 1"', 'rgba=".75 .76 .78 1"') if drawn else ("", "")
    pad_class = "" if drawn else 'class="pad"'
    touches = "" if drawn else 'conaffinity="3"'  # also what only fingers touch (contype 2)
    pad = " ".join(f"{v:.9g}" for v in PAD_HALF_M)
    finger = " ".join(f"{v:.9g}" for v in FINGER_HALF_M)
    bodies = []
    for side, sign in SIDES:
        bodies.append(f"""
        <body name="finger_{side}">
          <inertial pos="0 {sign * 0.01} {_FINGER_CENTRE_Z:.9g}" mass="0.03" diaginertia="1e-5 1e-5 1e-5"/>
          <joint name="finger_{side}" type="slide" axis="0 {sign} 0" range="0 {GRIPPER_MAX_WIDTH_M / 2}"
                 damping="{_DRIVE_DAMPING}" armature="{_DRIVE_INERTIA_KG}"/>
          <geom name="pad_{side}" type="box" {pad_class} {touches}
                pos="0 {sign * PAD_HALF_M[1]:.9g} {_PAD_CENTRE_Z:.9g}" size="{pad}" {colours[0]}/>
          <geom type="box" {touches} pos="0 {sign * FINGER_HALF_M[1]:.9g} {_FINGER_CENTRE_Z:.9g}"
                size="{finger}" {colours[1]}/>
        </body>""")
    return "".join(bodies)


def tendons_mjcf() -> str:
    """The width (sum of both slides) that the motor drives, and the rack that keeps the fingers symmetric."""
    return f"""
    <fixed name="width"><joint joint="finger_left" coef="1"/><joint joint="finger_right" coef="1"/></fixed>
    <fixed name="rack" springlength="0" stiffness="{_RACK_STIFFNESS}">
      <joint joint="finger_left" coef="1"/><joint joint="finger_right" coef="-1"/>
    </fixed>"""


def motor_mjcf() -> str:
    """The gripper's actuator; its control is the commanded width [m]."""
    return (
        f'<position name="gripper" tendon="width" kp="{_STIFFNESS}" ctrllimited="true" '
        f'ctrlrange="0 {GRIPPER_MAX_WIDTH_M}" forcelimited="true" forcerange="{-GRASP_FORCE_N} {GRASP_FORCE_N}"/>'
    )


def grasping_physics_mjcf(task: Task, world: str) -> str:
    """Arm with moving fingers, and MJCF elements `world` of the world; joints and actuators in the order above.

    Gravity is off, since the arm's own controller compensates it: who adds free bodies applies their weight.
    """
    hand = f'<site name="tcp" pos="0 0 {HAND_TCP_M}"/>{fingers_mjcf(drawn=False)}'
    return f"""
<mujoco model="rldg cell, grasping">
  <compiler angle="radian" autolimits="true" balanceinertia="true"/>
  <option timestep="{PHYSICS_STEP_S}" integrator="Euler" cone="elliptic" impratio="10" iterations="20"
          ls_iterations="10">
    <flag gravity="disable" island="disable" equality="disable" frictionloss="disable" sensor="disable"/>
  </option>
  <size memory="8M"/>
  <default>
    <geom condim="4" friction="0.5 0.01 0.001" solref="0.01 1" solimp="0.9 0.95 0.001" mass="0"/>
    <default class="pad"><geom friction="1.2 0.02 0.001" priority="1"/></default>
    <default class="board"><geom conaffinity="5" friction="0.25 0.002 0.0001"/></default>
  </default>
  <worldbody>
    <body name="target" mocap="true"><site name="target"/></body>
    {arm_mjcf(hand, drawn=False)}
    {world}
  </worldbody>
  <tendon>{tendons_mjcf()}</tendon>
  <actuator>
    {actuators(task.impedance.compliant)}
    {motor_mjcf()}
  </actuator>
</mujoco>"""


def open_fingers(data: Any, width_m: float = GRIPPER_MAX_WIDTH_M) -> None:
    """Put the fingers at a width and command it (reset)."""
    data.qpos[_FINGERS] = width_m / 2
    command(data, width_m)


def place_free(model: Any, data: Any, name: str, pose_base: Array, mass_kg: float) -> None:
    """Put a free body at a pose (7,), at rest, under its own weight (reset)."""
    body = model.body(name)
    address = int(model.jnt_qposadr[body.jntadr[0]])
    data.qpos[address : address + 7] = [*pose_base[:3], *wxyz(pose_base[3:])]
    data.xfrc_applied[body.id, 2] = -GRAVITY_M_S2 * mass_kg


def command(data: Any, width_m: float) -> None:
    """Command a width [m] until the next command."""
    data.ctrl[_MOTOR] = min(max(width_m, 0.0), GRIPPER_MAX_WIDTH_M)


def commanded_m(data: Any) -> float:
    """Return the commanded width [m]."""
    return float(data.ctrl[_MOTOR])


def width_m(data: Any) -> float:
    """Return the distance of the pads [m]."""
    return float(data.qpos[_FINGERS].sum())


def touch(model: Any, data: Any, body: int) -> bool:
    """Return whether a finger touches this body now."""
    fingers = [int(model.body(f"finger_{side}").id) for side, _ in SIDES]
    first, second = (model.geom_bodyid[data.contact.geom[:, k]] for k in (0, 1))
    pairs = (np.isin(first, fingers) & (second == body)) | (np.isin(second, fingers) & (first == body))
    return bool(np.any(pairs))


class GraspedObject(SceneModel):
    """A free object, and fingers that grasp it."""

    felt_bodies: tuple[str, ...] = ("hand", "finger_left", "finger_right")

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        box = task.box
        self._low = box.reference_base[:2] + box.low[:2] - OUT_OF_REACH_M
        self._high = box.reference_base[:2] + box.high[:2] + OUT_OF_REACH_M

    def lost(self, position_base: Array) -> bool:
        """Whether something at this position (3,) is below the table or where the arm cannot go."""
        below = position_base[2] < 0
        return bool(below or np.any(position_base[:2] < self._low) or np.any(position_base[:2] > self._high))

    def command_gripper(self, data: Any, width_m: float) -> None:
        """See SceneModel."""
        command(data, width_m)

    def gripper_width_m(self, data: Any) -> float:
        """See SceneModel."""
        return width_m(data)
