"""Checks that need one episode alone: (Episode, Limits) -> problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from rldg_data.episodes.episode import Episode
from rldg_data.lint.findings import Limits, Problem, Problems

Numbers = Mapping[str, NDArray[np.float32]]


def numbers(episode: Episode) -> Numbers:
    """The numeric arrays of an episode by their names in the dataset."""
    return {
        "action": episode.action,
        "state": episode.state,
        "twist": episode.twist,
        "wrench": episode.wrench,
        "reward": episode.reward,
        "timestamp": episode.timestamp_s,
    }


def finite(episode: Episode, limits: Limits) -> Problems:
    """NaN or Inf poisons statistics and gradients."""
    for name, values in numbers(episode).items():
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if len(bad):
            yield Problem("error", "not_finite", f"{name} is not finite in {len(bad)} steps, first in step {bad[0]}")


def stamps(episode: Episode, limits: Limits) -> Problems:
    """Stamps that go back, and pauses."""
    periods_s = np.diff(episode.timestamp_s.astype(np.float64))
    back = np.flatnonzero(periods_s <= 0)
    if len(back):
        yield Problem("error", "stamps", f"{len(back)} stamps do not increase, first in step {back[0] + 1}")
        return
    if not len(periods_s) or not np.isfinite(periods_s).all():
        return
    usual_s = float(np.median(periods_s))
    gaps = np.flatnonzero(periods_s > limits.max_gap * usual_s)
    if len(gaps):
        longest_s = periods_s[gaps].max()
        yield Problem(
            "warning", "gap", f"{len(gaps)} gaps, first before step {gaps[0] + 1}, longest {longest_s:.3g} s of "
            f"{usual_s:.3g} s usual",
        )  # fmt: skip


def flags(episode: Episode, limits: Limits) -> Problems:
    """is_first on the first step only, is_last on the last only, is_terminal nowhere but there."""
    steps = np.arange(len(episode))
    for name, values, expected in (
        ("is_first", episode.is_first, steps == 0),
        ("is_last", episode.is_last, steps == len(steps) - 1),
    ):
        wrong = np.flatnonzero(values != expected)
        if len(wrong):
            verb = "missing" if expected[wrong[0]] else "set"
            yield Problem("error", "flags", f"{name} is {verb} in step {wrong[0]} of {len(steps)}")
    if episode.is_terminal[:-1].any():
        yield Problem("error", "flags", f"is_terminal is set in step {np.flatnonzero(episode.is_terminal)[0]}")


def instruction(episode: Episode, limits: Limits) -> Problems:
    """OpenVLA passes over episodes without one, Octo learns them as unconditioned."""
    if not episode.instruction.strip():
        yield Problem("error", "instruction", "empty instruction")


def still(episode: Episode, limits: Limits) -> Problems:
    """Steps that move nothing."""
    ratio = no_op_ratio(episode, limits)
    if ratio > limits.max_no_op_ratio:
        yield Problem("warning", "no_op", f"{ratio:.0%} of the steps move nothing (limit {limits.max_no_op_ratio:.0%})")


def no_op_ratio(episode: Episode, limits: Limits) -> float:
    """Share of the transitions whose delta is below both limits and whose gripper command stays."""
    action = episode.action[:-1].astype(np.float64)
    if not len(action):
        return 0.0
    moves = np.linalg.norm(action[:, :3], axis=1) >= limits.still_m
    turns = np.linalg.norm(action[:, 3:6], axis=1) >= limits.still_rad
    switches = np.append(False, np.diff(action[:, 6]) != 0)
    return float(np.mean(~(moves | turns | switches)))


def gripper_range(episode: Episode, limits: Limits) -> Problems:
    """The gripper is absolute, 0 closed .. 1 open; -1 .. 1 is another convention."""
    gripper = episode.action[:, 6]
    low, high = float(gripper.min()), float(gripper.max())
    if low < 0 or high > 1:
        yield Problem("error", "gripper", f"commands of {low:.3g} .. {high:.3g}, expected 0 closed .. 1 open")


CHECKS: tuple[Callable[[Episode, Limits], Problems], ...] = (
    finite,
    stamps,
    flags,
    instruction,
    still,
    gripper_range,
)
