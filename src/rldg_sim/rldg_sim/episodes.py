"""Whole episodes of the Gymnasium environment as Steps: what the stack's nodes would have recorded of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rldg_core.task import Task
from rldg_core.types import ExecutedAction, Observation, Source, Step
from rldg_sim.cell import SensorFrame
from rldg_sim.env import CellEnv
from rldg_sim.operators.config import Operator

Action = NDArray[np.float32]
Act = Callable[[Observation], Action]
OnStep = Callable[[Step], None]
Judge = Callable[[Observation], bool]
"""A reward classifier with its hysteresis: whether this observation ends the episode as a success."""


@dataclass(frozen=True)
class Episode:
    """How an episode ended. success: by the reward in use; true_success: by the simulator's ground truth."""

    success: bool
    true_success: bool
    steps: int
    interventions: int


def hold(task: Task) -> Act:
    """Return a policy that holds still."""
    still = np.zeros(task.action.dim, np.float32)
    return lambda _observation: still


def ask(operator: Operator, frame: SensorFrame) -> tuple[NDArray[np.float64], bool]:
    """Return what an operator does at a frame, and whether it acts at all."""
    truth = frame.object_to_goal, frame.object_to_tcp
    return operator.act(frame.pose_base_tcp, frame.wrench_tcp, *truth, frame.gripper_width_m, frame.time_s)


def run_episode(
    env: CellEnv,
    seed: int,
    act: Act,
    operator: Operator | None = None,
    on_step: OnStep = lambda step: None,
    judge: Judge | None = None,
    episode_id: str = "",
    step_count: int = 0,
) -> Episode:
    """Run one episode; an operator that acts overrides the policy.

    on_step gets every Step, the last one included; step_count: Steps of the run before this episode.
    """
    task, object_name = env.task, env.cell.object_name
    if operator is not None:
        operator.reset(seed)
    env.reset(seed=seed)
    frame, seen = env.frame, env.observation
    success, failure, index, interventions = _success(frame, seen, judge), frame.failure, 0, 0
    limit = task.episode.max_steps

    def step(action: ExecutedAction, observation: Observation, is_last: bool) -> Step:
        return Step(
            episode_id=episode_id,
            index=index,
            step_count=step_count + index,
            task=task.name,
            object=object_name,
            instruction=task.instruction(object_name),
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
        pushed, active = ask(operator, frame) if operator is not None else (asked, False)
        if active:
            asked, source = np.zeros(task.action.dim, np.float32), Source.SCRIPTED
            asked[: len(pushed)] = pushed
            interventions += 1
        before, stamp_ns = seen, frame.stamp_ns
        _, _, _, _, info = env.step(asked)
        frame, seen = env.frame, env.observation
        success, failure = _success(frame, seen, judge), frame.failure
        on_step(step(ExecutedAction(stamp_ns, asked, info["executed"], source), before, is_last=False))
        index += 1
        if success or failure or index >= limit:
            nothing = np.zeros(0, np.float32)
            on_step(step(ExecutedAction(frame.stamp_ns, nothing, nothing, Source.NONE), seen, is_last=True))
            return Episode(success, frame.success, index, interventions)


def _success(frame: SensorFrame, seen: Observation, judge: Judge | None) -> bool:
    return frame.success if judge is None else judge(seen)
