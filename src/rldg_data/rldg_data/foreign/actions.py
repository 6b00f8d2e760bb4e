"""What was asked for between two observations -> normalised actions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.frames import delta_between, rotation_of
from rldg_core.from_msg import NS_PER_S
from rldg_core.types import Float32, Float64
from rldg_data.episodes.gripper import at_start
from rldg_data.foreign.cutting import Cutout
from rldg_data.foreign.mapping import (
    ForeignMapping,
    TargetAction,
    TwistAction,
)
from rldg_data.foreign.topics import (
    Series,
)


def actions_between(
    mapping: ForeignMapping,
    episode: Cutout,
    asked: Mapping[str, Series],
    ticks: NDArray[np.int64],
    poses: list[Float64],
    start_width_m: float,
) -> list[Float32]:
    """Normalised actions, not clipped, of all ticks but the last.

    start_width_m: measured at the first tick, or NaN: it says what the gripper is before its first command.
    """
    config = mapping.action_config
    # What was asked for in the episode before has no say in this one; the gripper stays as it was told.
    series = asked["action"].within(episode.begin_ns, episode.end_ns)
    if series.newest(int(ticks[-1]) - 1) < 0:
        raise UserError(f"{episode.where}: topic {series.topic}: no message between the first and the last image")
    if "gripper" in asked and asked["gripper"].newest(int(ticks[-1]) - 1) < 0:
        raise UserError(f"{episode.where}: topic {asked['gripper'].topic}: no message before the last image")
    start = 2 * at_start(start_width_m) - 1
    actions = []
    for k, pose in enumerate(poses[:-1]):
        delta_tcp = _delta(mapping, series, int(ticks[k]), int(ticks[k + 1]), pose)
        action = list(config.from_delta_tcp(delta_tcp))
        if mapping.gripper_action:
            index = asked["gripper"].newest(int(ticks[k + 1]) - 1)
            action.append(asked["gripper"].values[index] if index >= 0 else start)
        actions.append(np.array(action, dtype=np.float32))
    return actions


def _delta(mapping: ForeignMapping, series: Series, start_ns: int, end_ns: int, pose: Float64) -> Float64:
    """What was asked for in [start, end) as a delta of the tcp in its own axes [m, rad]; zero when nothing was.

    A message stamped as the tick itself answers it: many stacks copy the stamp of the observation.
    """
    action = mapping.action
    newest = series.newest(end_ns - 1)
    if isinstance(action, TargetAction):
        # A target stays in force until the next one.
        return delta_between(pose, series.values[newest]) if newest >= 0 else np.zeros(6)
    asked = series.values[series.newest(start_ns - 1) + 1 : newest + 1]
    if not asked:
        return np.zeros(6)
    if isinstance(action, TwistAction):
        delta = np.mean(asked, axis=0) * ((end_ns - start_ns) / NS_PER_S)
    else:
        delta = asked[-1] * ([action.unit_m] * 3 + [action.unit_rad] * 3)
    if action.frame == "base":
        into_tcp = rotation_of(pose).inv()
        delta = np.concatenate([into_tcp.apply(delta[:3]), into_tcp.apply(delta[3:])])
    return np.asarray(delta, dtype=np.float64)
