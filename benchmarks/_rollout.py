"""Episodes on the simulated cell without ROS, Step for Step what the stack's nodes make of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_control.observe import TwistEstimator
from rldg_core.frames import compose_delta, delta_between
from rldg_core.image_codec import encode_jpeg, resize
from rldg_core.task import Task
from rldg_core.types import ExecutedAction, Observation, Source, Step
from rldg_sim.cell import Cell, SensorFrame
from rldg_sim.operator import ScriptedOperator

Action = NDArray[np.float32]
Act = Callable[[Observation], Action]
Take = Callable[[Step], None]
Judge = Callable[[Observation], bool]
"""A reward classifier with its hysteresis: whether this observation ends the episode as a success."""


@dataclass(frozen=True)
class Episode:
    """How an episode ended. success: by the reward in use; true_success: by the simulator's ground truth."""

    success: bool
    true_success: bool
    steps: int
    interventions: int


class Rollout:
    """One task in one cell. render: whether observations hold the wrist image."""

    def __init__(self, task: Task, object_name: str, render: bool) -> None:
        self.task = task
        self.cell = Cell(task, object_name, render=render)
        self._camera_name, self._camera = next(iter(task.cameras.items()))
        self._twist = TwistEstimator(task.period_ns)

    def observe(self, frame: SensorFrame) -> Observation:
        """What the observer makes of a sensor frame."""
        images = {}
        if frame.image is not None:
            image = resize(frame.image, self._camera.image_size)
            images[self._camera_name] = encode_jpeg(image, self._camera.jpeg_quality)
        return Observation(
            frame.stamp_ns,
            images,
            frame.pose_base_tcp,
            self._twist.update(frame.stamp_ns, frame.pose_base_tcp),
            frame.wrench_tcp,
            frame.joint_positions,
            frame.gripper_width_m,
        )

    def execute(self, frame: SensorFrame, asked: Action) -> tuple[SensorFrame, Action]:
        """What the gate and the cell make of an action: the next frame, and the action after clipping to the box."""
        task = self.task
        asked = np.clip(asked, -1.0, 1.0)
        wanted = compose_delta(frame.pose_base_tcp, task.action.to_delta_tcp(asked))
        target, _ = task.box.clip(wanted)
        executed = asked.copy()
        executed[:6] = np.clip(task.action.from_delta_tcp(delta_between(frame.pose_base_tcp, target)), -1.0, 1.0)
        return self.cell.step(asked), executed

    def run(
        self,
        episode_id: str,
        seed: int,
        step_count: int,
        act: Act,
        operator: ScriptedOperator | None = None,
        take: Take = lambda step: None,
        judge: Judge | None = None,
    ) -> Episode:
        """One episode; every Step, the last one included, goes to `take`."""
        task, cell = self.task, self.cell
        frame = cell.reset(seed)
        if operator is not None:
            operator.reset(seed)
        seen = self.observe(frame)
        success, failure, index, interventions = _verdict(frame, seen, judge), frame.failure, 0, 0
        limit = task.episode.max_steps

        def step(action: ExecutedAction, observation: Observation, is_last: bool) -> Step:
            return Step(
                episode_id=episode_id,
                index=index,
                step_count=step_count + index,
                task=task.name,
                object=cell.object_name,
                instruction=task.instruction(cell.object_name),
                seed=seed,
                observation=observation,
                action=action,
                reward=float(success and not is_last),
                terminated=success or failure,
                truncated=not success and not failure and index + (not is_last) >= limit,
                is_first=index == 0,
                is_last=is_last,
                success=success,
            )

        while True:
            asked, source = np.asarray(act(seen), np.float32), Source.POLICY
            if operator is not None:
                pushed, active = operator.act(
                    frame.pose_base_tcp,
                    frame.wrench_tcp,
                    frame.object_to_goal,
                    frame.object_to_tcp,
                    frame.gripper_width_m,
                    frame.time_s,
                )
                if active:
                    asked, source = np.asarray(pushed, np.float32), Source.SCRIPTED
                    interventions += 1
            before, stamp_ns = seen, frame.stamp_ns
            frame, executed = self.execute(frame, asked)
            seen = self.observe(frame)
            success, failure = _verdict(frame, seen, judge), frame.failure
            take(step(ExecutedAction(stamp_ns, asked, executed, source), before, is_last=False))
            index += 1
            if success or failure or index >= limit:
                nothing = np.zeros(0, np.float32)
                take(step(ExecutedAction(frame.stamp_ns, nothing, nothing, Source.NONE), seen, is_last=True))
                return Episode(success, frame.success, index, interventions)


def _verdict(frame: SensorFrame, seen: Observation, judge: Judge | None) -> bool:
    return frame.success if judge is None else judge(seen)


def hold(task: Task) -> Act:
    """A policy that holds still."""
    still = np.zeros(task.action.dim, np.float32)
    return lambda _observation: still


def episodes(outcomes: list[Episode]) -> dict[str, Any]:
    """Successes by ground truth and mean number of steps."""
    return {
        "successes": sum(o.true_success for o in outcomes),
        "episodes": len(outcomes),
        "mean_steps": round(float(np.mean([o.steps for o in outcomes])), 1),
    }
