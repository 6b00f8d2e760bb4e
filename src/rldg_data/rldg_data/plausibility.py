"""Plausibility of an episode: pure functions over its arrays, shared by importers, `dataset lint` and `bag lint`.

Each yields Problems; `refuse` turns the first error into a UserError, which is what importers and exporters do.
Stamps are in seconds, of any origin; poses are tcp in base (N, 7), quaternion xyzw. `Limits` has the limits and their
reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rldg_core.errors import UserError

NO_OP_M, NO_OP_RAD = 1e-4, 1e-3
"""A delta of the tcp below both is invisible to a camera and a force sensor."""

Severity = Literal["error", "warning"]


class Problem(NamedTuple):
    """A problem found by a check; the caller adds the location. check: its name in docs/reference/data.md."""

    severity: Severity
    check: str
    message: str


Problems = Iterator[Problem]


@dataclass(frozen=True)
class Limits:
    """Limits of the checks, with their reasons.

    max_gap: longest period between two steps, in median periods of the episode. One dropped frame (2.0) is
    everyday on a camera; from 2.5 on the delta of one step spans several.
    max_pause: the same from which on it is an error: the gate ends an episode after two periods without an
    observation, so five in a row are two episodes or a recorder that stopped.
    max_rate_error: of an episode's mean period, relative, against the declared rate and against the other episodes.
    A delta per step means another speed at another rate; timers of one robot agree within some per cent.
    max_jump: longest motion of a step, in full-scale actions; compliant arms overshoot by less than a half.
    min_jump_m, min_jump_rad: what is no jump at any scale: twice the paper's full-scale action of one axis.
    min_motion_m, min_turn_rad, min_motion_steps, min_axis_steps: what an episode, and one axis of it, must have moved
    before its motion is compared with actions and twists (`rldg_data.motion`).
    moving_m, turning_rad: motion of an axis in a step that counts: thrice the noise of a measured pose.
    min_cosine: of the angle between what was asked for and the motion; simulated arms reach 0.65, an axis in contact
    0.46. Below its negative the arm moves the other way, which contact alone does not explain.
    clear_cosine, nearer_rad: another axis or frame explains the motion from that cosine on, where its angle is so much
    smaller than the own one: 0.8 against 0.3, 0.98 against 0.7.
    max_motion: how much farther than its actions an arm may have moved; simulated ones reach 1.0.
    same_cosine: from which on a twist that is too slow is in proportion to the poses: another unit.
    max_twist_ratio: how much faster or slower; mm/s (1000), deg/s (57), deltas per step (a tenth at 10 Hz) are beyond.
    max_clipped: share of steps whose action was beyond the scale before it was clipped. People push a SpaceMouse
    beyond it now and then; a wrong unit or absolute actions reach far more than a tenth.
    max_stamp_offset_s: how much later one topic may be recorded after its stamps than another: a camera's exposure
    and transport take below 0.1 s, in which the arm moves 15 mm at full speed.
    min_torque_nm, max_lever_m: torques from which on they are compared with the forces, and the longest lever that a
    hand and what it holds make. Plugging a connector stays below 2 N m.
    still_m, still_rad: a delta below both is a no-op, by the recipes' filter, too (`rldg_data.recipe.selecting`).
    max_no_op_ratio: share of still steps in an episode. Insertions wait and probe; above a half a policy that
    learns from it tends to stand still (the reason why OpenVLA's authors filtered LIBERO).
    max_saturated: share of an action dimension's steps at the largest magnitude of the dataset (within 2 %).
    Specialists do saturate; above 0.7 the scale or the controller limits the data, not the task.
    min_switch_m: change of the gripper's width that tells opening from closing; fingers on an object move less.
    switch_steps: steps within which the width follows a command (0.5 s at 10 Hz).
    max_wrong_switches: share of switches that the fingers answer the other way. Slips and late fingers stay below a
    quarter, another convention reaches nearly all.
    decoded_frames: of a camera in an episode, evenly spaced: 1 ms each, and what hangs or is black is so for longer.
    min_contrast: standard deviation of the brightness of an image, of 255. The darkest scene of the simulation has 20,
    a covered lens with the noise of its sensor below 3.
    seen_step_m, seen_motion_m: motion of the tcp, in a step and between two decoded frames, that changes some pixels
    of every camera that sees the arm; min_change, min_changed: by how much, in how many of them (compression alone
    changes none by more).
    max_repeated, max_hanging: share of moving steps whose image may stay: a camera of half the rate repeats a half.
    min_moved_frames: pairs of decoded frames below which nothing is said.
    min_image_px: OpenVLA and Octo resize to 224 and 256; what is below 64 has lost the connector's edges.
    statistics_tolerance: relative; sums in another order differ by 1e-12, a forgotten episode by far more.
    """

    max_gap: float = 2.5
    max_pause: float = 5.0
    max_rate_error: float = 0.1
    max_jump: float = 1.5
    min_jump_m: float = 0.03
    min_jump_rad: float = 0.3
    min_motion_m: float = 0.02
    min_turn_rad: float = 0.05
    min_motion_steps: int = 10
    min_axis_steps: int = 8
    moving_m: float = 3e-4
    turning_rad: float = 1e-3
    min_cosine: float = 0.3
    clear_cosine: float = 0.8
    nearer_rad: float = 0.6
    max_motion: float = 4.0
    same_cosine: float = 0.95
    max_twist_ratio: float = 5.0
    max_clipped: float = 0.1
    max_stamp_offset_s: float = 0.1
    min_torque_nm: float = 5.0
    max_lever_m: float = 1.0
    still_m: float = NO_OP_M
    still_rad: float = NO_OP_RAD
    max_no_op_ratio: float = 0.5
    max_saturated: float = 0.7
    min_switch_m: float = 0.005
    switch_steps: int = 5
    max_wrong_switches: float = 0.75
    decoded_frames: int = 8
    min_contrast: float = 3.0
    seen_step_m: float = 0.002
    seen_motion_m: float = 0.01
    min_change: int = 12
    min_changed: float = 1e-4
    max_repeated: float = 0.2
    max_hanging: float = 0.6
    min_moved_frames: int = 3
    min_image_px: int = 64
    statistics_tolerance: float = 1e-6


WINDOWS = 8
"""Parts of a recording whose delays are compared, so that a clock that drifts or is set in between shows."""


def refuse(problems: Iterable[Problem], where: str) -> None:
    """Raise UserError `where: message` on the first error; warnings pass."""
    for problem in problems:
        if problem.severity == "error":
            raise UserError(f"{where}: {problem.message}")


def usual_period_s(stamps_s: ArrayLike, limits: Limits) -> float:
    """Mean period without gaps; NaN for fewer than two stamps, and for stamps that do not increase.

    Not the median: observations that take the newest frame of a camera of another rate have two periods in turn.
    """
    periods_s = np.diff(np.asarray(stamps_s, np.float64))
    if not len(periods_s) or not (periods_s > 0).all():
        return float("nan")
    usual = periods_s[periods_s <= limits.max_gap * np.median(periods_s)]
    return float(np.mean(usual if len(usual) else periods_s))


def gaps(stamps_s: ArrayLike, limits: Limits) -> Problems:
    """Pauses within an episode: a warning from a few periods on, an error where it can only be two episodes."""
    periods_s = np.diff(np.asarray(stamps_s, np.float64))
    usual_s = usual_period_s(stamps_s, limits)
    if not usual_s > 0:
        return
    found = np.flatnonzero(periods_s > limits.max_gap * usual_s)
    if len(found):
        longest = found[np.argmax(periods_s[found])]
        pause = periods_s[longest] > limits.max_pause * usual_s
        advice = ": several episodes, or the recorder stopped" if pause else ""
        yield Problem(
            "error" if pause else "warning",
            "gap",
            f"{len(found)} gaps, first before step {found[0] + 1}, longest {periods_s[longest]:.3g} s before step "
            f"{longest + 1} of {usual_s:.3g} s usual{advice}",
        )


def rate(stamps_s: ArrayLike, declared_hz: float, limits: Limits) -> Problems:
    """Compare the rate of the stamps with the declared one (<= 0: none).

    Every stamp may be a quarter of a period off: an observation carries the stamp of a camera's frame.
    """
    values = np.asarray(stamps_s, np.float64)
    count = len(values) - 1
    usual_s = usual_period_s(values, limits)
    if count < 1 or declared_hz <= 0 or not usual_s > 0:
        return
    declared_s = 1.0 / declared_hz
    if abs(usual_s - declared_s) > declared_s * (limits.max_rate_error + 0.5 / count):
        yield Problem(
            "error",
            "rate",
            f"{1 / usual_s:.3g} steps per second by its stamps, {declared_hz:g} Hz by its description: "
            "a delta per step is a different speed",
        )


def jumps(
    stamps_s: ArrayLike, poses: ArrayLike, limits: Limits, longest_m: float = 0.0, longest_rad: float = 0.0
) -> Problems:
    """Find steps in which the arm moved farther than commanded: several episodes, or a wrong unit.

    longest_m, longest_rad: the longest motion that one action can command.
    """
    stamps, values = np.asarray(stamps_s, np.float64), np.asarray(poses, np.float64)
    norms = np.linalg.norm(values[:, 3:], axis=1)
    if len(values) < 2 or not np.isfinite(values).all() or not np.isfinite(stamps).all() or (norms < 0.5).any():
        return
    usual_s = usual_period_s(stamps, limits)
    # Gaps are reported by `gaps`: over three periods the arm moves three times as far.
    periods = np.maximum(1.0, np.diff(stamps) / usual_s if usual_s > 0 else 1.0)
    moved_m = np.linalg.norm(np.diff(values[:, :3], axis=0), axis=1)
    unit = values[:, 3:] / norms[:, None]
    turned_rad = 2 * np.arccos(np.clip(np.abs(np.sum(unit[1:] * unit[:-1], axis=1)), 0, 1))
    for moved, floor, longest, unit_name in (
        (moved_m, limits.min_jump_m, longest_m, "m"),
        (turned_rad, limits.min_jump_rad, longest_rad, "rad"),
    ):
        limit = max(floor, limits.max_jump * longest)
        found = np.flatnonzero(moved > limit * periods)
        if len(found):
            worst = found[np.argmax(moved[found])]
            yield Problem(
                "error",
                "jump",
                f"the arm jumps {moved[worst]:.3g} {unit_name} before step {worst + 1}, expected at most "
                f"{limit:.3g} {unit_name} ({len(found)} such steps): several episodes in one, or a wrong unit",
            )
            return


def known_throughout(what: str, known: ArrayLike) -> Problems:
    """known (N,): whether a step has a value that a whole episode has or lacks: in a dataset a 0 stands for a lack."""
    values = np.asarray(known, np.bool_)
    if values.any() and not values.all():
        missing = np.flatnonzero(~values)
        found = f"no {what} in {len(missing)} of {len(values)} steps, first step {missing[0]}"
        yield Problem("error", "observation", f"{found}, expected all or none: the driver stopped for a while")


def clipped(beyond: ArrayLike, limits: Limits) -> Problems:
    """beyond (T,): whether any value of a step's action was beyond [-1, 1] before it was clipped."""
    steps = np.asarray(beyond, np.bool_)
    share = float(np.mean(steps)) if len(steps) else 0.0
    if share > limits.max_clipped:
        yield Problem(
            "error",
            "clipped",
            f"the actions of {steps.sum()} of {len(steps)} steps are beyond the scale "
            f"(limit {limits.max_clipped:.0%}): a wrong unit or frame, absolute values, or a small scale",
        )


def wrench(wrenches: ArrayLike, limits: Limits) -> Problems:
    """Torques [N m] that the forces [N] of the same steps could not cause on any lever of a hand: wrenches (N, 6).

    Only a warning: opening a lid needs such a couple, too. Signs cannot be determined: drivers differ in whether the
    arm or the environment pushes, and an offset of the payload can be larger than what is pushed.
    """
    values = np.asarray(wrenches, np.float64)
    if not np.isfinite(values).all():
        return
    force_n, torque_nm = np.linalg.norm(values[:, :3], axis=1), np.linalg.norm(values[:, 3:], axis=1)
    strong = torque_nm > limits.min_torque_nm
    if (
        strong.sum() >= limits.min_axis_steps
        and np.median(torque_nm[strong] - limits.max_lever_m * force_n[strong]) > 0
    ):
        worst = int(np.argmax(torque_nm))
        found = f"{torque_nm[worst]:.3g} N m with {force_n[worst]:.3g} N in step {worst}"
        yield Problem(
            "warning", "wrench", f"{found}, likewise in most of {strong.sum()} steps: force and torque swapped?"
        )


def outcome(rewards: ArrayLike, success: bool) -> Problems:
    """Compare rewards (T,) of the transitions with the outcome: RL uses the former, filters the latter.

    A reward within a failure may be partial; a success may have the lowest cost.
    """
    values = np.asarray(rewards, np.float64)
    if not len(values) or not np.isfinite(values).all():
        return
    if not success and values[-1] > 0:
        yield Problem("error", "reward", f"a failure whose last transition has reward {values[-1]:g}, expected 0")
    elif not success and (values > 0).any():
        where = np.flatnonzero(values > 0)
        yield Problem(
            "warning", "reward", f"a failure with a reward over 0 in {len(where)} Steps, first Step {where[0]}"
        )
    elif success and not (values > 0).any():
        yield Problem("warning", "reward", "a success without a reward: RL learns nothing from it")


class Delay(NamedTuple):
    """Log time minus stamp [s]: minimum and maximum of the medians of WINDOWS parts of a recording."""

    low_s: float
    high_s: float


def delay(stamps_ns: NDArray[np.int64], log_times_ns: NDArray[np.int64]) -> Delay:
    """Return the delay from stamp to log time of one topic, (N,) each, in any order; N >= 1."""
    order = np.argsort(log_times_ns, kind="stable")
    late_s = (log_times_ns - stamps_ns)[order] / 1e9
    medians = [float(np.median(part)) for part in np.array_split(late_s, min(WINDOWS, max(1, len(late_s) // 8)))]
    return Delay(min(medians), max(medians))


def stamp_offsets(delays: Mapping[str, Delay], limits: Limits) -> Problems:
    """Find topics of one recording with incompatible stamps. delays: topic -> delay from stamp to log time.

    Drivers with one clock differ only by transport delay. A topic that uses log times has (0, 0).
    """
    if not delays:
        return
    earliest = min(delays, key=lambda topic: delays[topic].low_s)
    latest = max(delays, key=lambda topic: delays[topic].high_s)
    offset_s = delays[latest].high_s - delays[earliest].low_s
    if offset_s > limits.max_stamp_offset_s:
        clocks = "its clock drifts" if latest == earliest else "different clocks"
        yield Problem(
            "error",
            "stamp_offset",
            f"{latest} is recorded {delays[latest].high_s:.3f} s after its stamps, {earliest} "
            f"{delays[earliest].low_s:.3f} s: {clocks}, at most {limits.max_stamp_offset_s:g} s apart expected",
        )
