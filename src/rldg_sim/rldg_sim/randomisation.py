"""Randomisation that all scenes share: start pose, light, colours and camera mounts.

Everything derives from the seed of the episode alone; each subject has a random stream of its own, so that switching
one off does not change the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rldg_core.frames import pose_at
from rldg_core.scenes import SceneConfig
from rldg_core.seeding import derive_seed
from rldg_core.task import Task

Array = NDArray[np.float64]


def stream(seed: int, subject: str) -> np.random.Generator:
    """Return the random generator of one subject in the episode of this seed."""
    return np.random.default_rng(derive_seed(seed, "cell", subject))


def start_pose(task: Task, seed: int) -> Array:
    """Start pose (7,) of the tcp in base: uniform around the task's reset pose, inside the safety box."""
    reset = task.reset
    half = np.array([reset.xy_m, reset.xy_m, reset.z_m, 0.0, 0.0, reset.yaw_rad])
    drawn = pose_at(reset.pose_base_tcp, stream(seed, "start").uniform(-half, half))
    return task.box.clip(drawn)[0]


@dataclass(frozen=True)
class Appearance:
    """The looks of the model as compiled; each variation starts from them, so that none accumulates."""

    geom_rgba: Any
    light_diffuse: Any
    light_dir: Any
    headlight_diffuse: Any
    camera_pos: Any
    camera_quat: Any

    @classmethod
    def of(cls, model: Any) -> Appearance:
        """Copy the looks of a model that was just compiled."""
        return cls(
            model.geom_rgba.copy(),
            model.light_diffuse.copy(),
            model.light_dir.copy(),
            np.array(model.vis.headlight.diffuse),
            model.cam_pos.copy(),
            model.cam_quat.copy(),
        )


def vary_looks(model: Any, looks: Appearance, scene: SceneConfig, seed: int) -> None:
    """Write this seed's light and colours into the model."""
    light = stream(seed, "light")
    gain = 1.0 + scene.light * light.uniform(-1.0, 1.0, (len(looks.light_diffuse), 1))
    model.light_diffuse[:] = looks.light_diffuse * gain
    model.light_dir[:] = looks.light_dir + scene.light * light.uniform(-0.5, 0.5, looks.light_dir.shape)
    model.light_dir[:] /= np.linalg.norm(model.light_dir, axis=1, keepdims=True)
    model.vis.headlight.diffuse[:] = looks.headlight_diffuse * (1.0 + scene.light * light.uniform(-1.0, 1.0))

    # Geoms of one colour are one material: they change together.
    materials, material_of_geom = np.unique(looks.geom_rgba, axis=0, return_inverse=True)
    draw = stream(seed, "colour").uniform(-1.0, 1.0, (len(materials), 4))
    shift = scene.colour * (draw[:, :1] + 0.4 * draw[:, 1:])  # brightness, and less of hue
    model.geom_rgba[:, :3] = np.clip(looks.geom_rgba[:, :3] + shift[material_of_geom], 0.0, 1.0)


def vary_mount(model: Any, looks: Appearance, scene: SceneConfig, camera: int, subject: str, seed: int) -> None:
    """Write this seed's pose of a camera into the model."""
    mount = stream(seed, subject)
    model.cam_pos[camera] = looks.camera_pos[camera] + mount.uniform(-scene.camera_m, scene.camera_m, 3)
    model.cam_quat[camera] = turned(looks.camera_quat[camera], mount.uniform(-scene.camera_rad, scene.camera_rad, 3))


def turned(quaternion_wxyz: Array, rotation_vector: Array) -> Array:
    """Return MuJoCo's quaternion (4,) after a rotation (3,) [rad] in its own axes."""
    rotation = Rotation.from_quat(np.roll(quaternion_wxyz, -1)) * Rotation.from_rotvec(rotation_vector)
    return np.roll(rotation.as_quat(), 1)
