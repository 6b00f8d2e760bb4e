"""What cameras see: a model without physics that follows the joints of the physical one."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from rldg_sim import gl
from rldg_sim.camera_view import CameraView, camera_view
from rldg_sim.randomisation import Looks

Array = NDArray[np.float64]
Image = NDArray[np.uint8]


class Drawing:
    """What cameras see of one scene; created when the first image is asked for."""

    def __init__(self, drawn_mjcf: str) -> None:
        self.model: Any = mujoco.MjModel.from_xml_string(drawn_mjcf)
        self.data: Any = mujoco.MjData(self.model)
        self.looks = Looks.of(self.model)
        self.wrist = int(self.model.camera("wrist").id)
        self._near: Any = mujoco.MjvOption()
        self._near.geomgroup[1] = 0
        self._renderers: dict[tuple[int, int], Any] = {}

    def image(self, qpos: Array, camera: str, width: int, height: int, *, pretty: bool) -> Image:
        """Image (height, width, 3) uint8 RGB at the physical model's qpos; pretty: with arm, shadows and sky."""
        self.data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        renderer = self._renderer(width, height)
        renderer.update_scene(self.data, camera, None if pretty else self._near)
        flags = renderer.scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = pretty
        flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = pretty
        flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = pretty
        image: Image = renderer.render()
        return image

    def wrist_view(self) -> CameraView:
        """The wrist camera as it took the last image."""
        position, axes = self.data.cam_xpos[self.wrist], self.data.cam_xmat[self.wrist]
        return camera_view(position, axes, float(self.model.cam_fovy[self.wrist]))

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
