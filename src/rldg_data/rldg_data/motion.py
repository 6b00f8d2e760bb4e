"""Consistency of poses, actions and twists of an episode: pure functions like those of `rldg_data.plausibility`.

Single values can be plausible although all of them are in another frame, order, sign or unit; only comparing requested
actions, measured twists and poses reveals it. Axes are compared by cosines over the steps that move: noise, lag and
contact lower the cosine of an axis with itself, but do not raise that with another axis. An error therefore requires
both: a low cosine of the axis with itself, and a high one with another axis or frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from rldg_core.frames import twists_of
from rldg_data.plausibility import Limits, Problem, Problems

_Floats = NDArray[np.float64]
_AXES = "xyz"
_FAR = 5.0
"""Multiple of the minimum path above which noise is negligible."""


class _Part(NamedTuple):
    """Translation or rotation of an episode. verb, unit, path: for messages; the minimum path to be compared.

    still: motion of one axis in one step that may be noise.
    """

    verb: str
    unit: str
    path: float
    still: float
    columns: slice


def _parts(limits: Limits) -> tuple[_Part, _Part]:
    return (
        _Part("moves", "m", limits.min_motion_m, limits.moving_m, slice(0, 3)),
        _Part("turns", "rad", limits.min_turn_rad, limits.turning_rad, slice(3, 6)),
    )


def motion(poses: ArrayLike, deltas_tcp: ArrayLike, limits: Limits) -> Problems:
    """Check that the arm follows its actions: deltas (N - 1, 6) in tcp axes [m, rad] between poses (N, 7).

    Deltas in base axes, of another unit, with swapped or reversed axes, or of other times are only detected here; so is
    a quaternion in another order. Axes that hardly move are not judged.
    """
    values, asked = np.asarray(poses, np.float64), np.asarray(deltas_tcp, np.float64)
    if len(asked) < limits.min_motion_steps or not (_usable(values) and np.isfinite(asked).all()):
        return
    rotations = Rotation.from_quat(values[:, 3:])
    into_tcp = rotations[:-1].inv()
    moved = np.concatenate(
        [into_tcp.apply(np.diff(values[:, :3], axis=0)), (into_tcp * rotations[1:]).as_rotvec()], axis=1
    )
    for part in _parts(limits):
        found = next(_against_actions(part, asked[:, part.columns], moved[:, part.columns], limits), None)
        if found:
            yield Problem("error", "motion", found)
            return


def _against_actions(part: _Part, asked: _Floats, moved: _Floats, limits: Limits) -> Iterator[str]:
    moving = np.abs(moved) > part.still
    if (np.linalg.norm(moved, axis=1) * moving.any(axis=1)).sum() < part.path or not asked.any():
        return
    # A controller may lag by one or two periods.
    pairs = [(asked[: len(asked) - lag], moved[lag:]) for lag in range(3)]
    along = [_cosine(a, m) for a, m in pairs]
    if along[0] < -limits.min_cosine and max(along[1:]) < limits.min_cosine:
        yield f"the arm {part.verb} against its actions (cosine {along[0]:.2f}): another frame or other signs"
    ratio = float(np.linalg.norm(moved) / np.linalg.norm(asked))
    # In contact an arm yields by unrequested angles, which are not proportional to the actions.
    if ratio > limits.max_motion and (part.unit == "m" or max(along) > limits.clear_cosine):
        yield f"the arm {part.verb} {ratio:.3g} times as far as its actions: a wrong unit"
    tables = [(_cosines(a, m), _cosines(a - a.mean(axis=0), m - m.mean(axis=0))) for a, m in pairs]
    for axis in _judged_axes(part, moved, moving, limits):
        free = [(a, m, moving[len(moving) - len(m) :, axis]) for a, m in pairs]
        own = max(table[axis, axis] for pair in tables for table in pair)
        # In contact it pushes without moving: that does not indicate another axis.
        own = max(own, *(_cosine(a[moves, axis], m[moves, axis]) for a, m, moves in free))
        # Remove the means: a constant push does not explain intermittent motion.
        others = np.array([centred[axis] for _, centred in tables])
        lag, other = np.unravel_index(np.argmax(np.abs(others)), others.shape)
        if _explains(abs(others[lag, other]), own, limits):
            sign = "-" if others[lag, other] < 0 else ""
            yield (
                f"the arm {part.verb} along {_AXES[axis]} of the tcp as its actions ask along {sign}{_AXES[other]} "
                f"(cosine {abs(others[lag, other]):.2f}, along {_AXES[axis]} {own:.2f}): "
                "another frame, order or sign of the actions, or of the quaternion"
            )
    turned = [_best_cosine(a, m) for a, m in pairs]
    # With few steps the best rotation fits anything.
    enough = len(moved) >= 2 * limits.min_motion_steps and _is_planar(moved)
    if enough and _explains(max(turned), max(along), limits):
        yield (
            f"the arm {part.verb} as its actions ask in other axes (cosine {max(turned):.2f}, in those of the tcp "
            f"{max(along):.2f}): another frame, or another order of the quaternion"
        )


def twist(stamps_s: ArrayLike, poses: ArrayLike, twists_base: ArrayLike, limits: Limits) -> Problems:
    """Check that twists (N, 6) in base axes [m/s, rad/s] match the poses (N, 7) at the stamps (N,).

    A twist may be the mean over the period before or after its stamp, or instantaneous, and late by a filter. Zeros
    throughout stand for a source without a twist: a warning.
    """
    stamps, values = np.asarray(stamps_s, np.float64), np.asarray(poses, np.float64)
    given = np.asarray(twists_base, np.float64)
    if len(values) <= limits.min_motion_steps or not (_usable(values) and np.isfinite(given).all()):
        return
    if not np.isfinite(stamps).all() or (np.diff(stamps) <= 0).any():
        return
    moved = twists_of(stamps, values)[1:]
    periods = np.diff(stamps)[:, None]
    rotations = Rotation.from_quat(values[:, 3:])
    in_tcp = np.concatenate([rotations.apply(given[:, part]) for part in (slice(0, 3), slice(3, 6))], axis=1)
    halves = [3, 4, 5, 0, 1, 2]
    alternatives = {
        "linear and angular are swapped": given[:, halves],
        "it is in tcp axes": in_tcp,
        "it is in tcp axes, linear and angular are swapped": in_tcp[:, halves],
        "its sign is the other one": -given,
    }
    for part in _parts(limits):
        measured, recorded = moved[:, part.columns], given[:, part.columns]
        moving = np.abs(measured * periods) > part.still
        path = np.linalg.norm(measured * periods, axis=1) * moving.any(axis=1)
        if path.sum() < part.path:
            continue
        what = "linear" if part.unit == "m" else "angular"
        if not recorded.any():
            yield Problem(
                "warning", "twist", f"{what} twist of zeros while the tcp {part.verb} {path.sum():.2g} {part.unit}"
            )
            continue
        whole, slope = _similarity(measured, recorded), _slope(measured, recorded)
        known = {reason: _similarity(measured, other[:, part.columns]) for reason, other in alternatives.items()}
        reason = max(known, key=lambda name: known[name])
        found = ""
        if _explains(known[reason], whole, limits):
            found = f"is not that of the poses (cosine {whole:.2f}, expected 1): {reason}"
        elif wrong := [
            axis
            for axis in _judged_axes(part, measured * periods, moving, limits)
            if _is_of_another(axis, measured, recorded, limits)
        ]:
            found = f"is not that of the poses along {', '.join(_AXES[axis] for axis in wrong)}: its axes are different"
        # With little motion, noise of the measured pose can hide a correct twist.
        elif path.sum() > _FAR * part.path and whole < limits.min_cosine:
            found = f"is not that of the poses (cosine {whole:.2f}, expected 1)"
        # An arm that has settled at its stamp is slow, but not in proportion to its motion.
        elif slope > limits.max_twist_ratio or (slope < 1 / limits.max_twist_ratio and whole > limits.same_cosine):
            found = f"is {slope:.3g} times as fast as the poses: a wrong unit"
        if found:
            yield Problem("error", "twist", f"the {what} twist {found}; expected base axes, {part.unit}/s")
            return


def _is_of_another(axis: int, measured: _Floats, recorded: _Floats, limits: Limits) -> bool:
    """Return the axes along which the poses match another axis, or the opposite sign, of the twist."""
    moved, signs = measured[:, [axis]], (1, -1)
    own = _similarity(moved, recorded[:, [axis]])
    other = max(_similarity(moved, sign * recorded[:, [k]]) for k in range(3) for sign in signs)
    return _explains(other, own, limits)


def _usable(poses: _Floats) -> bool:
    """Tell whether every pose is finite and its quaternion nearly of length 1, as rotations need it."""
    norms = np.linalg.norm(poses[:, 3:], axis=1)
    return bool(np.isfinite(poses).all() and ((norms >= 0.5) & (norms <= 2.0)).all())


def _judged_axes(part: _Part, moved: _Floats, moving: NDArray[np.bool_], limits: Limits) -> list[int]:
    """Return the axes that move far enough, in enough steps, to be distinguished from noise."""
    path = (np.abs(moved) * moving).sum(axis=0)
    return [axis for axis in range(3) if path[axis] >= part.path and moving[:, axis].sum() >= limits.min_axis_steps]


def _cosine(left: _Floats, right: _Floats) -> float:
    norm = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(np.sum(left * right)) / norm if norm > 0 else 0.0


def _cosines(asked: _Floats, moved: _Floats) -> _Floats:
    """(3, 3): [i, j] of the motion along i with what is asked along j; 0 where one of them is 0 throughout."""
    norms = np.outer(np.linalg.norm(moved, axis=0), np.linalg.norm(asked, axis=0))
    products: _Floats = moved.T @ asked
    cosines: _Floats = np.divide(products, norms, out=np.zeros((3, 3)), where=norms > 1e-12)
    return cosines


def _best_cosine(asked: _Floats, moved: _Floats) -> float:
    """Cosine after the best turn (or mirroring) of all that is asked: orthogonal Procrustes, Schoenemann 1966."""
    norm = float(np.linalg.norm(asked) * np.linalg.norm(moved))
    return float(np.linalg.svd(moved.T @ asked, compute_uv=False).sum()) / norm if norm > 0 else 0.0


def _explains(other: float, own: float, limits: Limits) -> bool:
    """Return whether another axis or frame is clearly nearer to the motion than its own (cosines of angles)."""
    nearer_rad = np.arccos(np.clip(own, -1, 1)) - np.arccos(np.clip(other, -1, 1))
    return bool(other >= limits.clear_cosine and nearer_rad > limits.nearer_rad)


def _is_planar(moved: _Floats) -> bool:
    """Return whether it has more than one direction: a single direction can be rotated into any other."""
    sizes = np.linalg.svd(moved, compute_uv=False)
    return bool(sizes[1] > 0.3 * sizes[0])


def _shifts(measured: _Floats, recorded: _Floats) -> Sequence[tuple[_Floats, _Floats]]:
    """Differences (N - 1,) of poses with twists (N,): of the end, the start and the middle of a period, and late."""
    middle = (recorded[1:] + recorded[:-1]) / 2
    late = (measured[:-1], recorded[2:])
    return (measured, recorded[1:]), (measured, recorded[:-1]), (measured, middle), late


def _similarity(measured: _Floats, recorded: _Floats) -> float:
    return max(_cosine(*pair) for pair in _shifts(measured, recorded))


def _slope(measured: _Floats, recorded: _Floats) -> float:
    """Return the ratio of the twist to the poses at their best match."""
    left, right = max(_shifts(measured, recorded), key=lambda pair: _cosine(*pair))
    return float(np.linalg.norm(right) / np.linalg.norm(left))
