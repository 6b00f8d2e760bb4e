"""Synthetic episodes as arrays, in which nothing is wrong: the lint and the card are tested on them."""

from __future__ import annotations

import json

import numpy as np
from scipy.spatial.transform import Rotation

from rldg_core.files import sha256_hex
from rldg_core.frames import compose_delta, twists_of
from rldg_data.episodes.episode import Episode
from rldg_data.testing.steps import jpeg

SCALE = np.array([0.015] * 3 + [0.1] * 3)


def good_episode(number: int, *, steps: int = 21, seed: int = 0, image_px: int = 64, success: bool = True) -> Episode:
    """An episode at 10 Hz with a gripper that opens once and whose fingers follow."""
    rng = np.random.default_rng([seed, number])
    action = np.zeros((steps, 7))
    action[:-1, :6] = rng.uniform(-1, 1, (steps - 1, 6)) * SCALE
    opens = rng.integers(1, steps - 1)
    action[opens:, 6] = 1
    poses = [np.concatenate([rng.uniform(-0.5, 0.5, 3), Rotation.random(random_state=number).as_quat()])]
    for delta in action[:-1]:
        poses.append(compose_delta(poses[-1], delta[:6]))
    state = np.concatenate([np.array(poses), np.zeros((steps, 1))], axis=1)
    state[:, 7] = np.where(np.arange(steps) > opens, 0.08, 0.01)
    index = np.arange(steps)
    episode_id = f"run-{seed}/{number}"
    stamps_s = index * 0.1 + rng.uniform(-0.005, 0.005, steps)
    images = {"image": {"camera": "wrist", "view": {"width": 640}}}
    bag = {"bag": f"run/bags/episode_{number:06d}", "blake3": sha256_hex(episode_id.encode())}
    provenance = [{**bag, "images": images, "rate_hz": 10.0}]
    return Episode(
        images={"image": [jpeg(image_px, (number * 31 + i) % 50) for i in range(steps)]},
        timestamp_s=stamps_s.astype(np.float32),
        state=state.astype(np.float32),
        twist=twists_of(stamps_s, state[:, :7]).astype(np.float32),
        wrench=rng.normal(size=(steps, 6)).astype(np.float32),
        action=action.astype(np.float32),
        reward=(index == steps - 2).astype(np.float32) * success,
        is_first=index == 0,
        is_last=index == steps - 1,
        is_terminal=(index == steps - 1) & success,
        instruction="insert the usb_a plug",
        metadata={
            "file_path": f"run/bags/episode_{number:06d}",
            "episode_id": episode_id,
            "task": "insertion",
            "object": ("usb_a", "hdmi")[number % 2],
            "source": ("policy", "human")[number % 3 == 0],
            "policy_id": "specialist",
            "policy_version": number // 2,
            "seed": str(seed),
            "success": success,
            "config_hash": "0123",
            "provenance": json.dumps(provenance, sort_keys=True),
        },
    )
