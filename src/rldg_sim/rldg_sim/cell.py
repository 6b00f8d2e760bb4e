"""The simulated Franka cell as a library: reset, step, look.

    cell = Cell(task)
    frame = cell.reset(seed=7)
    while not frame.success:
        frame = cell.step(policy(frame))

The node `cell` wraps this class; both compose and clip targets in the same way (the gate does it in the stack).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rldg_core.errors import UserError
from rldg_core.task import Task
from rldg_sim.camera_view import CameraView
from rldg_sim.drawing import Drawing
from rldg_sim.kinds import make_kind
from rldg_sim.kinematics import site_pose, solve_ik
from rldg_sim.panda import ARM_JOINTS, GRIPPER_MAX_WIDTH_M, NOMINAL_Q
from rldg_sim.pose_math import clip_to_box, compose_delta, wxyz
from rldg_sim.randomisation import vary_looks
from rldg_sim.scene import CARTESIAN_ACTUATORS, PHYSICS_STEP_S, SceneKind, impedance_parameters

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

GRIPPER_THRESHOLD = 0.5
"""7th component of an action: over it opens, under its negative closes, between keeps the last command."""


@dataclass(frozen=True)
class SensorFrame:
    """What the sensors and the ground truth say at one instant.

    stamp_ns: simulated time since the reset; pose_base_tcp (7,) [m, xyzw]; twist_base_tcp (6,) in base axes
    [m/s, rad/s]; wrench_tcp (6,) at the tcp in tcp axes [N, N m], positive when the robot presses on the
    environment (libfranka's K_F_ext_hat_K); joint_positions, joint_velocities (7,); gripper_width_m;
    image (H, W, 3) uint8 RGB of the wrist camera or None. Ground truth: object_to_goal (7,), pose of the object's
    reference (plug tip, peg tip, pepper) in the goal's frame (port, hole, bowl; z leads into it); object_to_tcp
    (7,), the same in the tcp's frame; success and failure of the task now.
    """

    stamp_ns: int
    pose_base_tcp: Array
    twist_base_tcp: Array
    wrench_tcp: Array
    joint_positions: Array
    joint_velocities: Array
    gripper_width_m: float
    image: Image | None
    object_to_goal: Array
    object_to_tcp: Array
    success: bool
    failure: bool

    @property
    def time_s(self) -> float:
        """Simulated time since the reset [s]."""
        return self.stamp_ns * 1e-9


class _Scene:
    """Physics of one kind of scene with one object, and its drawing."""

    def __init__(self, task: Task, kind: SceneKind) -> None:
        self._task = task
        self.kind = kind
        self.model: Any = mujoco.MjModel.from_xml_string(kind.physics_mjcf())
        self.data: Any = mujoco.MjData(self.model)
        self.tcp = int(self.model.site("tcp").id)
        self.felt = [int(self.model.body(name).id) for name in kind.felt_bodies]
        self.q_reset = solve_ik(
            self.model, self.data, self.tcp, np.array(task.reset.pose_base_tcp), NOMINAL_Q, "reset.pose_base_tcp"
        )
        self.drawing: Drawing | None = None
        self._seed = 0

    def restart(self, seed: int) -> Array:
        """Reset the state, vary placement, looks and start, and return the start pose (7,)."""
        model, data = self.model, self.data
        mujoco.mj_resetData(model, data)
        self._seed = seed
        self.kind.place(model, seed)
        if self.drawing is not None:
            self._vary(self.drawing)
        pose = self.kind.start_pose(seed)
        data.qpos[:ARM_JOINTS] = solve_ik(model, data, self.tcp, pose, self.q_reset, "start pose")
        self.kind.restart(model, data, seed)
        return pose

    def image(self, camera: str, width: int, height: int, *, pretty: bool = False) -> Image:
        """Image (height, width, 3) uint8 RGB of the present state."""
        if self.drawing is None:
            self.drawing = Drawing(self.kind.drawn_mjcf())
            self._vary(self.drawing)
        return self.drawing.image(self.data.qpos, camera, width, height, pretty=pretty)

    def _vary(self, drawing: Drawing) -> None:
        self.kind.place(drawing.model, self._seed)
        vary_looks(drawing.model, drawing.looks, self._task.scene, drawing.wrist, self._seed)

    def close(self) -> None:
        """Release the OpenGL contexts."""
        if self.drawing is not None:
            self.drawing.close()
            self.drawing = None


class Cell:
    """A Franka cell with the scene of a task (`scene.kind`).

    task: configures scene, rates, action scale, box, gains, camera and variation; object_name "" is the task's
    default; render False skips images; image_size_px is (width, height), default the wrist camera's of the
    task. Raises UserError on an unknown object, a task of several cameras, or when no OpenGL is usable.
    """

    def __init__(
        self, task: Task, object_name: str = "", render: bool = True, image_size_px: tuple[int, int] | None = None
    ) -> None:
        if len(task.cameras) > 1:
            raise UserError(f"task {task.name}: cameras {', '.join(task.cameras)}: the simulated cell has one")
        self.task = task
        self.object_name = task.object_or_default(object_name)
        self._render = render
        if image_size_px is None:
            camera = next(iter(task.cameras.values()))
            image_size_px = (camera.width, camera.height)
        self._image_size_px = image_size_px
        self._scenes: dict[str, _Scene] = {}
        self._box = task.box
        self._physics_steps = round(task.period_s / PHYSICS_STEP_S)
        self._scene = self._select(self.object_name)
        self._last_pose = np.array(task.reset.pose_base_tcp)
        self.set_mode("compliant")

    def _select(self, object_name: str) -> _Scene:
        if object_name not in self._scenes:
            self._scenes[object_name] = _Scene(self.task, make_kind(self.task, object_name))
        self.object_name = object_name
        return self._scenes[object_name]

    def reset(self, seed: int, object_name: str = "") -> SensorFrame:
        """Put the arm at rest at the start pose of `seed`, vary scene and looks, and return the first frame.

        Everything random derives from the seed alone: the same seed and object give bit-identical frames.
        """
        if object_name:
            self._scene = self._select(self.task.object_or_default(object_name))
        pose = self._scene.restart(seed)
        self.set_mode("compliant")
        self._set_target(pose)
        return self._frame(self._render)

    def step(self, action: ArrayLike) -> SensorFrame:
        """Advance one control period. action (6,) or (7,) in [-1, 1]: body-frame delta of the measured pose, gripper.

        The target is clipped to the task's safety box, as the gate does in the stack. The gripper opens over 0.5,
        closes under -0.5 and keeps its last command between.
        """
        values = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        if len(values) > 6 and abs(values[6]) > GRIPPER_THRESHOLD:
            self.command_gripper(GRIPPER_MAX_WIDTH_M if values[6] > 0 else 0.0)
        return self.step_to(
            clip_to_box(self._box, compose_delta(self._last_pose, self.task.action.to_delta_tcp(values)))
        )

    def step_to(self, target_base_tcp: ArrayLike) -> SensorFrame:
        """Advance one control period towards a target pose (7,) that the caller has already clipped."""
        self._set_target(np.asarray(target_base_tcp, dtype=np.float64))
        mujoco.mj_step(self._scene.model, self._scene.data, nstep=self._physics_steps)
        return self._frame(self._render)

    def hold(self, target_base_tcp: ArrayLike) -> None:
        """Set the target without advancing; it stays until the next one, as in crisp_controllers."""
        self._set_target(np.asarray(target_base_tcp, dtype=np.float64))

    def command_gripper(self, width_m: float) -> None:
        """Command the fingers' distance [m] without advancing; it stays until the next command or reset."""
        self._scene.kind.command_gripper(self._scene.data, width_m)

    def advance(self, duration_s: float) -> SensorFrame:
        """Advance the physics towards the last target; the frame has no image (see `image`)."""
        mujoco.mj_step(self._scene.model, self._scene.data, nstep=max(1, round(duration_s / PHYSICS_STEP_S)))
        return self._frame(render=False)

    def image(self) -> Image:
        """Image of the wrist camera now, (height, width, 3) uint8 RGB."""
        return self._scene.image("wrist", *self._image_size_px)

    def wrist_view(self) -> CameraView:
        """Where the wrist camera was when it took the last image, and how it projects; call `image` first."""
        drawing = self._scene.drawing
        assert drawing is not None
        return drawing.wrist_view()

    def render_scene(self, width: int, height: int) -> Image:
        """Third-person view, (height, width, 3) uint8 RGB, drawn at twice the size for smooth edges."""
        large = self._scene.image("scene", 2 * width, 2 * height, pretty=True).astype(np.uint16)
        quarters = large[0::2, 0::2] + large[1::2, 0::2] + large[0::2, 1::2] + large[1::2, 1::2]
        return (quarters // 4).astype(np.uint8)

    def set_mode(self, mode: Literal["compliant", "precise"]) -> None:
        """Choose the impedance gains of the task; a reset returns to compliant."""
        bias, limits = impedance_parameters(getattr(self.task.impedance, mode))
        model = self._scene.model
        model.actuator_biasprm[:CARTESIAN_ACTUATORS, :3] = bias
        model.actuator_forcerange[:CARTESIAN_ACTUATORS] = limits

    def close(self) -> None:
        """Release the OpenGL contexts."""
        for scene in self._scenes.values():
            scene.close()

    def _set_target(self, target_base_tcp: Array) -> None:
        data = self._scene.data
        data.mocap_pos[0] = target_base_tcp[:3]
        data.mocap_quat[0] = wxyz(target_base_tcp[3:])

    def _frame(self, render: bool) -> SensorFrame:
        scene = self._scene
        model, data = scene.model, scene.data
        # mj_step leaves poses and contacts one physics step behind the state: bring them up to date.
        mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        pose = site_pose(data, scene.tcp)
        self._last_pose = pose
        truth = scene.kind.truth(model, data)
        return SensorFrame(
            stamp_ns=round(data.time * 1e9),
            pose_base_tcp=pose,
            twist_base_tcp=self._twist(),
            wrench_tcp=self._wrench(pose),
            joint_positions=data.qpos[:ARM_JOINTS].copy(),
            joint_velocities=data.qvel[:ARM_JOINTS].copy(),
            gripper_width_m=scene.kind.gripper_width_m(data),
            image=self.image() if render else None,
            object_to_goal=truth.object_to_goal,
            object_to_tcp=truth.object_to_tcp,
            success=truth.success,
            failure=truth.failure,
        )

    def _twist(self) -> Array:
        """Twist of the tcp in base axes."""
        scene = self._scene
        jacobian = np.zeros((6, scene.model.nv))
        mujoco.mj_jacSite(scene.model, scene.data, jacobian[:3], jacobian[3:], scene.tcp)
        twist: Array = jacobian[:, :ARM_JOINTS] @ scene.data.qvel[:ARM_JOINTS]
        return twist

    def _wrench(self, pose: Array) -> Array:
        """Wrench of the tool on the environment, at the tcp in tcp axes."""
        scene = self._scene
        torque, force = np.split(scene.data.cfrc_ext[scene.felt].sum(axis=0), 2)
        # cfrc_ext is about the centre of mass of the whole arm.
        com = scene.data.subtree_com[scene.model.body_rootid[scene.felt[0]]]
        rotation = scene.data.site_xmat[scene.tcp].reshape(3, 3)
        (x, y, z), (fx, fy, fz) = com - pose[:3], force
        at_tcp = torque + np.array([y * fz - z * fy, z * fx - x * fz, x * fy - y * fx])
        return -np.concatenate([rotation.T @ force, rotation.T @ at_tcp])
