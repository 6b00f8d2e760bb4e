"""The simulated cell as a Gymnasium environment: observations and actions as policies see them, without ROS.

    env = gymnasium.make("rldg_sim.env:rldg/Cell-v0", task="insertion.yaml")

One step is one control period of the task. The same seed and actions give the same observations, bit for bit, and
they are those of the stack in lock-step: images are cropped, resized and compressed, the twist is estimated, and
actions are executed as the observer and the gate do it (rldg_core).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.image_codec import decode_jpeg, policy_jpeg
from rldg_core.task import Task, load_task
from rldg_core.twist import TwistEstimator
from rldg_core.types import Observation
from rldg_sim.cell import Cell, SensorFrame

STATE_DIM = 20
SCENE_SIZE_PX = (480, 360)


class CellEnv(gymnasium.Env[dict[str, Any], NDArray[np.float32]]):
    """One task in one cell.

    Observation: `state` (20,) float32: pose of the tcp in base (7,) [m, xyzw], gripper width [m], twist in base axes
    (6,) [m/s, rad/s], wrench in tcp axes (6,) [N, N m]; and an image (S, S, 3) uint8 RGB of each camera by its name.
    Action: (6,) or (7,) float32 in [-1, 1], see `rldg_core.commands`. Reward: 1 at success, which terminates, as a
    failure of the task does; `episode.max_steps` of the task truncates. info: `success`, `executed` (the action after
    clipping), and the ground truth `object_to_goal` (7,), see SensorFrame.

    `frame` and `observation` are the last SensorFrame and what a Policy takes of it.

    task: a Task or its YAML file; object_name "": the task's default, or the option `object` of `reset`; images False
    leaves them out, and most of the time that a step takes; day: see Cell. Raises UserError as Cell does.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  (Gymnasium's name and type)

    def __init__(
        self,
        task: Task | Path | str,
        object_name: str = "",
        images: bool = True,
        render_mode: str | None = None,
        day: int = 0,
    ) -> None:
        self.task = task if isinstance(task, Task) else load_task(Path(task))
        self.cell = Cell(self.task, object_name, render=images, day=day)
        self.render_mode = render_mode
        cameras = self.task.cameras if images else {}
        if "state" in cameras:
            raise UserError(
                f"task {self.task.name}: cameras.state: the observation's state has this name, choose another"
            )
        sizes = {name: (camera.image_size, camera.image_size, 3) for name, camera in cameras.items()}
        state = spaces.Box(-np.inf, np.inf, (STATE_DIM,), np.float32)
        pictures = {name: spaces.Box(0, 255, size, np.uint8) for name, size in sizes.items()}
        self.observation_space = spaces.Dict({"state": state, **pictures})
        self.action_space = spaces.Box(-1.0, 1.0, (self.task.action.dim,), np.float32)
        self._steps = 0
        self.frame: SensorFrame
        self.observation: Observation

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode. seed None: drawn from the environment's generator, which the last seed has started."""
        super().reset(seed=seed)
        episode_seed = int(self.np_random.integers(2**32)) if seed is None else seed
        frame = self.cell.reset(episode_seed, str((options or {}).get("object", "")))
        self._twist = TwistEstimator(self.task.period_ns)
        self._steps = 0
        return self._take(frame), self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Advance one control period. Raises ValueError on an action of another shape or that is not finite."""
        asked = np.asarray(action, dtype=np.float32)
        if asked.shape != self.action_space.shape or not np.all(np.isfinite(asked)):
            raise ValueError(f"action: expected {self.action_space.shape} finite numbers, got {asked!r}")
        frame, executed = self.cell.execute(asked)
        self._steps += 1
        seen = self._take(frame)
        ends = frame.success or frame.failure
        truncated = not ends and self._steps >= self.task.episode.max_steps
        return seen, float(frame.success), ends, truncated, self._info() | {"executed": executed}

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """Third-person view (360, 480, 3)."""
        return self.cell.render_scene(*SCENE_SIZE_PX) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Release the OpenGL contexts."""
        self.cell.close()

    def _info(self) -> dict[str, Any]:
        return {"success": self.frame.success, "object_to_goal": self.frame.object_to_goal}

    def _take(self, frame: SensorFrame) -> dict[str, Any]:
        """Set the current frame and return its observation."""
        jpegs = {name: policy_jpeg(image, self.task.cameras[name]) for name, image in frame.images.items()}
        twist = self._twist.update(frame.stamp_ns, frame.pose_base_tcp)
        self.frame = frame
        self.observation = Observation(
            frame.stamp_ns,
            jpegs,
            frame.pose_base_tcp,
            twist,
            frame.wrench_tcp,
            frame.joint_positions,
            frame.gripper_width_m,
        )
        state = np.concatenate([frame.pose_base_tcp, [frame.gripper_width_m], twist, frame.wrench_tcp])
        return {"state": state.astype(np.float32)} | {name: decode_jpeg(jpeg) for name, jpeg in jpegs.items()}


gymnasium.register("rldg/Cell-v0", entry_point="rldg_sim.env:CellEnv")
