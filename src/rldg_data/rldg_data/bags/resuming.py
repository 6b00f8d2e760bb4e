"""Find where to resume a run from its closed bags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rldg_data.bags.reading import find_bags, read_episode


@dataclass(frozen=True)
class ResumePoint:
    """Number of the next episode, transitions before it, stamp of the last observation [ns]; zeros for a new run."""

    episode: int = 0
    step_count: int = 0
    stamp_ns: int = 0


def resume_point(bag_dir: Path) -> ResumePoint:
    """Read the position from the newest bag. Raises UserError when it is damaged."""
    bags = find_bags(bag_dir) if bag_dir.is_dir() else []
    if not bags:
        return ResumePoint()
    last = read_episode(bags[-1])[-1]
    number = last.episode_id.rpartition("/")[2]
    episode = int(number) + 1 if number.isdecimal() else len(bags)
    return ResumePoint(episode, last.step_count, last.observation.stamp_ns)


def set_interrupted_aside(bag_dir: Path, max_steps: int) -> Path | None:
    """Move the newest bag to `<run>/interrupted` when its episode was stopped before its time limit.

    In lock-step that is the episode during which the stack was stopped; a resumed run repeats it. Returns the new path
    of the bag.
    """
    bags = find_bags(bag_dir) if bag_dir.is_dir() else []
    if not bags:
        return None
    last = read_episode(bags[-1])[-1]
    if not last.truncated or last.index >= max_steps:
        return None
    folder = bag_dir.parent / "interrupted"
    folder.mkdir(exist_ok=True)
    aside = folder / f"{bags[-1].name}_{len(list(folder.iterdir()))}"
    bags[-1].rename(aside)
    return aside
