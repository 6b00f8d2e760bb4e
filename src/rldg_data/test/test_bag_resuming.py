"""Where a run continues, and what happens to the bag of an interrupted episode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rldg_core.types import Step
from rldg_data.bags.reading import find_bags
from rldg_data.bags.recording import write_episode
from rldg_data.bags.resuming import ResumePoint, resume_point, set_interrupted_aside
from rldg_data.testing.steps import make_episode, make_task


def run_of(bag_dir: Path, lengths: list[int], truncated: bool = False) -> list[Step]:
    """Write bags training-0/000000, ... with increasing step_count; return the last episode."""
    count, steps = 0, []
    for number, length in enumerate(lengths):
        ends = truncated and number == len(lengths) - 1
        steps = [
            replace(
                step,
                episode_id=f"training-0/{number:06d}",
                step_count=count + step.index,
                terminated=step.terminated and not ends,
                truncated=ends and step.index >= length - 1,
            )
            for step in make_episode(length, seed=number, success=not ends)
        ]
        write_episode(bag_dir, steps, make_task())
        count += length
    return steps


def test_new_run_starts_at_zero(tmp_path: Path) -> None:
    assert resume_point(tmp_path / "nowhere") == resume_point(tmp_path) == ResumePoint(0, 0, 0)
    assert set_interrupted_aside(tmp_path, 100) is None


def test_run_continues_after_its_newest_bag(tmp_path: Path) -> None:
    last = run_of(tmp_path / "bags", [4, 6])
    assert resume_point(tmp_path / "bags") == ResumePoint(2, 10, last[-1].observation.stamp_ns)
    assert set_interrupted_aside(tmp_path / "bags", 100) is None


def test_only_an_interrupted_episode_is_set_aside(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    run_of(bags, [4, 6], truncated=True)
    assert set_interrupted_aside(bags, 6) is None  # the episode reached its time limit
    aside = set_interrupted_aside(bags, 7)
    assert aside == tmp_path / "interrupted" / "episode_000001_0"
    assert aside.is_dir()
    assert [bag.name for bag in find_bags(bags)] == ["episode_000000"]
    assert resume_point(bags).episode == 1
