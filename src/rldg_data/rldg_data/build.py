"""EpisodePlan -> Episode: reads the bags, checks every value, converts. Runs in worker processes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rldg_core.errors import UserError
from rldg_core.files import sha256_hex
from rldg_core.types import Step
from rldg_data.bags import bag_info, episode_info, read_episode
from rldg_data.episode import ACTION_DIM, STATE_DIM, Episode
from rldg_data.episode_info import EpisodeInfo
from rldg_data.plan import EpisodePlan

CLOSED_GRIPPER = 0.0
"""Gripper of a task without one (the connector is in the fingers throughout): 0 closed, 1 open, absolute."""


def build_episode(plan: EpisodePlan) -> Episode:
    """Read and convert one planned episode. Raises UserError naming the bag."""
    (bag,) = plan.bags
    steps, info = read_episode(bag), episode_info(bag)
    return to_episode(steps, info, bag, plan)


def to_episode(steps: Sequence[Step], info: EpisodeInfo, bag: Path, plan: EpisodePlan) -> Episode:
    """One recorded episode -> arrays; JPEG bytes are passed through.

    Rotations are rotation vectors, which at <= 0.1 rad a step differ from roll, pitch, yaw by < 0.005 rad.
    Raises UserError naming the bag on a value that no dataset may hold.
    """
    instruction = plan.instruction or steps[0].instruction
    if not instruction:
        raise UserError(f"{bag}: empty instruction: generalists would skip the episode without a word")
    if not all(step.observation.images for step in steps):
        raise UserError(f"{bag}: a Step has no image")
    scale = np.array([info.action_scale_m] * 3 + [info.action_scale_rad] * 3)
    action = np.zeros((len(steps), ACTION_DIM))
    state = np.zeros((len(steps), STATE_DIM))
    for row, step in enumerate(steps):
        seen, executed = step.observation, step.action.executed
        width_m = 0.0 if math.isnan(seen.gripper_width_m) else seen.gripper_width_m
        state[row] = [*seen.pose_base_tcp, width_m]
        if step.is_last:
            # No motion; the gripper stays as it was.
            action[row, 6] = action[row - 1, 6]
            continue
        if len(executed) not in (6, 7):
            raise UserError(f"{bag}: Step {step.index}: executed action has {len(executed)} values, expected 6 or 7")
        action[row, :6] = executed[:6] * scale
        action[row, 6] = (executed[6] + 1) / 2 if len(executed) == 7 else CLOSED_GRIPPER
    twist = np.array([step.observation.twist_base_tcp for step in steps], dtype=np.float32)
    wrench = np.array([step.observation.wrench_tcp for step in steps], dtype=np.float32)
    if not all(np.isfinite(values).all() for values in (action, state, twist, wrench)):
        raise UserError(f"{bag}: an executed action or an observation is not finite")
    images = {}
    for key, name in plan.cameras:
        camera = name or next(iter(steps[0].observation.images))
        try:
            images[key] = [step.observation.images[camera] for step in steps]
        except KeyError as error:
            raise UserError(f"{bag}: camera {camera!r} is missing in some Steps") from error
    stamps = np.array([step.observation.stamp_ns for step in steps])
    part = {
        "bag": "/".join(bag.parts[-3:]),
        "sha256": sha256_hex(bag_info(bag).file.read_bytes()),
        "episode_id": info.episode_id,
        "source": info.source,
        "policy_id": info.policy_id,
        "policy_version": info.policy_version,
    }
    return Episode(
        images=images,
        timestamp_s=((stamps - stamps[0]) / 1e9).astype(np.float32),
        state=state.astype(np.float32),
        twist=twist,
        wrench=wrench,
        action=action.astype(np.float32),
        reward=np.array([step.reward for step in steps], dtype=np.float32),
        is_first=np.array([step.is_first for step in steps]),
        is_last=np.array([step.is_last for step in steps]),
        is_terminal=np.array([step.is_last and step.terminated for step in steps]),
        instruction=instruction,
        metadata={
            # run/bags/episode: says where it came from, and moving the runs changes no byte.
            "file_path": "/".join(bag.parts[-3:]),
            "episode_id": info.episode_id,
            "task": info.task,
            "object": info.object,
            "source": info.source,
            "policy_id": info.policy_id,
            "policy_version": info.policy_version,
            "seed": str(info.seed),
            "success": info.success,
            "config_hash": info.config_hash,
            "provenance": json.dumps([part], sort_keys=True),
        },
    )
