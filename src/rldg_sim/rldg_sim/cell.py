"""The simulated cell as a library: reset, step, look.

    cell = Cell(task)
    frame = cell.reset(seed=7)
    while not frame.success:
        frame = cell.step(policy(frame))

The node `cell` wraps this class and gets its targets from the gate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rldg_core.commands import command_of
from rldg_core.task import Task
from rldg_core.types import GRIPPER_THRESHOLD
from rldg_sim.cameras import SCENE, WRIST, CameraView, Image, SceneRenderer
from rldg_sim.mjcf import CARTESIAN_ACTUATORS, PHYSICS_STEP_S, impedance_parameters
from rldg_sim.panda import ARM_JOINTS, GRIPPER_MAX_WIDTH_M, NOMINAL_Q
from rldg_sim.pose_math import site_pose, solve_ik, wxyz
from rldg_sim.realism.errors import CellErrors
from rldg_sim.scene import fixed_cameras, simulated
from rldg_sim.scene_model import SceneModel

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]


@dataclass(frozen=True)
class SensorFrame:
    """What the sensors and the ground truth say at one instant.

    stamp_ns: simulated time since the reset; pose_base_tcp (7,) [m, xyzw]; twist_base_tcp (6,) in base axes
    [m/s, rad/s]; wrench_tcp (6,) at the tcp in tcp axes [N, N m], positive when the robot presses on the
    environment; joint_positions, joint_velocities (7,); gripper_width_m;
    images: camera -> (H, W, 3) uint8 RGB, empty when the cell does not render. Ground truth: object_to_goal (7,),
    pose of the object's reference (plug tip, peg tip, pepper) in the goal's frame (port, hole, bowl; z leads into
    it); object_to_tcp (7,), the same in the tcp's frame; success and failure of the task now.
    """

    stamp_ns: int
    pose_base_tcp: Array
    twist_base_tcp: Array
    wrench_tcp: Array
    joint_positions: Array
    joint_velocities: Array
    gripper_width_m: float
    images: Mapping[str, Image]
    object_to_goal: Array
    object_to_tcp: Array
    success: bool
    failure: bool

    @property
    def image(self) -> Image | None:
        """Image of the task's first camera; None when the cell does not render."""
        return next(iter(self.images.values()), None)

    @property
    def time_s(self) -> float:
        """Simulated time since the reset [s]."""
        return self.stamp_ns * 1e-9


class _Simulation:
    """Physics of a scene with one object, and its renderer."""

    def __init__(self, task: Task, scene: SceneModel, errors: CellErrors | None) -> None:
        self._task = task
        self.errors = errors
        self.scene = scene
        self.model: Any = mujoco.MjModel.from_xml_string(scene.physics_mjcf())
        if errors:
            errors.prepare(self.model)
        self.data: Any = mujoco.MjData(self.model)
        self.tcp = int(self.model.site("tcp").id)
        self.felt = [int(self.model.body(name).id) for name in scene.felt_bodies]
        reset = self.to_world(np.array(task.reset.pose_base_tcp))
        self.q_reset = solve_ik(self.model, self.data, self.tcp, reset, NOMINAL_Q, "reset.pose_base_tcp")
        self.renderer: SceneRenderer | None = None
        self._seed = 0

    def restart(self, seed: int) -> Array:
        """Reset the state, vary placement, looks and start, and return the start pose (7,)."""
        model, data = self.model, self.data
        mujoco.mj_resetData(model, data)
        self._seed = seed
        self.scene.place(model, seed)
        if self.renderer is not None:
            self._vary(self.renderer)
        pose = self.scene.start_pose(seed)
        data.qpos[:ARM_JOINTS] = solve_ik(model, data, self.tcp, self.to_world(pose), self.q_reset, "start pose")
        self.scene.restart(model, data, seed)
        if self.errors:
            self.errors.restart(seed, data)
        return pose

    def to_world(self, pose_base: Array) -> Array:
        """Pose (7,) in the world of one in base; the ideal cell's base stands at the world's origin."""
        return self.errors.arm.to_world(pose_base) if self.errors else pose_base

    def to_base(self, pose_world: Array) -> Array:
        """Pose (7,) in base of one in the world."""
        return self.errors.arm.to_base(pose_world) if self.errors else pose_world

    def set_target(self, target_base_tcp: Array) -> None:
        """Set the target of the impedance controller at once."""
        target = self.to_world(target_base_tcp)
        self.data.mocap_pos[0], self.data.mocap_quat[0] = target[:3], wxyz(target[3:])

    def command(self, target_base_tcp: Array) -> None:
        """Set the target when it takes effect."""
        if self.errors:
            self.errors.later(lambda: self.set_target(target_base_tcp))
        else:
            self.set_target(target_base_tcp)

    def advance(self, steps: int) -> None:
        """Advance by a number of physics steps."""
        if self.errors:
            self.errors.advance(self.scene, self.model, self.data, steps)
        else:
            mujoco.mj_step(self.model, self.data, nstep=steps)

    def image(self, camera: str, width: int, height: int, qpos: Array | None = None) -> Image:
        """Image (height, width, 3) uint8 RGB of the present state, or of one with other joint positions."""
        if self.renderer is None:
            self.renderer = SceneRenderer(self.scene.drawn_mjcf(), fixed_cameras(self._task))
            if self.errors:
                self.errors.arm.place(self.renderer.model)
                self.renderer.displace(self._task, self.errors.day)
            self._vary(self.renderer)
        return self.renderer.image(self.data.qpos if qpos is None else qpos, camera, width, height)

    def _vary(self, renderer: SceneRenderer) -> None:
        self.scene.place(renderer.model, self._seed)
        renderer.vary(self._task, self._seed)

    def close(self) -> None:
        """Release the OpenGL contexts."""
        if self.renderer is not None:
            self.renderer.close()
            self.renderer = None


class Cell:
    """A cell with an arm and the scene of a task (`scene.kind`).

    task: configures scene, rates, action scale, box, gains, cameras and variation; object_name "" is the task's
    default; render False skips images; image_size_px is (width, height) of all images, default each camera's of the
    task; day: seed of what a calibration holds for (`scene.realism`), no effect in the ideal cell.
    Raises UserError on an unknown object, when two cameras would share the wrist, or when no OpenGL is usable.
    """

    def __init__(
        self,
        task: Task,
        object_name: str = "",
        render: bool = True,
        image_size_px: tuple[int, int] | None = None,
        day: int = 0,
    ) -> None:
        self.task = task
        self.object_name = task.object_or_default(object_name)
        self._render = render
        fixed = fixed_cameras(task)
        self._cameras = {
            name: (name if name in fixed else WRIST, *(image_size_px or (camera.width, camera.height)))
            for name, camera in task.cameras.items()
        }
        """Camera of the task -> camera of the renderer, width, height."""
        self._errors: CellErrors | None = None
        if task.scene.realism != "ideal":
            self._errors = CellErrors(task, day, {name: camera[1:] for name, camera in self._cameras.items()})
        self._simulations: dict[str, _Simulation] = {}
        self._box = task.box
        self._physics_steps = round(task.period_s / PHYSICS_STEP_S)
        self._simulation = self._select(self.object_name)
        if self._errors:
            self._errors.restart(0, self._simulation.data)  # an image can be asked for before the first reset
        self._last_pose = np.array(task.reset.pose_base_tcp)
        self.set_mode("compliant")

    def _select(self, object_name: str) -> _Simulation:
        if object_name not in self._simulations:
            scene = simulated(self.task).model(self.task, object_name)
            self._simulations[object_name] = _Simulation(self.task, scene, self._errors)
        self.object_name = object_name
        return self._simulations[object_name]

    def reset(self, seed: int, object_name: str = "") -> SensorFrame:
        """Put the arm at rest at the start pose of `seed`, vary scene and looks, and return the first frame.

        Everything random derives from the seed alone: the same seed and object give bit-identical frames.
        """
        if object_name:
            self._simulation = self._select(self.task.object_or_default(object_name))
        pose = self._simulation.restart(seed)
        self.set_mode("compliant")
        self._simulation.set_target(pose)
        return self._frame(self._render)

    def step(self, action: ArrayLike) -> SensorFrame:
        """Advance one control period. action (6,) or (7,) in [-1, 1]: body-frame delta of the measured pose, gripper.

        The rule is the gate's (`rldg_core.commands`): the target is clipped to the task's safety box.
        """
        return self.execute(action)[0]

    def execute(self, action: ArrayLike) -> tuple[SensorFrame, Array32]:
        """Advance as `step` does; also return the action as it was executed, float32 like an ExecutedAction's."""
        asked = np.asarray(action, dtype=np.float32)
        target, executed, _, _ = command_of(asked, self._last_pose, self.task.action, self._box)
        if len(executed) > 6 and abs(executed[6]) > GRIPPER_THRESHOLD:
            self.command_gripper(GRIPPER_MAX_WIDTH_M if executed[6] > 0 else 0.0)
        return self.step_to(target), executed

    def step_to(self, target_base_tcp: ArrayLike) -> SensorFrame:
        """Advance one control period towards a target pose (7,) that the caller has already clipped."""
        self.hold(target_base_tcp)
        self._simulation.advance(self._physics_steps)
        return self._frame(self._render)

    def hold(self, target_base_tcp: ArrayLike) -> None:
        """Set the target without advancing; it stays until the next one, as in crisp_controllers."""
        self._simulation.command(np.asarray(target_base_tcp, dtype=np.float64))

    def command_gripper(self, width_m: float) -> None:
        """Command the fingers' distance [m] without advancing; it stays until the next command or reset."""
        self._simulation.scene.command_gripper(self._simulation.data, width_m)

    def advance(self, duration_s: float) -> SensorFrame:
        """Advance the physics towards the last target; the frame has no image (see `image`)."""
        self._simulation.advance(max(1, round(duration_s / PHYSICS_STEP_S)))
        return self._frame(render=False)

    def images(self) -> dict[str, Image]:
        """Image of every camera of the task now, (height, width, 3) uint8 RGB; all show the same moment."""
        return self._images(self._cameras)

    def image(self) -> Image:
        """Image of the task's first camera now."""
        first = next(iter(self._cameras))
        return self._images([first])[first]

    def _images(self, names: Iterable[str]) -> dict[str, Image]:
        errors = self._errors
        if errors is None:
            return {name: self._simulation.image(*self._cameras[name]) for name in names}
        qpos = errors.past.look()
        return {name: errors.cameras[name].seen(self._simulation.image(*self._cameras[name], qpos)) for name in names}

    def camera_view(self, camera: str) -> CameraView:
        """Where a camera of the task was when it took the last image, and how it projects; call `images` first."""
        renderer = self._simulation.renderer
        assert renderer is not None
        view = renderer.view(self._cameras[camera][0])
        return replace(view, pose_base_optical=self._simulation.to_base(view.pose_base_optical))

    def render_scene(self, width: int, height: int) -> Image:
        """Third-person view, (height, width, 3) uint8 RGB, drawn at twice the size for smooth edges."""
        large = self._simulation.image(SCENE, 2 * width, 2 * height).astype(np.uint16)
        quarters = large[0::2, 0::2] + large[1::2, 0::2] + large[0::2, 1::2] + large[1::2, 1::2]
        return (quarters // 4).astype(np.uint8)

    def set_mode(self, mode: Literal["compliant", "precise"]) -> None:
        """Choose the impedance gains of the task; a reset returns to compliant."""
        bias, limits = impedance_parameters(getattr(self.task.impedance, mode))
        model = self._simulation.model
        model.actuator_biasprm[:CARTESIAN_ACTUATORS, :3] = bias
        model.actuator_forcerange[:CARTESIAN_ACTUATORS] = limits

    def close(self) -> None:
        """Release the OpenGL contexts."""
        for simulation in self._simulations.values():
            simulation.close()

    def _frame(self, render: bool) -> SensorFrame:
        simulation = self._simulation
        model, data = simulation.model, simulation.data
        # mj_step leaves poses and contacts one physics step behind the state: bring them up to date.
        mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        pose = site_pose(data, simulation.tcp)
        twist, wrench = self._twist_and_wrench(pose)
        pose = simulation.to_base(pose)
        if self._errors:
            pose = self._errors.sensors.pose(pose)
        self._last_pose = pose
        truth = simulation.scene.truth(model, data)
        return SensorFrame(
            stamp_ns=round(data.time * 1e9),
            pose_base_tcp=pose,
            twist_base_tcp=twist,
            wrench_tcp=wrench,
            joint_positions=data.qpos[:ARM_JOINTS].copy(),
            joint_velocities=data.qvel[:ARM_JOINTS].copy(),
            gripper_width_m=simulation.scene.gripper_width_m(data),
            images=self.images() if render else {},
            object_to_goal=truth.object_to_goal,
            object_to_tcp=truth.object_to_tcp,
            success=truth.success,
            failure=truth.failure,
        )

    def _twist_and_wrench(self, pose_world: Array) -> tuple[Array, Array]:
        """True twist of the tcp in base axes, and the wrench that the robot reports."""
        simulation, errors = self._simulation, self._errors
        jacobian = np.zeros((6, simulation.model.nv))
        mujoco.mj_jacSite(simulation.model, simulation.data, jacobian[:3], jacobian[3:], simulation.tcp)
        twist: Array = jacobian[:, :ARM_JOINTS] @ simulation.data.qvel[:ARM_JOINTS]
        rotation = simulation.data.site_xmat[simulation.tcp].reshape(3, 3)
        wrench = self._wrench(pose_world, rotation)
        if errors is None:
            return twist, wrench
        return errors.arm.twist_to_base(twist), errors.wrench(wrench, jacobian, rotation, simulation.data)

    def _wrench(self, pose_world: Array, rotation: Array) -> Array:
        """True wrench of the tool on the environment, at the tcp in tcp axes."""
        simulation = self._simulation
        torque, force = np.split(simulation.data.cfrc_ext[simulation.felt].sum(axis=0), 2)
        # cfrc_ext is about the centre of mass of the whole arm.
        com = simulation.data.subtree_com[simulation.model.body_rootid[simulation.felt[0]]]
        (x, y, z), (fx, fy, fz) = com - pose_world[:3], force
        at_tcp = torque + np.array([y * fz - z * fy, z * fx - x * fz, x * fy - y * fx])
        return -np.concatenate([rotation.T @ force, rotation.T @ at_tcp])
