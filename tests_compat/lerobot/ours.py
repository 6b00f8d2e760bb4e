"""Our half of scripts/compat_lerobot.sh, in .venv: `ours.py make FOLDER`; real.py; `ours.py check FOLDER`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from rldg_core.image_codec import decode_jpeg, encode_jpeg
from rldg_core.types import Step
from rldg_data.bags.reading import read_episode
from rldg_data.bags.recording import write_episode
from rldg_data.lerobot.components import FeatureNames
from rldg_data.lerobot.export import export_plan
from rldg_data.lerobot.importing import import_dataset
from rldg_data.lerobot.reading import read_dataset
from rldg_data.plan import EpisodePlan, Plan
from rldg_data.testing.steps import make_episode, make_task

ARRAYS = ("timestamp_s", "state", "twist", "wrench", "action", "reward")


def picture(size: int, seed: int) -> bytes:
    """Return smooth colours like a camera's; noise would test the chroma filters more than the frames."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return encode_jpeg(np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8), 95)


def with_cameras(steps: list[Step], seed: int) -> list[Step]:
    """Return the steps with two cameras of different sizes."""
    return [
        replace(
            step,
            observation=replace(
                step.observation,
                images={"wrist": picture(64, seed + step.index), "side": picture(96, seed + step.index + 500)},
            ),
        )
        for step in steps
    ]


def make(folder: Path) -> None:
    """Write ours/, a dataset of 6 episodes, and ours.npz, what our reader returns for it."""
    bags = [
        write_episode(
            folder / "bags",
            with_cameras(
                make_episode(4 + 7 * n, seed=n, object_name=("usb_a", "hdmi")[n % 2], success=n % 3 > 0), 1000 * n
            ),
            make_task(),
            wall_time="now",
        )
        for n in range(6)
    ]
    cameras = (("image", "wrist"), ("side", "side"))
    episodes = tuple(EpisodePlan("val" if n == 5 else "train", (bag,), cameras=cameras) for n, bag in enumerate(bags))
    path = export_plan(Plan("ours", "1.0.0", episodes), folder).path
    read = list(read_dataset(path).episodes())
    arrays = {name: np.concatenate([getattr(e, name)[:-1] for e in read]) for name in ARRAYS}
    for key in ("image", "side"):
        arrays[key] = np.stack([decode_jpeg(data) for e in read for data in e.images[key][:-1]])
    arrays["lengths"] = np.array([len(e) - 1 for e in read])
    arrays["instructions"] = np.array([e.instruction for e in read])
    np.savez(folder / "ours.npz", **arrays)
    print(f"ours: {len(read)} episodes, {arrays['lengths'].sum()} frames exported")


def check(folder: Path) -> None:
    """Import what the real lerobot has written and edited."""
    expected = np.load(folder / "theirs.npz")
    names = FeatureNames(images={"observation.images.top": "wrist"}, action_unit="normalised")
    for codec in ("av1", "h264", "image"):
        result = import_dataset(folder / f"theirs_{codec}", folder / f"bags_{codec}", make_task(), names)
        steps = [step for bag in result.bags for step in read_episode(bag)[:-1]]
        assert (result.episodes, len(steps), result.skipped) == (3, len(expected["action"]), ()), result
        assert result.clipped == 0
        np.testing.assert_allclose([s.action.executed for s in steps], expected["action"], atol=1e-6)
        np.testing.assert_array_equal(np.float32([s.observation.pose_base_tcp for s in steps]), expected["state"])
        frames = np.stack([decode_jpeg(s.observation.images["wrist"]) for s in steps]).astype(float)
        error = np.mean((frames - expected["frames"]) ** 2, axis=(1, 2, 3))
        psnr = 10 * np.log10(255**2 / error)
        assert psnr.min() > 30, psnr
        print(f"ours: imported what lerobot wrote as {codec}: {len(steps)} frames, PSNR {psnr.min():.1f} dB at least")
    edited = list(read_dataset(folder / "edited").episodes())
    original = list(read_dataset(folder / "ours/1.0.0").episodes())
    for got, same in zip(edited, [e for n, e in enumerate(original) if n != 1], strict=True):
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(got, name)[:-1], getattr(same, name)[:-1], err_msg=name)
        # lerobot's editing drops the columns it does not know, such as the final observation.
        np.testing.assert_array_equal(got.state[-1], got.state[-2])
    print(f"ours: read what lerobot left after deleting an episode: {len(edited)} episodes")


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](Path(sys.argv[2]))
