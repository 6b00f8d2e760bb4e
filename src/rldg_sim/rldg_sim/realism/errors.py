"""The errors of a cell on one day, and the physics that they act on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from rldg_core.task import Task
from rldg_sim.mjcf import PHYSICS_STEP_S
from rldg_sim.panda import ARM_JOINTS
from rldg_sim.randomisation import stream
from rldg_sim.realism.arm import ArmErrors
from rldg_sim.realism.camera import CameraErrors, PastStates
from rldg_sim.realism.presets import PRESETS
from rldg_sim.realism.sensors import SensorErrors
from rldg_sim.scene_model import SceneModel

Array = NDArray[np.float64]

CHUNK_STEPS = 20
"""Physics steps between two states that images can show."""
CONTACT_S = 0.003
"""Time constant of every contact: plugs sink in by hundredths of a millimetre, with the ideal cell's by tenths."""


class CellErrors:
    """Errors of arm, sensors and cameras of a task's preset.

    sizes: (width, height) of the image of each camera of the task.
    """

    def __init__(self, task: Task, day: int, sizes: Mapping[str, tuple[int, int]]) -> None:
        realism = PRESETS[task.scene.realism]
        self.day = day
        self.arm = ArmErrors(realism.arm, day, np.array(task.target_pose_base_tcp))
        self.sensors = SensorErrors(realism.sensors)
        camera = realism.camera
        self.cameras = {name: CameraErrors(camera, day, name, *size) for name, size in sizes.items()}
        self.past = PastStates((camera.age_low_s, camera.age_high_s), CHUNK_STEPS * PHYSICS_STEP_S)
        self._delay_steps = round(realism.arm.delay_s / PHYSICS_STEP_S)
        self._clear()

    def _clear(self) -> None:
        self._steps = 0
        self._late: tuple[int, Callable[[], None]] | None = None

    def prepare(self, model: Any) -> None:
        """Write what does not change into a physical model that was just compiled."""
        self.arm.place(model)
        self.arm.stiffen(model)
        model.geom_solref[:, 0] = CONTACT_S

    def restart(self, seed: int, data: Any) -> None:
        """Begin the episode of this seed; data: its start state."""
        self._clear()
        self._random = stream(seed, "delay")
        self.sensors.restart(seed)
        self.past.restart(seed, data.qpos)
        for camera in self.cameras.values():
            camera.restart(seed)

    def later(self, set_target: Callable[[], None]) -> None:
        """Set a target when it takes effect; one that is still on its way is overtaken."""
        self._late = self._steps + int(self._random.integers(self._delay_steps + 1)), set_target

    def advance(self, scene: SceneModel, model: Any, data: Any, steps: int) -> None:
        """Advance the physics of a scene by a number of steps."""
        # Once per call: it varies with the posture, which changes little in a control period.
        data.qfrc_applied[:ARM_JOINTS] = self.arm.torques_nm(data.qpos[:ARM_JOINTS])
        end = self._steps + steps
        while self._steps < end:
            if self._late is not None and self._late[0] <= self._steps:
                self._late[1]()
                self._late = None
            stop = min(end, self._steps + CHUNK_STEPS - self._steps % CHUNK_STEPS)
            if self._late is not None:
                stop = min(stop, self._late[0])
            mujoco.mj_step(model, data, nstep=stop - self._steps)
            self._steps = stop
            if stop % CHUNK_STEPS == 0:
                self.past.keep(data.qpos)
                scene.resist(model, data)

    def wrench(self, wrench_tcp: Array, jacobian: Array, rotation: Array, data: Any) -> Array:
        """Return the estimated wrench (6,) in tcp axes.

        wrench_tcp (6,): the true one; jacobian (6, n) of the tcp in world axes; rotation (3, 3): tcp in the world.
        """
        arm = jacobian[:, :ARM_JOINTS]
        torques_nm = self.arm.torques_nm(data.qpos[:ARM_JOINTS])
        in_world = np.linalg.solve(arm @ arm.T, arm @ torques_nm)
        model_error = (in_world.reshape(2, 3) @ rotation).ravel()
        speed_m_s = float(np.linalg.norm(arm[:3] @ data.qvel[:ARM_JOINTS]))
        return self.sensors.wrench(wrench_tcp, model_error, speed_m_s, float(data.time))
