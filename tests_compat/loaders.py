"""The unmodified data loaders of Octo or OpenVLA on a dataset: loaders.py octo|openvla SOURCES DATASET EXPECTED.

Runs in the environment of scripts/compat_loaders.sh. SOURCES: folder of the clones; DATASET: <root>/<name>/<version>;
EXPECTED: what our own reader sees (dump.py). Prints one JSON line; an assertion that fails ends it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


def main(loader: str, sources: Path, dataset: Path, expected: Path) -> None:
    episodes = {
        split: [dict(np.load(file)) for file in sorted(expected.glob(f"{split}_*.npz"))] for split in ("train", "val")
    }
    if not episodes["val"]:
        # Both loaders use train[:95%] and train[95%:].
        middle = round(0.95 * len(episodes["train"]))
        episodes = {"train": episodes["train"][:middle], "val": episodes["train"][middle:]}
    run = {"octo": octo, "openvla": openvla}[loader]
    sys.path.append(str(dataset))  # openvla_register, octo_kwargs
    report = run(sources, dataset, episodes)
    print(json.dumps({"loader": loader, **report, "versions": versions()}))


def octo(sources: Path, dataset: Path, episodes: Mapping[str, list[Arrays]]) -> dict[str, Any]:
    """Run make_single_dataset over all trajectories of both splits, and make_interleaved_dataset over batches."""
    sys.path[:0] = [str(sources / "octo"), str(sources / "dlimp")]
    from octo.data.dataset import make_interleaved_dataset, make_single_dataset
    from octo_kwargs import DATASET_KWARGS

    statistics = json.loads((dataset / "dataset_statistics.json").read_text())
    frames = {"resize_size": {"primary": (256, 256), "secondary": (128, 128)}}

    def normal(values: np.ndarray, key: str) -> np.ndarray:
        entry = statistics[key]
        scaled = (values - np.array(entry["mean"])) / (np.array(entry["std"]) + 1e-8)
        return np.where(entry.get("mask", True), scaled, values)

    counts = {}
    for train, split in ((True, "train"), (False, "val")):
        single = make_single_dataset(DATASET_KWARGS, train=train, frame_transform_kwargs=frames)
        seen = [
            {
                "action": traj["action"][:, 0, 0],
                "proprio": traj["observation"]["proprio"][:, 0],
                "images": traj["observation"]["image_primary"][:, 0],
                "language": traj["task"]["language_instruction"],
            }
            for traj in single.iterator()
        ]
        counts[split] = compare(seen, episodes[split], 256, normal)
    # make_interleaved_dataset passes its own statistics a second time, so ours cannot be given.
    kwargs = {key: value for key, value in DATASET_KWARGS.items() if key != "dataset_statistics"}
    batches = make_interleaved_dataset(
        [kwargs],
        train=True,
        shuffle_buffer_size=100,
        batch_size=8,
        traj_transform_kwargs={"window_size": 2, "action_horizon": 4, "goal_relabeling_strategy": "uniform"},
        frame_transform_kwargs=frames,
        traj_transform_threads=1,
        traj_read_threads=1,
    )
    check_statistics(batches.dataset_statistics[kwargs["name"]], episodes, "p")
    batch = next(batches.iterator())
    assert batch["action"].shape == (8, 2, 4, 7)
    assert batch["observation"]["image_primary"].shape == (8, 2, 256, 256, 3)
    return {"trajectories": counts, "batch": list(batch["action"].shape)}


def openvla(sources: Path, dataset: Path, episodes: Mapping[str, list[Arrays]]) -> dict[str, Any]:
    """Run make_single_dataset over all trajectories of both splits, and RLDSDataset as in finetune.py."""
    sys.path[:0] = [str(sources / "openvla"), str(sources / "dlimp_openvla")]
    whole = importlib.util.find_spec("torch") is not None
    if not whole:
        # prismatic/__init__.py imports the models; the data loaders themselves need only TensorFlow.
        for name in ("prismatic", "prismatic.vla", "prismatic.vla.datasets"):
            package = types.ModuleType(name)
            package.__path__ = [str(sources / "openvla" / name.replace(".", "/"))]
            sys.modules[name] = package
    import openvla_register
    from prismatic.vla.datasets.rlds import make_interleaved_dataset, make_single_dataset
    from prismatic.vla.datasets.rlds.oxe import get_oxe_dataset_kwargs_and_weights
    from prismatic.vla.datasets.rlds.utils.data_utils import NormalizationType

    root, name = dataset.parents[1], openvla_register.NAME
    (kwargs,), weights = get_oxe_dataset_kwargs_and_weights(
        root,
        [(name, 1.0)],
        load_camera_views=("primary",),
        load_proprio=True,
        action_proprio_normalization_type=NormalizationType.BOUNDS_Q99,
    )
    trajectories = {"window_size": 1, "future_action_window_size": 0, "skip_unlabeled": True}
    frames = {"resize_size": (224, 224)}
    loader_statistics: dict[str, Any] = {}

    def bounds(values: np.ndarray, key: str) -> np.ndarray:
        entry = loader_statistics[key]
        low, high = np.array(entry["q01"]), np.array(entry["q99"])
        scaled = np.clip(2 * (values - low) / (high - low + 1e-8) - 1, -1, 1)
        scaled = np.where(entry.get("mask", True), scaled, values)
        return np.where(np.array(entry["min"]) == np.array(entry["max"]), 0, scaled)

    counts = {}
    for train, split in ((True, "train"), (False, "val")):
        single, _, loader_statistics = make_single_dataset(
            kwargs, train=train, traj_transform_kwargs=trajectories, frame_transform_kwargs=frames
        )
        seen = [
            {
                "action": traj["action"][:, 0],
                "proprio": traj["observation"]["proprio"][:, 0],
                "images": traj["observation"]["image_primary"][:, 0],
                "language": traj["task"]["language_instruction"],
            }
            for traj in single.as_numpy_iterator()
        ]
        counts[split] = compare(seen, episodes[split], 224, bounds)
    if whole:
        from prismatic.vla.datasets import RLDSDataset

        training = RLDSDataset(root, name, lambda batch: batch, (224, 224), shuffle_buffer_size=100, image_aug=True)
        stored, length, frame = training.dataset_statistics[name], len(training), next(iter(training))
    else:
        mixed, length, all_statistics = make_interleaved_dataset(
            dataset_kwargs_list=[kwargs],
            sample_weights=weights,
            train=True,
            shuffle_buffer_size=100,
            traj_transform_kwargs={**trajectories, "goal_relabeling_strategy": "uniform"},
            frame_transform_kwargs={**frames, "num_parallel_calls": 2},
            balance_weights=True,
            traj_transform_threads=1,
            traj_read_threads=1,
        )
        stored, frame = all_statistics[name], next(mixed.as_numpy_iterator())
    assert length == check_statistics(stored, episodes, "q")
    assert frame["action"].shape == (1, 7)
    assert frame["observation"]["image_primary"].shape == (1, 224, 224, 3)
    return {"trajectories": counts, "frames": int(length), "RLDSDataset": whole}


def compare(
    seen: Iterable[Mapping[str, Any]],
    expected: list[Arrays],
    image_px: int,
    normalise: Callable[[np.ndarray, str], np.ndarray],
) -> int:
    """Check that every expected episode occurs exactly once, without its last step, in any order."""
    seen, left = list(seen), list(expected)
    for trajectory in seen:
        matches = [
            episode
            for episode in left
            if len(trajectory["action"]) == len(episode["action"]) - 1
            and np.allclose(trajectory["action"], normalise(transitions(episode, "action"), "action"), atol=1e-4)
            and np.allclose(trajectory["proprio"], normalise(transitions(episode, "state"), "proprio"), atol=1e-4)
        ]
        assert len(matches) == 1, (
            f"{len(matches)} expected episodes equal this one of {len(trajectory['action'])} steps"
        )
        left = [episode for episode in left if episode is not matches[0]]
        text = str(matches[0]["language_instruction"])
        assert {value.decode() for value in trajectory["language"]} == {text}
        assert trajectory["images"].shape[1:] == (image_px, image_px, 3)
        assert trajectory["images"].dtype == np.uint8 and trajectory["images"].std() > 1
    assert not left, f"{len(left)} episodes are missing"
    return len(seen)


def transitions(episode: Arrays, field: str) -> np.ndarray:
    return episode[field][:-1].astype(np.float64)


def check_statistics(stored: Mapping[str, Any], episodes: Mapping[str, list[Arrays]], quantile: str) -> int:
    """Check that a loader computes, in float32, the statistics of the transitions of all splits; return their
    number."""
    rows = np.concatenate([transitions(episode, "action") for split in episodes.values() for episode in split])
    expected = {
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        f"{quantile}01": np.quantile(rows, 0.01, axis=0),
        f"{quantile}99": np.quantile(rows, 0.99, axis=0),
    }
    for key, values in expected.items():
        np.testing.assert_allclose(stored["action"][key], values, rtol=1e-4, atol=1e-7, err_msg=key)
    assert stored["action"]["mask"].tolist() == [True] * 6 + [False]
    assert stored["num_transitions"] == len(rows)
    return len(rows)


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("tensorflow-cpu", "tensorflow-datasets", "numpy", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
