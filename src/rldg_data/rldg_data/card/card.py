"""A dataset's README.md: what it holds, where it came from, how it looks, how to load it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rldg_core.errors import UserError
from rldg_core.files import read_json, write_bytes
from rldg_data.card.survey import Survey, survey
from rldg_data.rlds import Dataset, read_dataset
from rldg_data.rlds.registration import OCTO_FILE, OPENVLA_FILE

FILE = "README.md"
ACTION_AXES = ("dx [m]", "dy [m]", "dz [m]", "drx [rad]", "dry [rad]", "drz [rad]", "gripper")
STATE_AXES = ("x [m]", "y [m]", "z [m]", "qx", "qy", "qz", "qw", "gripper width [m]")
MANY = 12
"""Rows of a table of policy versions or recordings; the rest is summed up."""


def write_card(path: Path) -> Path:
    """Write README.md and its pictures (card_*.png) into `<root>/<name>/<version>`; return the README's path.

    The readers of TFDS pass over such files. One pass over the data in constant memory. Raises UserError when it is
    no dataset or holds no steps.
    """
    dataset = read_dataset(path)
    seen = survey(dataset)
    if not seen.transitions:
        raise UserError(f"{path}: no transition in {len(dataset)} episodes: nothing to describe")
    from rldg_data.card.pictures import draw_actions, draw_frames, draw_lengths

    draw_actions(seen, ACTION_AXES, path / "card_actions.png")
    draw_lengths(seen, path / "card_lengths.png")
    draw_frames(seen, path / "card_frames.png")
    write_bytes(path / FILE, card(dataset, seen).encode())
    return path / FILE


def card(dataset: Dataset, seen: Survey) -> str:
    """The text of the README."""
    info = read_json(dataset.path / "dataset_info.json")
    images = ", ".join(f"`{key}` {width}x{height}" for key, (height, width) in dataset.image_sizes.items())
    size_mb = sum(int(split["numBytes"]) for split in info["splits"]) / 1e6
    return "\n\n".join(
        [
            f"# {dataset.name} {dataset.version}",
            _escaped(info.get("description", "")),
            f"{len(dataset)} episodes, {seen.transitions} transitions ({seen.duration_s / 60:.1f} minutes at "
            f"{seen.rate_hz:.3g} Hz), {size_mb:.1f} MB; images: {images}. RLDS, as TensorFlow Datasets, OpenVLA "
            "and Octo read it.",
            "![Sample frames](card_frames.png)",
            *_counts(dataset, seen),
            *_provenance(seen),
            *_histograms(),
            *_statistics(dataset.statistics),
            *_conventions(),
            *_loading(dataset),
        ]
    )


def _counts(dataset: Dataset, seen: Survey) -> list[str]:
    splits = list(dataset.splits)
    parts = ["## Episodes"]
    for title, counts in (("object", seen.objects), ("source", seen.sources), ("task", seen.tasks)):
        rows = [
            [name, *(counts[split, name] for split in splits), sum(counts[split, name] for split in splits)]
            for name in sorted({name for _, name in counts})
        ]
        total = ["all", *dataset.splits.values(), len(dataset)]
        parts.append(_table([title, *splits, "all"], [*rows, total] if len(rows) > 1 else rows))
    parts.append(f"Successful: {seen.successes} of {len(dataset)}.")
    policies = sorted(seen.policies.items(), key=lambda item: (-item[1], item[0]))
    rows = [[name or "-", version, count] for (name, version), count in policies]
    parts.append(_table(["policy", "version", "episodes"], _shortened(rows)))
    instructions = seen.instructions.most_common()
    parts.append(_table(["instruction", "episodes"], _shortened([[text, count] for text, count in instructions])))
    return parts


def _provenance(seen: Survey) -> list[str]:
    rows = [[folder, count] for folder, count in seen.folders.most_common()]
    parts = [
        "## Where it came from",
        _table(["recorded in", "bags"], _shortened(rows)),
        f"Task configurations (hashes): {', '.join(f'`{h}`' for h in sorted(seen.configs)) or 'unknown'}.",
        "Every episode's metadata names its bags with the BLAKE3 hash of their files (`provenance`).",
    ]
    if seen.stitched:
        parts.append(f"{seen.stitched} episodes are stitched from more than one recording.")
    for name, count in seen.relabelled.most_common():
        parts.append(f"{count} recordings have their actions relabelled by {_escaped(name)}.")
    return parts


def _histograms() -> list[str]:
    return ["## Distributions", "![Actions](card_actions.png)", "![Episode lengths](card_lengths.png)"]


def _statistics(statistics: Mapping[str, Any]) -> list[str]:
    columns = ("mean", "std", "min", "q01", "q99", "max")
    parts = [
        "## Statistics",
        f"Of {statistics.get('num_transitions')} transitions of {statistics.get('num_trajectories')} episodes "
        "(`dataset_statistics.json`; the last step of an episode has no action and is left out).",
    ]
    for title, key, axes in (("action", "action", ACTION_AXES), ("state", "proprio", STATE_AXES)):
        values = [statistics.get(key, {}).get(column, [float("nan")] * len(axes)) for column in columns]
        rows = [[axis, *(f"{value[i]:.4g}" for value in values)] for i, axis in enumerate(axes)]
        parts.append(_table([title, *columns], rows))
    return parts


def _conventions() -> list[str]:
    return [
        "## Conventions",
        "* `action` (7): delta of the tcp in tcp axes, translation [m], rotation vector [rad]; gripper absolute, 0 "
        "closed .. 1 open (constant 0 where the task has none).\n"
        "* `observation/state` (8): tcp in base, position [m], quaternion xyzw, gripper width [m]; `twist` (6) in base "
        "axes [m/s, rad/s]; `wrench` (6) in tcp axes [N, N m]; `timestamp` [s] since the first step.\n"
        "* Step t holds the observation, the action that answered it and its reward. The last step holds the final "
        "observation; its action means nothing.",
    ]


def _loading(dataset: Dataset) -> list[str]:
    root, name = "ROOT", dataset.name
    return [
        "## How to load it",
        f"`{root}` is the folder that holds `{name}/`.",
        "TensorFlow Datasets:",
        f'```python\nimport tensorflow_datasets as tfds\n\nepisodes = tfds.load("{name}:{dataset.version}", '
        f'data_dir="{root}", split="train")\n```',
        "Without TensorFlow (`rldg_data`):",
        "```python\nfrom pathlib import Path\nfrom rldg_data.rlds import read_dataset\n\n"
        f'for episode in read_dataset(Path("{root}/{name}/{dataset.version}")).episodes("train"):\n'
        "    print(episode.instruction, episode.action.shape)\n```",
        f"OpenVLA, unmodified: importing `{OPENVLA_FILE}` enters the dataset into its tables.",
        f'```bash\ncd openvla\nPYTHONPATH=.:{root}/{name}/{dataset.version} python -c "import openvla_register, runpy; '
        "runpy.run_path('vla-scripts/finetune.py', run_name='__main__')\" \\\n"
        f"  --data_root_dir {root} --dataset_name {name}\n```",
        f"Octo, unmodified: `{OCTO_FILE}` holds the arguments.",
        "```python\nimport sys\n\n"
        f'sys.path.append("{root}/{name}/{dataset.version}")\nimport octo_kwargs\n'
        "from octo.data.dataset import make_single_dataset\n\n"
        "trajectories = make_single_dataset(octo_kwargs.DATASET_KWARGS, train=True)\n```",
    ]


def _shortened(rows: Sequence[list[Any]]) -> list[list[Any]]:
    """At most MANY rows; the last column of the others is summed up."""
    if len(rows) <= MANY:
        return list(rows)
    rest = rows[MANY - 1 :]
    filler = [""] * (len(rows[0]) - 2)
    return [*rows[: MANY - 1], [f"{len(rest)} others", *filler, sum(row[-1] for row in rest)]]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_escaped(str(cell)) for cell in line) + " |" for line in lines)


def _escaped(text: str) -> str:
    """Text of users cannot break out of a table or a line."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
