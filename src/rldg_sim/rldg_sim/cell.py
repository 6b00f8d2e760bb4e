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
from scipy.spatial.transform import Rotation

from rldg_core.task import Task
from rldg_sim.connectors import Connector, connector
from rldg_sim.drawing import Drawing
from rldg_sim.kinematics import site_pose, solve_ik
from rldg_sim.panda import NOMINAL_Q
from rldg_sim.port import grip_width_m
from rldg_sim.pose_math import clip_to_box, compose_delta, wxyz
from rldg_sim.randomisation import place_plug, start_pose, vary_looks
from rldg_sim.scene import PHYSICS_STEP_S, impedance_parameters, physics_mjcf, port_pose_base

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

SUCCESS_DEPTH_M = 0.75e-3
"""Success: the tip is within this of full insertion ..."""
SUCCESS_LATERAL_M = 1.0e-3
"""... its middle is within this of the port's axis ..."""
SUCCESS_TILT_RAD = 0.1
"""... and the plug is turned away from the port by less than this."""


@dataclass(frozen=True)
class SensorFrame:
    """What the sensors and the ground truth say at one instant.

    stamp_ns: simulated time since the reset; pose_base_tcp (7,) [m, xyzw]; twist_base_tcp (6,) in base axes
    [m/s, rad/s]; wrench_tcp (6,) at the tcp in tcp axes [N, N m], positive when the robot presses on the
    environment (libfranka's K_F_ext_hat_K); joint_positions, joint_velocities (7,); gripper_width_m;
    image (H, W, 3) uint8 RGB of the wrist camera or None; plug_to_port (7,): pose of the plug's tip in the
    port's frame (z leads into the port), ground truth; insertion_depth_m: its z, negative above the plate.
    """

    stamp_ns: int
    pose_base_tcp: Array
    twist_base_tcp: Array
    wrench_tcp: Array
    joint_positions: Array
    joint_velocities: Array
    gripper_width_m: float
    image: Image | None
    plug_to_port: Array
    insertion_depth_m: float
    lateral_error_m: float
    success: bool

    @property
    def time_s(self) -> float:
        """Simulated time since the reset [s]."""
        return self.stamp_ns * 1e-9


class _Scene:
    """Physics of one connector scene, and its drawing."""

    def __init__(self, task: Task, item: Connector) -> None:
        self._task = task
        self.item = item
        self.model: Any = mujoco.MjModel.from_xml_string(physics_mjcf(task, item))
        self.data: Any = mujoco.MjData(self.model)
        self.tcp = int(self.model.site("tcp").id)
        self.plug = int(self.model.body("plug").id)
        self.q_reset = solve_ik(
            self.model, self.data, self.tcp, np.array(task.reset.pose_base_tcp), NOMINAL_Q, "reset.pose_base_tcp"
        )
        self._drawing: Drawing | None = None
        self._seed = 0

    def restart(self, seed: int) -> Array:
        """Reset the state, vary grasp, looks and start, and return the start pose (7,)."""
        task, model, data = self._task, self.model, self.data
        mujoco.mj_resetData(model, data)
        self._seed = seed
        place_plug(model, self.plug, task.scene, seed)
        if self._drawing is not None:
            self._vary(self._drawing)
        pose = start_pose(task, seed)
        data.qpos[:] = solve_ik(model, data, self.tcp, pose, self.q_reset, "start pose")
        return pose

    def image(self, camera: str, width: int, height: int, *, pretty: bool = False) -> Image:
        """Image (height, width, 3) uint8 RGB of the present state."""
        if self._drawing is None:
            self._drawing = Drawing(self._task, self.item)
            self._vary(self._drawing)
        return self._drawing.image(self.data.qpos, camera, width, height, pretty=pretty)

    def _vary(self, drawing: Drawing) -> None:
        place_plug(drawing.model, drawing.plug, self._task.scene, self._seed)
        vary_looks(drawing.model, drawing.looks, self._task.scene, drawing.wrist, self._seed)

    def close(self) -> None:
        """Release the OpenGL contexts."""
        if self._drawing is not None:
            self._drawing.close()
            self._drawing = None


class Cell:
    """A Franka cell with one connector in the hand and its port on the table.

    task: configures rates, action scale, box, gains, camera and variation; object_name "" is the task's
    default; render False skips images; image_size_px is (width, height), default the wrist camera's of the
    task. Raises UserError on an unknown object or when no OpenGL is usable.
    """

    def __init__(
        self, task: Task, object_name: str = "", render: bool = True, image_size_px: tuple[int, int] | None = None
    ) -> None:
        self.task = task
        self.object_name = task.object_or_default(object_name)
        self._render = render
        if image_size_px is None:
            camera = task.cameras.get("wrist") or next(iter(task.cameras.values()))
            image_size_px = (camera.width, camera.height)
        self._image_size_px = image_size_px
        self._scenes: dict[str, _Scene] = {}
        self._port_base = port_pose_base(task)
        self._port_rotation = Rotation.from_quat(self._port_base[3:]).as_matrix()
        self._box = task.box
        self._physics_steps = round(task.period_s / PHYSICS_STEP_S)
        self._jacobian = np.zeros((6, 7))
        self._scene = self._select(self.object_name)
        self._last_pose = np.array(task.reset.pose_base_tcp)
        self.set_mode("compliant")

    def _select(self, object_name: str) -> _Scene:
        if object_name not in self._scenes:
            self._scenes[object_name] = _Scene(self.task, connector(object_name))
        self.object_name = object_name
        return self._scenes[object_name]

    def reset(self, seed: int, object_name: str = "") -> SensorFrame:
        """Put the arm at rest at the start pose of `seed`, vary grasp and looks, and return the first frame.

        Everything random derives from the seed alone: the same seed and object give bit-identical frames.
        """
        if object_name:
            self._scene = self._select(self.task.object_or_default(object_name))
        pose = self._scene.restart(seed)
        self.set_mode("compliant")
        self._set_target(pose)
        return self._frame(self._render)

    def step(self, action: ArrayLike) -> SensorFrame:
        """Advance one control period. action (6,) in [-1, 1]: body-frame delta of the measured pose.

        The target is clipped to the task's safety box, as the gate does in the stack.
        """
        delta = self.task.action.to_delta_tcp(np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0))
        return self.step_to(clip_to_box(self._box, compose_delta(self._last_pose, delta)))

    def step_to(self, target_base_tcp: ArrayLike) -> SensorFrame:
        """Advance one control period towards a target pose (7,) that the caller has already clipped."""
        self._set_target(np.asarray(target_base_tcp, dtype=np.float64))
        mujoco.mj_step(self._scene.model, self._scene.data, nstep=self._physics_steps)
        return self._frame(self._render)

    def hold(self, target_base_tcp: ArrayLike) -> None:
        """Set the target without advancing; it stays until the next one, as in crisp_controllers."""
        self._set_target(np.asarray(target_base_tcp, dtype=np.float64))

    def advance(self, duration_s: float) -> SensorFrame:
        """Advance the physics towards the last target; the frame has no image (see `image`)."""
        mujoco.mj_step(self._scene.model, self._scene.data, nstep=max(1, round(duration_s / PHYSICS_STEP_S)))
        return self._frame(render=False)

    def image(self) -> Image:
        """Image of the wrist camera now, (height, width, 3) uint8 RGB."""
        return self._scene.image("wrist", *self._image_size_px)

    def render_scene(self, width: int, height: int) -> Image:
        """Third-person view, (height, width, 3) uint8 RGB, drawn at twice the size for smooth edges."""
        large = self._scene.image("scene", 2 * width, 2 * height, pretty=True).astype(np.uint16)
        quarters = large[0::2, 0::2] + large[1::2, 0::2] + large[0::2, 1::2] + large[1::2, 1::2]
        return (quarters // 4).astype(np.uint8)

    def set_mode(self, mode: Literal["compliant", "precise"]) -> None:
        """Choose the impedance gains of the task; a reset returns to compliant."""
        bias, limits = impedance_parameters(getattr(self.task.impedance, mode))
        model = self._scene.model
        model.actuator_biasprm[:, :3] = bias
        model.actuator_forcerange[:] = limits

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
        mujoco.mj_jacSite(model, data, self._jacobian[:3], self._jacobian[3:], scene.tcp)
        tip = self._plug_to_port()
        depth = float(tip[2])
        lateral = float(np.hypot(tip[0], tip[1]))
        turn = 2 * float(np.arcsin(min(1.0, float(np.linalg.norm(tip[3:6])))))
        return SensorFrame(
            stamp_ns=round(data.time * 1e9),
            pose_base_tcp=pose,
            twist_base_tcp=self._jacobian @ data.qvel[:7],
            wrench_tcp=self._wrench(pose),
            joint_positions=data.qpos[:7].copy(),
            joint_velocities=data.qvel[:7].copy(),
            gripper_width_m=grip_width_m(scene.item),
            image=self.image() if render else None,
            plug_to_port=tip,
            insertion_depth_m=depth,
            lateral_error_m=lateral,
            success=bool(
                depth >= scene.item.depth_m - SUCCESS_DEPTH_M
                and lateral <= SUCCESS_LATERAL_M
                and turn <= SUCCESS_TILT_RAD
            ),
        )

    def _plug_to_port(self) -> Array:
        scene = self._scene
        rotation = scene.data.xmat[scene.plug].reshape(3, 3)
        tip = scene.data.xpos[scene.plug] + rotation[:, 2] * scene.item.depth_m
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, (self._port_rotation.T @ rotation).ravel())
        quaternion *= np.sign(quaternion[0]) or 1.0
        return np.concatenate([self._port_rotation.T @ (tip - self._port_base[:3]), quaternion[1:], quaternion[:1]])

    def _wrench(self, pose: Array) -> Array:
        """Wrench of the tool on the environment, at the tcp in tcp axes."""
        scene = self._scene
        torque, force = scene.data.cfrc_ext[scene.plug, :3], scene.data.cfrc_ext[scene.plug, 3:]
        # cfrc_ext is about the centre of mass of the whole arm.
        com = scene.data.subtree_com[scene.model.body_rootid[scene.plug]]
        rotation = scene.data.site_xmat[scene.tcp].reshape(3, 3)
        (x, y, z), (fx, fy, fz) = com - pose[:3], force
        at_tcp = torque + np.array([y * fz - z * fy, z * fx - x * fz, x * fy - y * fx])
        return -np.concatenate([rotation.T @ force, rotation.T @ at_tcp])
