"""dataset_statistics.json: what a generalist needs to normalise actions and proprioception."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ACTION_MASK = (True, True, True, True, True, True, False)
"""Which action dimensions are normalised: all but the gripper, which is absolute in [0, 1]."""


def dataset_statistics(
    actions: Sequence[NDArray[np.float32]], states: Sequence[NDArray[np.float32]]
) -> Mapping[str, Any]:
    """Statistics over all transitions.

    actions: one (T, 7) per episode, transitions only (the last Step of an episode has no action);
    states: one (T + 1, 8) per episode. Percentiles 1 and 99 appear under both names in use: q01/q99
    (OpenVLA) and p01/p99 (Octo).
    """
    return {
        "action": {**_moments(np.concatenate(actions)), "mask": list(ACTION_MASK)},
        "proprio": _moments(np.concatenate(states)),
        "num_transitions": sum(len(a) for a in actions),
        "num_trajectories": len(actions),
    }


def _moments(rows: NDArray[np.float32]) -> dict[str, list[float]]:
    values = rows.astype(np.float64)
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    named = {
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "q01": low,
        "q99": high,
        "p01": low,
        "p99": high,
    }
    return {name: value.tolist() for name, value in named.items()}
