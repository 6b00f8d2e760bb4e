"""What cameras see: a model without physics that follows the joints of the physical one, and its cameras."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rldg_core.frames import pose
from rldg_core.seeding import derive_seed
from rldg_core.task import FixedMount, Task
from rldg_sim import gl, looks
from rldg_sim.randomisation import Appearance, turned, vary_looks, vary_mount
from rldg_sim.realism.presets import PRESETS

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

WRIST = "wrist"
"""Camera that every scene draws in the hand; SCENE: the third-person view."""
SCENE = "scene"
_OPTICAL_FROM_MUJOCO = np.diag([1.0, -1.0, -1.0])
"""MuJoCo's cameras look along -z with y up; optical frames along z with y down (REP-103)."""


@dataclass(frozen=True)
class CameraView:
    """pose_base_optical (7,): x right, y down, z forward; fovy_rad: vertical angle of view."""

    pose_base_optical: Array
    fovy_rad: float

    def intrinsics(self, width: int, height: int) -> Array:
        """Return the camera matrix K (3, 3) [px] of an image of that size: square pixels, centres at whole numbers."""
        focal = height / 2 / math.tan(self.fovy_rad / 2)
        return np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])


def camera_view(position: Array, axes: Array, fovy_deg: float) -> CameraView:
    """Of MuJoCo's camera: position (3,) [m] and axes (9,), both in base, and vertical angle."""
    rotation = Rotation.from_matrix(np.reshape(axes, (3, 3)) @ _OPTICAL_FROM_MUJOCO)
    return CameraView(pose(np.array(position), rotation.as_quat()), math.radians(fovy_deg))


class SceneRenderer:
    """What cameras see of one scene; created when the first image is asked for.

    Its cameras are the scene's own two, WRIST and SCENE, and the task's fixed ones by their names in the task.
    """

    def __init__(self, drawn_mjcf: str, fixed: Mapping[str, FixedMount]) -> None:
        self.model: Any = _with_cameras(drawn_mjcf, fixed)
        self.data: Any = mujoco.MjData(self.model)
        self.looks = Appearance.of(self.model)
        self._ids = {WRIST: int(self.model.camera(WRIST).id), SCENE: int(self.model.camera(SCENE).id)}
        self._ids |= {name: int(self.model.camera(_fixed_name(name)).id) for name in fixed}
        self._fixed = tuple(fixed)
        self._near: Any = mujoco.MjvOption()
        self._near.geomgroup[1] = 0
        self._renderers: dict[tuple[int, int], Any] = {}

    def vary(self, task: Task, seed: int) -> None:
        """Write this seed's light, colours and camera mounts into the model."""
        vary_looks(self.model, self.looks, task.scene, seed)
        for name in (WRIST, *self._fixed):
            subject = "camera" if name == WRIST else _fixed_name(name)
            vary_mount(self.model, self.looks, task.scene, self._ids[name], subject, seed)

    def displace(self, task: Task, day: int) -> None:
        """Write the day's looks, and the day's error of the cameras' mounts; call once, before `vary` and `image`."""
        looks.write_day(self.model, self.looks, PRESETS[task.scene.realism].looks, day)
        realism = PRESETS[task.scene.realism].camera
        for name in (WRIST, *self._fixed):
            random = np.random.default_rng(derive_seed(day, "cell", "mount", name))
            index = self._ids[name]
            self.looks.camera_pos[index] += random.normal(0.0, 1.0, 3) * realism.mount_m
            turn = random.normal(0.0, 1.0, 3) * realism.mount_rad
            self.looks.camera_quat[index] = turned(self.looks.camera_quat[index], turn)

    def image(self, qpos: Array, camera: str, width: int, height: int) -> Image:
        """Image (height, width, 3) uint8 RGB at the physical model's qpos.

        The wrist's is without what it cannot see, and only SCENE has shadows and a sky: they double the time.
        """
        self.data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        renderer = self._renderer(width, height)
        renderer.update_scene(self.data, self._ids[camera], self._near if camera == WRIST else None)
        flags, pretty = renderer.scene.flags, camera == SCENE
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = pretty
        flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = pretty
        flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = pretty
        image: Image = renderer.render()
        return image

    def view(self, camera: str) -> CameraView:
        """A camera as it took the last image."""
        index = self._ids[camera]
        position, axes = self.data.cam_xpos[index], self.data.cam_xmat[index]
        return camera_view(position, axes, float(self.model.cam_fovy[index]))

    def _renderer(self, width: int, height: int) -> Any:
        if (width, height) not in self._renderers:
            try:
                self._renderers[(width, height)] = mujoco.Renderer(self.model, height, width)
            except Exception as error:  # each back-end raises its own type
                raise gl.no_gl_error(error) from error
        return self._renderers[(width, height)]

    def close(self) -> None:
        """Release the OpenGL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()


def _fixed_name(camera: str) -> str:
    """Name of a fixed camera in the model, apart from the scene's own."""
    return f"camera/{camera}"


def _with_cameras(drawn_mjcf: str, fixed: Mapping[str, FixedMount]) -> Any:
    if not fixed:
        return mujoco.MjModel.from_xml_string(drawn_mjcf)
    spec: Any = mujoco.MjSpec.from_string(drawn_mjcf)
    for name, mount in fixed.items():
        position = np.array(mount.position_base_m)
        quaternion = _looking_at(position, np.array(mount.aim_base_m))
        spec.worldbody.add_camera(name=_fixed_name(name), pos=position, quat=quaternion, fovy=mount.fovy_deg)
    return spec.compile()


def _looking_at(position: Array, aim: Array) -> Array:
    """Quaternion wxyz of a camera at `position` that looks at `aim`, its image's up as near to base z as can be."""
    back = (position - aim) / np.linalg.norm(position - aim)
    # Straight down, "up" of the image is x of base: away from the robot.
    up = np.array([1.0, 0.0, 0.0]) if abs(back[2]) > 0.999 else np.array([0.0, 0.0, 1.0])
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    xyzw = Rotation.from_matrix(np.column_stack([right, np.cross(back, right), back])).as_quat()
    return np.roll(xyzw, 1)
