"""What the tests of recipes share: bags of chosen content, synthetic metadata of bags, a policy that remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from rldg_core.policy import PolicySpec
from rldg_core.task import Task
from rldg_core.types import Observation, Step
from rldg_data.bags.episode_info import EpisodeInfo
from rldg_data.bags.recording import write_episode
from rldg_data.recipe.selecting import RecordedBag
from rldg_data.testing.steps import make_episode, make_task


def record(bag_dir: Path, wall_time: str = "2026-03-01T12:00:00+00:00", **options: Any) -> Path:
    """Write `make_episode(**options)` as the next bag."""
    return write_episode(bag_dir, make_episode(**options), make_task(options.get("gripper", False)), wall_time)


def with_poses(steps: Sequence[Step], poses: NDArray[np.float64]) -> list[Step]:
    """The Steps at other places."""
    return [
        replace(step, observation=replace(step.observation, pose_base_tcp=pose))
        for step, pose in zip(steps, poses, strict=True)
    ]


def line(start_m: float, end_m: float, steps: int) -> NDArray[np.float64]:
    """Poses along x, tool down."""
    poses = np.zeros((steps, 7))
    poses[:, 0] = np.linspace(start_m, end_m, steps)
    poses[:, 3] = 1.0
    return poses


def record_line(bag_dir: Path, start_m: float, end_m: float, **options: Any) -> Path:
    """A bag whose tcp moves along x."""
    steps = make_episode(**options)
    moved = with_poses(steps, line(start_m, end_m, len(steps)))
    return write_episode(bag_dir, moved, make_task(options.get("gripper", False)), "now")


@st.composite
def infos(draw: st.DrawFn) -> EpisodeInfo:
    """Few different values, so that episodes share them."""
    return EpisodeInfo(
        task="insertion",
        object=draw(st.sampled_from(["usb_a", "hdmi", "vga"])),
        success=draw(st.booleans()),
        source=draw(st.sampled_from(["policy", "human"])),
        policy_id=draw(st.sampled_from(["", "specialist"])),
        policy_version=draw(st.integers(0, 3)),
        config_hash="c",
        episode_id=f"run/{draw(st.integers(0, 25))}",
        seed=0,
        instruction="insert",
        steps=draw(st.integers(0, 9)),
        wall_time="2026-03-01",
        action_scale_m=0.015,
        action_scale_rad=0.1,
    )


@st.composite
def recorded_sets(draw: st.DrawFn, max_size: int = 30) -> list[RecordedBag]:
    """Bags at different places, sizes all different so that none is taken for a copy."""
    return [
        RecordedBag(Path(f"/runs/{i // 7}/episode_{i % 7:06d}"), info, 1000 + i)
        for i, info in enumerate(draw(st.lists(infos(), min_size=1, max_size=max_size)))
    ]


class CountingPolicy:
    """A policy whose first action counts the observations since reset, in tenths; the rest of its chunk is 1."""

    def __init__(self, task: Task, log: list[tuple[str, int]]) -> None:
        self.spec = PolicySpec((), 0, 2, task.action.dim, 3, 10.0, version=12)
        self.log = log
        self.seen = 0

    def warm_up(self) -> None:
        self.log.append(("warm_up", 0))

    def reset(self, instruction: str, seed: int) -> None:
        self.log.append((instruction, seed))
        self.seen = 0

    def act(self, observation: Observation) -> NDArray[np.float32]:
        self.seen += 1
        chunk = np.ones((3, self.spec.action_dim), np.float32)
        chunk[0] = self.seen / 10
        return chunk

    def close(self) -> None: ...


def counting_policy_factory(log: list[tuple[str, int]]) -> Callable[..., CountingPolicy]:
    """What the entry point of such a back-end resolves to."""
    return lambda path, task, explore: CountingPolicy(task, log)
