"""Long-horizon episodes out of two recordings: which bags are joined, and at which Step.

FMB Single-Object Assembly (paper, section IV): people demonstrate grasp and transport, RL the insertion; the
generalist learns from both as one episode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rldg_core.types import Float64
from rldg_data.bags.reading import read_episode
from rldg_data.recipe.recipe import Stitch
from rldg_data.recipe.selecting import Bookkeeping, Candidate, Recorded


@dataclass(frozen=True)
class Joint:
    """first, second: positions in the sequences given; index: Step of the first; cost: 0 equal .. sqrt(2) at both
    tolerances."""

    first: int
    second: int
    index: int
    cost: float


def stitched(
    firsts: Sequence[Recorded], seconds: Sequence[Recorded], stitch: Stitch, source: int, books: Bookkeeping
) -> list[Candidate]:
    """Join bags given in shuffled order: each first one takes, in turn, the nearest second one that is still free.

    What finds no partner is counted under `stitch`.
    """
    readable = [(bag, poses) for bag in firsts if (poses := books.attempt(bag.path, tcp_poses)) is not None]
    starts = [(bag, poses[0]) for bag in seconds if (poses := books.attempt(bag.path, tcp_poses)) is not None]
    joints: dict[int, list[Joint]] = {}
    for number, (bag, poses) in enumerate(readable):
        same = [i for i, (other, _) in enumerate(starts) if other.info.object == bag.info.object]
        joints[number] = joints_of(number, poses, same, np.array([starts[i][1] for i in same]).reshape(-1, 7), stitch)
    pairs = assign(joints, stitch.first.uses, stitch.second.uses)
    used = {("first", p.first) for p in pairs} | {("second", p.second) for p in pairs}
    books.left_out["stitch"] += len(readable) + len(starts) - len(used)
    return [Candidate((readable[p.first][0], starts[p.second][0]), source, (p.index,)) for p in pairs]


def tcp_poses(bag: Path) -> Float64:
    """(T+1, 7): the tcp in base at every Step."""
    return np.array([step.observation.pose_base_tcp for step in read_episode(bag)])


def joints_of(first: int, poses: Float64, numbers: Sequence[int], starts: Float64, stitch: Stitch) -> list[Joint]:
    """The joints within tolerance of one bag, poses (T+1, 7), with others that start at `starts` (N, 7); best first.

    A joint leaves at least one transition of the first bag.
    """
    begin = len(poses) - 1 if stitch.cut == "end" else 1
    offered = poses[begin:]
    if len(offered) == 0 or len(starts) == 0 or begin == 0:
        return []
    distance_m = np.linalg.norm(offered[:, None, :3] - starts[None, :, :3], axis=2)
    unit = offered[:, 3:] / np.linalg.norm(offered[:, 3:], axis=1, keepdims=True)
    others = starts[:, 3:] / np.linalg.norm(starts[:, 3:], axis=1, keepdims=True)
    angle_rad = 2 * np.arccos(np.clip(np.abs(unit @ others.T), 0, 1))
    cost = np.hypot(distance_m / stitch.tolerance_m, angle_rad / stitch.tolerance_rad)
    cost[(distance_m > stitch.tolerance_m) | (angle_rad > stitch.tolerance_rad)] = np.inf
    best = np.argmin(cost, axis=0)
    found = [
        Joint(first, number, begin + int(row), float(cost[row, column]))
        for column, (number, row) in enumerate(zip(numbers, best, strict=True))
        if np.isfinite(cost[row, column])
    ]
    return sorted(found, key=lambda joint: (joint.cost, joint.second))


def assign(joints: Mapping[int, Sequence[Joint]], first_uses: int, second_uses: int) -> list[Joint]:
    """Pairs, no pair twice: in each of first_uses rounds every first bag takes its best free partner."""
    used: Counter[int] = Counter()
    pairs: list[Joint] = []
    taken: set[tuple[int, int]] = set()
    for _ in range(first_uses):
        before = len(pairs)
        for offers in joints.values():
            for joint in offers:
                if used[joint.second] < second_uses and (joint.first, joint.second) not in taken:
                    used[joint.second] += 1
                    taken.add((joint.first, joint.second))
                    pairs.append(joint)
                    break
        if len(pairs) == before:
            break
    return pairs
