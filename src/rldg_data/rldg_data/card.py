"""The dataset card (README.md): content, provenance, sample frames, how to load it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.files import read_json, write_bytes, writing_aside
from rldg_core.image_codec import decode_jpeg, resize
from rldg_data.episodes import provenance
from rldg_data.episodes.episode import ACTION_DIM, IMAGE_KEY, STATE_DIM, Episode
from rldg_data.rlds import Dataset, read_dataset
from rldg_data.rlds.registration import OCTO_FILE, OPENVLA_FILE
from rldg_data.rlds.statistics import read_columns

BINS = 60
SAMPLES, FRAMES = 6, 7
"""Episodes and frames of each on the contact sheet."""


@dataclass
class Survey:
    """edges (7, BINS + 1), histogram (7, BINS): of the transitions' actions; lengths: transitions per episode;
    samples: (title, JPEG files over time) of some episodes.
    """

    edges: NDArray[np.float64]
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros((ACTION_DIM, BINS), np.int64))
    lengths: list[int] = field(default_factory=list)
    samples: list[tuple[str, list[bytes]]] = field(default_factory=list)
    objects: Counter[tuple[str, str]] = field(default_factory=Counter)
    sources: Counter[tuple[str, str]] = field(default_factory=Counter)
    tasks: Counter[tuple[str, str]] = field(default_factory=Counter)
    policies: Counter[tuple[str, int]] = field(default_factory=Counter)
    instructions: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)
    relabelled: Counter[str] = field(default_factory=Counter)
    configs: set[str] = field(default_factory=set)
    successes: int = 0
    stitched: int = 0
    duration_s: float = 0.0

    @property
    def transitions(self) -> int:
        """Total number of transitions."""
        return sum(self.lengths)

    @property
    def rate_hz(self) -> float:
        """Mean transitions per second."""
        return self.transitions / self.duration_s if self.duration_s else float("nan")

    def add(self, split: str, episode: Episode, sampled: bool) -> None:
        """Add one episode. Raises ValueError when its provenance does not have the form written by `build`."""
        data = episode.metadata
        self.lengths.append(len(episode) - 1)
        self.duration_s += float(episode.timestamp_s[-1] - episode.timestamp_s[0])
        for axis in range(ACTION_DIM):
            edges = self.edges[axis]
            values = np.clip(np.nan_to_num(episode.action[:-1, axis]), edges[0], edges[-1])
            self.histogram[axis] += np.histogram(values, edges)[0]
        self.objects[split, data["object"]] += 1
        self.sources[split, data["source"]] += 1
        self.tasks[split, data["task"]] += 1
        self.policies[data["policy_id"], data["policy_version"]] += 1
        self.instructions[episode.instruction] += 1
        self.configs.add(data["config_hash"])
        self.successes += bool(data["success"])
        self._add_provenance(data)
        if sampled:
            chosen = np.linspace(0, len(episode) - 1, FRAMES).round().astype(int).tolist()
            title = f"{split}: {data['object']}, {data['source']}, {len(episode) - 1} transitions"
            self.samples.append((title, [episode.images[IMAGE_KEY][i] for i in chosen]))

    def _add_provenance(self, metadata: Mapping[str, Any]) -> None:
        parts = provenance.parts(metadata)
        self.stitched += len(parts) > 1
        for part in parts:
            self.folders[part["bag"].rpartition("/")[0] or part["bag"]] += 1
            by = part.get("relabelled_by")
            if by:
                name = "; ".join(f"{key} {value}" for key, value in by.items()) if isinstance(by, Mapping) else str(by)
                self.relabelled[name] += 1


def survey(dataset: Dataset) -> Survey:
    """Read all splits. The action's histograms span its stored minimum and maximum."""
    seen = Survey(_edges(dataset))
    for split, count in dataset.splits.items():
        share = max(1, round(SAMPLES * count / len(dataset)))
        sampled = set(np.linspace(0, count - 1, share).round().astype(int).tolist())
        for number, episode in enumerate(dataset.episodes(split)):
            try:
                seen.add(split, episode, number in sampled)
            except ValueError as error:
                raise UserError(f"{dataset.path}: {split} {number}: {error}") from error
    return seen


def _edges(dataset: Dataset) -> NDArray[np.float64]:
    columns = action_and_state(dataset)[0]
    low, high = columns["min"], columns["max"]
    # A constant dimension gets a bin in the middle; the gripper has its own range.
    low, high = np.where(high > low, low, low - 0.5), np.where(high > low, high, high + 0.5)
    low[-1], high[-1] = -0.05, 1.05
    return np.linspace(low, high, BINS + 1, axis=1)


def action_and_state(dataset: Dataset) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Stored statistics of actions and states. Raises UserError when they are missing or invalid."""
    file = dataset.path / "dataset_statistics.json"
    found = []
    for key, dim in (("action", ACTION_DIM), ("proprio", STATE_DIM)):
        stored = dataset.statistics.get(key)
        if not isinstance(stored, dict) or not {"min", "max"} <= stored.keys():
            raise UserError(f"{file}: no min and max of {key}")
        found.append(read_columns(stored, dim, f"{file}: {key}"))
    return found[0], found[1]


FRAME_PX, GAP_PX = 160, 4
_DPI = 100


def draw_actions(seen: Survey, axes_names: Sequence[str], path: Path) -> None:
    """Histogram of every action dimension; logarithmic counts, since waiting and saturation dominate."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    panels = figure.subplots(2, 4).ravel()
    for axis, name in enumerate(axes_names):
        panel, edges = panels[axis], seen.edges[axis]
        panel.bar(edges[:-1], seen.histogram[axis], np.diff(edges), align="edge", color=f"C{axis}")
        panel.set_yscale("log")
        panel.set_ylim(0.8, 2 * max(int(seen.histogram[axis].max()), 1))
        panel.set_title(name, fontsize=10)
        panel.tick_params(labelsize=8)
        panel.locator_params(axis="x", nbins=5)
        panel.set_xlim(edges[0], edges[-1])
        panel.axvline(0, color="black", linewidth=0.6, alpha=0.5)
    panels[0].set_ylabel("steps")
    panels[4].set_ylabel("steps")
    panels[-1].set_visible(False)
    _save(figure, path)


def draw_lengths(seen: Survey, path: Path) -> None:
    """Histogram of the episodes' lengths."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    panel = figure.subplots()
    low, high = min(seen.lengths), max(seen.lengths)
    edges = np.linspace(low - 0.5, high + 0.5, min(high - low + 1, 40) + 1).tolist()
    panel.hist(seen.lengths, edges, color="C0")
    median = float(np.median(seen.lengths))
    panel.axvline(median, color="black", linestyle="--", linewidth=1, label=f"median {median:g}")
    panel.set_xlabel("transitions of an episode")
    panel.set_ylabel("episodes")
    panel.legend(fontsize=8)
    _save(figure, path)


def draw_frames(seen: Survey, path: Path) -> None:
    """Contact sheet: a row per sampled episode, its first frame on the left, its last on the right."""
    rows = len(seen.samples)
    columns = len(seen.samples[0][1])
    width, height = columns * (FRAME_PX + GAP_PX) - GAP_PX, FRAME_PX
    figure = Figure(figsize=(width / _DPI, rows * (height + 24) / _DPI), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, 1))
    gap = np.full((FRAME_PX, GAP_PX, 3), 255, np.uint8)
    for panel, (title, files) in zip(panels, seen.samples, strict=True):
        try:
            frames = [resize(decode_jpeg(data), FRAME_PX) for data in files]
        except ValueError as error:
            raise UserError(f"{path.parent}: {title}: {error}") from error
        panel.imshow(np.concatenate([part for frame in frames for part in (gap, frame)][1:], axis=1))
        panel.set_title(title, fontsize=8, loc="left", pad=3)
        panel.set_axis_off()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with writing_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=_DPI)


FILE = "README.md"
ACTION_AXES = ("dx [m]", "dy [m]", "dz [m]", "drx [rad]", "dry [rad]", "drz [rad]", "gripper")
STATE_AXES = ("x [m]", "y [m]", "z [m]", "qx", "qy", "qz", "qw", "gripper width [m]")
MANY = 12
"""Maximum rows of a table of policy versions or recordings; the rest is summarised."""


def write_card(path: Path) -> Path:
    """Write README.md and its pictures (card_*.png) into `<root>/<name>/<version>`; return the README's path.

    TFDS ignores these files. One pass over the data in constant memory. Raises UserError when it is not a dataset or
    has no steps.
    """
    dataset = read_dataset(path)
    seen = survey(dataset)
    if not seen.transitions:
        raise UserError(f"{path}: no transition in {len(dataset)} episodes: nothing to describe")

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
    """At most MANY rows; the last column of the others is summed."""
    if len(rows) <= MANY:
        return list(rows)
    rest = rows[MANY - 1 :]
    filler = [""] * (len(rows[0]) - 2)
    return [*rows[: MANY - 1], [f"{len(rest)} others", *filler, sum(row[-1] for row in rest)]]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_escaped(str(cell)) for cell in line) + " |" for line in lines)


def _escaped(text: str) -> str:
    """Escape user text so that it cannot break a table or a line."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
