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
        # What both loaders do then: train[:95%] and train[95%:].
        middle = round(0.95 * len(episodes["train"]))
        episodes = {"train": episodes["train"][:middle], "val": episodes["train"][middle:]}
    statistics = json.loads((dataset / "dataset_statistics.json").read_text())
    run = {"octo": octo, "openvla": openvla}[loader]
    report = run(sources, dataset, episodes, statistics)
    print(json.dumps({"loader": loader, **report, "versions": versions()}))


def octo(sources: Path, dataset: Path, episodes: Mapping[str, list[Arrays]], statistics: Any) -> dict[str, Any]:
    """make_single_dataset over all trajectories of both splits, make_interleaved_dataset over batches."""
    sys.path[:0] = [str(sources / "octo"), str(sources / "dlimp")]
    from octo.data.dataset import make_interleaved_dataset, make_single_dataset

    kwargs = json.loads((dataset / "octo_dataset_kwargs.json").read_text())
    kwargs["data_dir"] = str(dataset.parents[1])
    ours = {**kwargs, "dataset_statistics": str(dataset / "dataset_statistics.json")}
    frames = {"resize_size": {"primary": (256, 256)}}
    action, proprio = statistics["action"], statistics["proprio"]

    def normal(values: np.ndarray, entry: Any) -> np.ndarray:
        scaled = (values - np.array(entry["mean"])) / (np.array(entry["std"]) + 1e-8)
        return np.where(entry.get("mask", True), scaled, values)

    counts = {}
    for train, split in ((True, "train"), (False, "val")):
        single = make_single_dataset(ours, train=train, frame_transform_kwargs=frames)
        seen = [
            {
                "action": traj["action"][:, 0, 0],
                "proprio": traj["observation"]["proprio"][:, 0],
                "images": traj["observation"]["image_primary"][:, 0],
                "language": traj["task"]["language_instruction"],
            }
            for traj in single.iterator()
        ]
        counts[split] = compare(seen, episodes[split], 256, lambda v: normal(v, action), lambda v: normal(v, proprio))
    # make_interleaved_dataset takes no statistics (it passes its own on a second time): it computes them.
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
    own = batches.dataset_statistics[dataset.parent.name]
    steps = np.concatenate([e["action"] for split in episodes.values() for e in split]).astype(np.float64)
    np.testing.assert_allclose(own["action"]["mean"], steps.mean(axis=0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(own["action"]["p99"], np.quantile(steps, 0.99, axis=0), rtol=1e-4, atol=1e-7)
    batch = next(batches.iterator())
    assert batch["action"].shape == (8, 2, 4, 7)
    assert batch["observation"]["image_primary"].shape == (8, 2, 256, 256, 3)
    return {"trajectories": counts, "batch": list(batch["action"].shape)}


def openvla(sources: Path, dataset: Path, episodes: Mapping[str, list[Arrays]], statistics: Any) -> dict[str, Any]:
    """make_single_dataset over all trajectories of both splits; RLDSDataset as finetune.py makes it."""
    sys.path[:0] = [str(sources / "openvla"), str(sources / "dlimp_openvla")]
    whole = importlib.util.find_spec("torch") is not None
    if not whole:
        # prismatic/__init__.py imports the models; the data loaders themselves need TensorFlow only.
        for name in ("prismatic", "prismatic.vla", "prismatic.vla.datasets"):
            package = types.ModuleType(name)
            package.__path__ = [str(sources / "openvla" / name.replace(".", "/"))]
            sys.modules[name] = package
    register = module_of(dataset / "openvla_register.py")
    register.register()
    from prismatic.vla.datasets.rlds import make_interleaved_dataset, make_single_dataset
    from prismatic.vla.datasets.rlds.oxe import get_oxe_dataset_kwargs_and_weights
    from prismatic.vla.datasets.rlds.utils.data_utils import NormalizationType

    root, name = dataset.parents[1], dataset.parent.name
    (kwargs,), weights = get_oxe_dataset_kwargs_and_weights(
        root,
        [(name, 1.0)],
        load_camera_views=("primary",),
        load_proprio=True,
        action_proprio_normalization_type=NormalizationType.BOUNDS_Q99,
    )
    trajectories = {"window_size": 1, "future_action_window_size": 0, "skip_unlabeled": True}
    frames = {"resize_size": (224, 224)}
    action, proprio = statistics["action"], statistics["proprio"]

    def bounds(values: np.ndarray, entry: Any) -> np.ndarray:
        low, high = np.array(entry["q01"]), np.array(entry["q99"])
        scaled = np.clip(2 * (values - low) / (high - low + 1e-8) - 1, -1, 1)
        scaled = np.where(entry.get("mask", True), scaled, values)
        return np.where(np.array(entry["min"]) == np.array(entry["max"]), 0, scaled)

    counts = {}
    for train, split in ((True, "train"), (False, "val")):
        single, _, _ = make_single_dataset(
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
        counts[split] = compare(
            seen, episodes[split], 224, lambda v: bounds(v, action), lambda v: bounds(v, proprio), drop=1
        )
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
    assert length == statistics["num_transitions"]
    for key in ("mean", "std", "min", "max", "q01", "q99", "mask"):
        # Computed by the loader, in float32, over the steps that our transform leaves: equal to ours.
        np.testing.assert_allclose(stored["action"][key], action[key], rtol=1e-4, atol=1e-7, err_msg=key)
    assert frame["action"].shape == (1, 7)
    assert frame["observation"]["image_primary"].shape == (1, 224, 224, 3)
    return {"trajectories": counts, "frames": int(length), "RLDSDataset": whole}


def compare(
    seen: Iterable[Mapping[str, Any]],
    expected: list[Arrays],
    image_px: int,
    action_of: Callable[[np.ndarray], np.ndarray],
    proprio_of: Callable[[np.ndarray], np.ndarray],
    drop: int = 0,
) -> int:
    """Every expected episode is seen exactly once, without its last `drop` steps; the order does not matter."""
    seen, left = list(seen), list(expected)
    for trajectory in seen:
        matches = [
            episode
            for episode in left
            if len(trajectory["action"]) == len(episode["action"]) - drop
            and np.allclose(trajectory["action"], action_of(end(episode["action"], drop)), atol=1e-4)
            and np.allclose(trajectory["proprio"], proprio_of(end(episode["state"], drop)), atol=1e-4)
        ]
        assert len(matches) == 1, f"{len(matches)} episodes like this one of {len(trajectory['action'])} steps"
        left = [episode for episode in left if episode is not matches[0]]
        text = str(matches[0]["language_instruction"])
        assert {value.decode() for value in trajectory["language"]} == {text}
        assert trajectory["images"].shape[1:] == (image_px, image_px, 3)
        assert trajectory["images"].dtype == np.uint8 and trajectory["images"].std() > 1
    assert not left, f"{len(left)} episodes were not seen"
    return len(seen)


def end(values: np.ndarray, drop: int) -> np.ndarray:
    return values[: len(values) - drop].astype(np.float64)


def module_of(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
