"""lerobot's half of scripts/compat_lerobot.sh, in .venv-lerobot: load, compare, train a step, edit, write."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from lerobot.configs import RGBEncoderConfig
from lerobot.configs.types import FeatureType
from lerobot.datasets.dataset_tools import delete_episodes
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.utils.feature_utils import dataset_to_policy_features

FEATURES = {
    "timestamp_s": "stamp_s",
    "state": "observation.state",
    "twist": "observation.twist",
    "wrench": "observation.wrench",
    "action": "action",
    "reward": "next.reward",
}


def compare(path: Path, ours: np.lib.npyio.NpzFile) -> None:
    """Check that every frame, by index, equals what our reader returned."""
    dataset = LeRobotDataset("local/ours", root=path)
    lengths = ours["lengths"]
    assert (len(dataset), dataset.num_episodes, dataset.fps) == (lengths.sum(), len(lengths), 10)
    assert dataset.meta.info.splits == {"train": "0:5", "val": "5:6"}
    for backend in ("torchcodec", "pyav"):
        dataset = LeRobotDataset("local/ours", root=path, video_backend=backend)
        worst = 0.0
        for index in range(len(dataset)):
            item = dataset[index]
            episode = int(np.searchsorted(np.cumsum(lengths), index, "right"))
            assert int(item["episode_index"]) == episode
            assert item["task"] == ours["instructions"][episode]
            for name, feature in FEATURES.items():
                np.testing.assert_array_equal(item[feature].numpy(), ours[name][index], err_msg=feature)
            for key in ("image", "side"):
                frame = item[f"observation.images.{key}"].permute(1, 2, 0).numpy() * 255
                worst = max(worst, float(np.mean((frame - ours[key][index]) ** 2)))
        assert worst < 40, worst
        print(f"real: {len(dataset)} frames equal with {backend}; images within {10 * np.log10(255**2 / worst):.1f} dB")


def check_stats(path: Path, ours: np.lib.npyio.NpzFile) -> None:
    """Check that meta.stats equals numpy over what lerobot itself loads, with the shapes that its normalisation
    expects."""
    dataset = LeRobotDataset("local/ours", root=path)
    for name, feature in FEATURES.items():
        values = ours[name].reshape(len(dataset), -1).astype(np.float64)
        for stat, expected in (
            ("mean", values.mean(0)),
            ("std", values.std(0)),
            ("min", values.min(0)),
            ("max", values.max(0)),
            ("q01", np.quantile(values, 0.01, axis=0)),
            ("q99", np.quantile(values, 0.99, axis=0)),
        ):
            np.testing.assert_allclose(dataset.meta.stats[feature][stat], expected, rtol=1e-6, atol=1e-9)
    image = dataset.meta.stats["observation.images.image"]
    assert {key: value.shape for key, value in image.items() if key != "count"}.keys() >= {"mean", "std", "q01"}
    assert image["mean"].shape == image["std"].shape == (3, 1, 1)
    pixels = ours["image"].astype(float) / 255
    np.testing.assert_allclose(image["mean"].ravel(), pixels.mean((0, 1, 2)), atol=0.01)
    print("real: statistics equal")


def train(path: Path) -> None:
    """Train with windows over time, a DataLoader and one step of ACT."""
    dataset = LeRobotDataset("local/ours", root=path, delta_timestamps={"action": [i / 10 for i in range(8)]})
    features = dataset_to_policy_features(dataset.meta.features)
    outputs = {key: value for key, value in features.items() if value.type is FeatureType.ACTION}
    inputs = {k: features[k] for k in ("observation.state", "observation.images.image")}
    config = ACTConfig(
        input_features=inputs,
        output_features=outputs,
        chunk_size=8,
        n_action_steps=8,
        dim_model=64,
        n_heads=4,
        dim_feedforward=128,
        latent_dim=8,
        pretrained_backbone_weights=None,
        device="cpu",
    )
    torch.manual_seed(0)
    policy = ACTPolicy(config)
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)))
    assert batch["action"].shape == (8, 8, 7) and batch["action_is_pad"].dtype == torch.bool
    loss, _ = policy.forward(batch)
    loss.backward()
    assert torch.isfinite(loss)
    print(f"real: a training step of ACT: loss {loss.item():.3f}")


def edit(path: Path, out: Path) -> None:
    """Edit our dataset with lerobot's own tools."""
    dataset = LeRobotDataset("local/ours", root=path)
    edited = delete_episodes(dataset, [1], output_dir=out, repo_id="local/edited")
    assert edited.num_episodes == dataset.num_episodes - 1
    print(f"real: deleted an episode: {edited.num_episodes} left, {len(edited)} frames")


def write(folder: Path) -> None:
    """Write datasets with lerobot itself: videos of both codecs, and images in the table."""
    rng = np.random.default_rng(0)
    lengths = (5, 12, 3)
    total = sum(lengths)
    coarse = rng.integers(0, 255, (total, 4, 4, 3), dtype=np.uint8)
    frames = np.stack([cv2.resize(image, (128, 128), interpolation=cv2.INTER_CUBIC) for image in coarse])
    state = rng.uniform(-1, 1, (total, 7)).astype(np.float32)
    state[:, 3:] /= np.linalg.norm(state[:, 3:], axis=1, keepdims=True)
    action = rng.uniform(-1, 1, (total, 6)).astype(np.float32)
    for name, dtype, codec in (("av1", "video", None), ("h264", "video", "h264"), ("image", "image", None)):
        features = {
            "observation.images.top": {
                "dtype": dtype,
                "shape": (128, 128, 3),
                "names": ["height", "width", "channels"],
            },
            "observation.state": {"dtype": "float32", "shape": (7,), "names": None},
            "action": {"dtype": "float32", "shape": (6,), "names": None},
        }
        encoder = {"rgb_encoder": RGBEncoderConfig(vcodec=codec)} if codec else {}
        dataset = LeRobotDataset.create(
            "local/theirs", 10, features, root=folder / f"theirs_{name}", use_videos=dtype == "video", **encoder
        )
        index = 0
        for number, length in enumerate(lengths):
            for _ in range(length):
                row = {"observation.images.top": frames[index], "observation.state": state[index]}
                dataset.add_frame({**row, "action": action[index], "task": f"task {number % 2}"})
                index += 1
            dataset.save_episode()
        dataset.finalize()
    np.savez(folder / "theirs.npz", frames=frames, state=state, action=action)
    print(f"real: wrote {len(lengths)} episodes three times")


if __name__ == "__main__":
    out = Path(sys.argv[1])
    dataset_path = out / "ours/1.0.0"
    versions = {name: importlib.metadata.version(name) for name in ("lerobot", "torch", "datasets", "pyarrow", "av")}
    print(f"real: Python {sys.version.split()[0]}, {json.dumps(versions)}")
    found = np.load(out / "ours.npz")
    compare(dataset_path, found)
    check_stats(dataset_path, found)
    train(dataset_path)
    edit(dataset_path, out / "edited")
    write(out)
