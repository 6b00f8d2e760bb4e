"""Steps and tasks for the tests of rldg_rl."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rldg_core.frames import pose_at
from rldg_core.task import Task, load_task
from rldg_core.types import ExecutedAction, Observation, Source, Step
from rldg_rl.config import RLConfig, resolve

TASK_FILE = Path(__file__).resolve().parents[2] / "rldg_bringup/config/tasks/insertion.yaml"


@cache
def insertion() -> Task:
    """Return the connector task."""
    return load_task(TASK_FILE)


def small(**learner: Any) -> RLConfig:
    """Return a configuration whose updates take at most a millisecond."""
    defaults = {"updates_per_call": 5, "start_steps": 10, "period_steps": 10, "updates_per_step": 2.0}
    return resolve(
        "hil_serl",
        {
            "features": {"image_encoder": "none"},
            "network": {"hidden": [16, 16], "state_bottleneck": 0},
            "agent": {"batch_size": 16},
            "learner": {**defaults, **learner},
        },
    )


def observation(offset: Sequence[float], stamp_ns: int = 0, twist: Sequence[float] = (0.0,) * 6) -> Observation:
    """Return an observation at an offset from the target pose (6,)."""
    pose = pose_at(insertion().target_pose_base_tcp, offset)
    zero = np.zeros(6)
    return Observation(stamp_ns, {}, pose, np.asarray(twist, np.float64), zero, np.zeros(7), 0.01)


def episode(
    name: str,
    offsets: Sequence[Sequence[float]],
    step_count: int = 0,
    sources: Sequence[Source] | None = None,
    success: bool = True,
    truncated: bool = False,
    seed: int = 0,
) -> list[Step]:
    """Return Steps at these offsets with random actions: len(offsets) - 1 transitions and the last Step."""
    rng = np.random.default_rng(seed)
    last = len(offsets) - 1
    steps = []
    for index, offset in enumerate(offsets):
        is_last, ends = index == last, index >= last - 1
        action = np.zeros(0 if is_last else 6, np.float32)
        action[:] = rng.uniform(-1, 1, action.shape)
        source = Source.NONE if is_last else (sources[index] if sources else Source.POLICY)
        steps.append(
            Step(
                episode_id=name,
                index=index,
                step_count=step_count + index,
                task="insertion",
                object="vga",
                instruction="insert the VGA connector into the port",
                seed=seed,
                observation=observation(offset, stamp_ns=index * 100_000_000),
                action=ExecutedAction(index * 100_000_000, action, action, source),
                reward=float(success and index == last - 1),
                terminated=ends and not truncated,
                truncated=ends and truncated,
                is_first=index == 0,
                is_last=is_last,
                success=ends and success,
            )
        )
    return steps


def random_episodes(count: int, length: int, seed: int = 0, sources: Sequence[Source] | None = None) -> list[Step]:
    """Return `count` successive episodes of `length` transitions, with increasing step_count."""
    rng = np.random.default_rng(seed)
    steps: list[Step] = []
    for k in range(count):
        offsets = rng.uniform(-0.02, 0.02, (length + 1, 6))
        steps += episode(f"e{k:03d}", offsets, k * length, sources, success=k % 2 == 0, seed=seed + k)
    return steps
