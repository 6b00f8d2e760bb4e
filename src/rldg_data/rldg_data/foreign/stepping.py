"""Observations and actions at ticks -> Steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.frames import rotation_of, twists_of
from rldg_core.from_msg import NS_PER_S
from rldg_core.plausible import check_observation
from rldg_core.types import ExecutedAction, Float32, Float64, Observation, Source, Step
from rldg_data.foreign.cutting import Cutout
from rldg_data.foreign.mapping import (
    ForeignMapping,
)


def steps_of(
    mapping: ForeignMapping,
    episode: Cutout,
    ticks: NDArray[np.int64],
    images: Mapping[str, list[bytes]],
    seen: Mapping[str, list[Any]],
    actions: list[Float32],
) -> list[Step]:
    """Steps of one episode. images: camera -> a JPEG file per tick; seen: what was observed per tick.

    Raises UserError naming the step whose numbers no arm has.
    """
    twists = twists_of((ticks - ticks[0]) / NS_PER_S, seen["pose"])
    last = len(ticks) - 1
    width = mapping.gripper_width.scale if mapping.gripper_width else 1.0
    success = mapping.success if episode.success is None else episode.success
    steps = []
    for k, tick in enumerate(map(int, ticks)):
        asked = actions[k] if k < last else np.empty(0, np.float32)
        executed = np.clip(asked, -1, 1)
        ending = k >= last - 1
        seen_now = Observation(
            stamp_ns=tick,
            images={name: files[k] for name, files in images.items()},
            pose_base_tcp=seen["pose"][k],
            twist_base_tcp=twists[k],
            wrench_tcp=seen["wrench"][k] if "wrench" in seen else np.zeros(6),
            joint_positions=seen["joints"][k] if "joints" in seen else np.empty(0),
            gripper_width_m=seen["gripper_width"][k] * width if "gripper_width" in seen else float("nan"),
        )
        try:
            check_observation(seen_now)
        except ValueError as error:
            raise UserError(f"{episode.where}: step {k} (stamp {tick} ns): {error}") from error
        steps.append(
            Step(
                episode_id=f"import/{episode.name}",
                index=k,
                step_count=k,
                task=mapping.task,
                object=episode.object or mapping.object,
                instruction=episode.instruction or mapping.instruction,
                seed=0,
                observation=seen_now,
                action=ExecutedAction(
                    observation_stamp_ns=tick,
                    requested=asked,
                    executed=executed,
                    source=Source[mapping.source.upper()] if k < last else Source.NONE,
                    action_clipped=bool(np.any(asked != executed)),
                ),
                reward=float(success and k == last - 1),
                terminated=success and ending,
                truncated=not success and ending,
                is_first=k == 0,
                is_last=k == last,
                success=success and ending,
            )
        )
    return steps


def into_tcp(pose: Float64, wrench: Float64) -> Float64:
    """Turn a wrench (6,) from base axes into those of the tcp."""
    into_tcp = rotation_of(pose).inv()
    return np.concatenate([into_tcp.apply(wrench[:3]), into_tcp.apply(wrench[3:])])
