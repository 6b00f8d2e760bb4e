"""Plans over synthetic bags, and what a dataset on disk holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rldg_core.types import Step
from rldg_data.bags.recording import write_episode
from rldg_data.plan import EpisodePlan, ImageFormat, Plan
from rldg_data.testing.steps import make_episode, make_task


def record(bag_dir: Path, **options: Any) -> list[Step]:
    """Write one synthetic episode as the next bag."""
    steps = make_episode(**options)
    write_episode(bag_dir, steps, make_task(options.get("gripper", False)), wall_time="now")
    return steps


def num_bytes(bag: Path) -> int:
    """Of all its files."""
    return sum(path.stat().st_size for path in bag.iterdir())


def plan_of(bag_dir: Path, *, val: int = 0, size_px: int | None = None, name: str = "insertion", **more: Any) -> Plan:
    """All bags of a folder, the last `val` of them in split val."""
    bags = sorted(bag_dir.glob("episode_*"))
    split = ["train"] * (len(bags) - val) + ["val"] * val
    episodes = tuple(
        EpisodePlan(s, (bag,), images=ImageFormat(size_px), num_bytes=num_bytes(bag))
        for s, bag in zip(split, bags, strict=True)
    )
    return Plan(name, "1.0.0", episodes, **more)


def content(path: Path) -> dict[str, bytes]:
    """File name -> bytes."""
    return {file.name: file.read_bytes() for file in path.iterdir()}  # bounded: files that a test wrote
