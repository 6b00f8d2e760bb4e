"""Checks of a single episode: (Episode, Limits) -> problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rldg_core.instructions import fault
from rldg_core.plausible import check_pose, check_twist, check_width, check_wrench
from rldg_data import plausibility
from rldg_data.episodes import provenance
from rldg_data.episodes.episode import Episode
from rldg_data.episodes.pixels import pixels
from rldg_data.episodes.provenance import ObservationRecord
from rldg_data.lint.findings import Limits, Problem, Problems
from rldg_data.motion import motion, twist

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
    """Values are finite: NaN or Inf would spoil statistics and gradients."""
    for name, values in numbers(episode).items():
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if len(bad):
            yield Problem("error", "not_finite", f"{name} is not finite in {len(bad)} steps, first in step {bad[0]}")


def stamps(episode: Episode, limits: Limits) -> Problems:
    """Stamps increase without pauses."""
    back = np.flatnonzero(np.diff(episode.timestamp_s.astype(np.float64)) <= 0)
    if len(back):
        yield Problem("error", "stamps", f"{len(back)} stamps do not increase, first in step {back[0] + 1}")
        return
    yield from plausibility.gaps(episode.timestamp_s, limits)
    yield from plausibility.rate(episode.timestamp_s, _declared_hz(episode), limits)


def _declared_hz(episode: Episode) -> float:
    try:
        return ObservationRecord.of(provenance.parts(episode.metadata)).rate_hz
    except ValueError:
        return 0.0  # reported by the check of the provenance


def pose(episode: Episode, limits: Limits) -> Problems:
    """Positions, quaternions, widths, wrenches and twists are plausible; motion follows the actions."""
    action, state = np.abs(episode.action[:-1].astype(np.float64)), episode.state.astype(np.float64)
    if not all(np.isfinite(values).all() for values in numbers(episode).values()):
        return  # already reported
    checks: tuple[tuple[str, Callable[..., None], NDArray[np.float64], Sequence[slice]], ...] = (
        ("pose", check_pose, state[:, :7], (slice(3), slice(3, 7))),
        ("width", lambda width, name: check_width(float(width[0]), name), state[:, 7:], (slice(1),)),
        ("twist", check_twist, episode.twist.astype(np.float64), (slice(3), slice(3, 6))),
        ("wrench", check_wrench, episode.wrench.astype(np.float64), (slice(3), slice(3, 6))),
    )
    try:
        for name, check, rows, parts in checks:
            for k in {k for part in parts for k in _extremes(rows[:, part])}:
                check(rows[k], f"{name} of step {k}")
    except ValueError as error:
        yield Problem("error", "implausible", str(error))
        return
    # A dataset has no action scale: the largest value of an axis replaces it.
    longest_m, longest_rad = (float(action[:, part].max(initial=0)) * 3**0.5 for part in (slice(3), slice(3, 6)))
    found = list(plausibility.jumps(episode.timestamp_s, state[:, :7], limits, longest_m, longest_rad))
    yield from found
    # Relabelled actions need not agree with the recorded motion.
    if found:
        return
    if not _relabelled(episode):
        yield from motion(state[:, :7], episode.action[:-1, :6], limits)
    yield from twist(episode.timestamp_s, state[:, :7], episode.twist, limits)
    yield from plausibility.wrench(episode.wrench, limits)


def _relabelled(episode: Episode) -> bool:
    try:
        return any(part.get("relabelled_by") for part in provenance.parts(episode.metadata))
    except ValueError:
        return False  # reported by the check of the provenance


def _extremes(rows: NDArray[np.float64]) -> tuple[int, int]:
    """Rows of the smallest and largest norm: if both are within limits, all are."""
    lengths = rows[:, 0] if rows.shape[1] == 1 else np.linalg.norm(rows, axis=1)
    return int(np.argmin(lengths)), int(np.argmax(lengths))


def flags(episode: Episode, limits: Limits) -> Problems:
    """is_first only on the first step, is_last only on the last, is_terminal only there."""
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
    """OpenVLA skips episodes without an instruction, Octo trains on them unconditioned; all refuse invalid ones."""
    if reason := fault(episode.instruction):
        yield Problem("error", "instruction", reason)


def outcome(episode: Episode, limits: Limits) -> Problems:
    """Rewards, `is_terminal` and the outcome in the metadata agree."""
    success = bool(episode.metadata["success"])
    yield from plausibility.outcome(episode.reward[:-1], success)
    if success and not episode.is_terminal[-1:].any():
        yield Problem("error", "flags", "a success that is not terminal, although a success ends the task")


def names(episode: Episode, limits: Limits) -> Problems:
    """Labels by which datasets are balanced, filtered and identified."""
    for what in ("task", "object", "episode_id"):
        if reason := fault(str(episode.metadata[what])):
            yield Problem("error", "names", f"{what}: {reason}")


def shown(episode: Episode, limits: Limits) -> Problems:
    """Images are not blank, and change while the arm moves."""
    if np.isfinite(episode.state).all():
        yield from pixels(episode.images, episode.state[:, :3].astype(np.float64), limits)


def still(episode: Episode, limits: Limits) -> Problems:
    """Share of steps without motion."""
    ratio = no_op_ratio(episode, limits)
    if ratio > limits.max_no_op_ratio:
        yield Problem("warning", "no_op", f"{ratio:.0%} of the steps do not move (limit {limits.max_no_op_ratio:.0%})")


def no_op_ratio(episode: Episode, limits: Limits) -> float:
    """Return the share of transitions whose delta is below both limits and whose gripper command is unchanged."""
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
    pose,
    flags,
    instruction,
    outcome,
    names,
    shown,
    still,
    gripper_range,
)
