"""Bags -> RLDS: selection, conversion to arrays, one atomic write."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from rldg_core.errors import UserError
from rldg_core.files import writing_aside
from rldg_core.seeding import derive_seed
from rldg_core.types import Source, Step
from rldg_data import rlds
from rldg_data.bags import episode_info, find_bags, read_episode
from rldg_data.episode_info import EpisodeInfo
from rldg_data.rlds import ACTION_DIM, STATE_DIM, Episode
from rldg_data.statistics import dataset_statistics

CLOSED_GRIPPER = 0.0
"""Gripper of a task without one (the connector is in the fingers throughout): 0 closed, 1 open, absolute."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ExportResult:
    """path: the dataset; steps: written, last steps included; skipped: bags that the filters left out."""

    path: Path
    episodes: int
    steps: int
    skipped: int


def export_dataset(
    bag_dirs: Sequence[Path],
    output_dir: Path,
    name: str,
    version: str,
    *,
    only_success: bool = False,
    source: str = "",
    max_episodes: int | None = None,
    max_episodes_per_object: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Write the bags of `bag_dirs` as `<output_dir>/<name>/<version>`; the same bags give the same bytes.

    source: keep episodes whose dominant action source this is ("" keeps all). Episodes are shuffled by `seed`
    before the maxima are taken, so that a `train[:95%]` split holds out every object. Raises UserError when an
    argument is wrong, a bag is damaged, nothing is left or the disk is full; what stood there before stays.
    """
    path = _check(output_dir, name, version, source, overwrite)
    bags = list(dict.fromkeys(bag.resolve() for directory in bag_dirs for bag in find_bags(directory)))
    if not bags:
        raise UserError(f"{', '.join(map(str, bag_dirs))}: no bags (folders episode_<number>) found")
    chosen = _select(
        [(bag, episode_info(bag)) for bag in bags], only_success, source, max_episodes, max_episodes_per_object, seed
    )
    if not chosen:
        raise UserError(f"{', '.join(map(str, bag_dirs))}: none of {len(bags)} episodes passes the filters")
    size: list[tuple[int, int]] = []
    actions, states = [], []

    def episodes() -> Iterator[Episode]:
        for done, (bag, info) in enumerate(chosen):
            episode = to_episode(read_episode(bag), info, bag)
            height_width = _image_size(episode.images[0], bag)
            size.append(height_width)
            if height_width != size[0]:
                raise UserError(f"{bag}: images of {height_width} px, those before are of {size[0]} px (height, width)")
            actions.append(episode.action[:-1])
            states.append(episode.state)
            yield episode
            if progress:
                progress(done + 1, len(chosen))

    with writing_aside(path) as folder:
        folder.mkdir()
        lengths, num_bytes = rlds.write_shards(folder, name, episodes())
        description = f"Episodes recorded by RLDG for ROS 2; tasks: {', '.join(sorted({i.task for _, i in chosen}))}."
        for file_name, value in (
            ("dataset_info.json", rlds.dataset_info(name, version, description, lengths, num_bytes)),
            ("features.json", rlds.features_json(*size[0])),
            ("dataset_statistics.json", dataset_statistics(actions, states)),
        ):
            (folder / file_name).write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    return ExportResult(path, len(chosen), sum(len(s) for s in states), len(bags) - len(chosen))


def to_episode(steps: Sequence[Step], info: EpisodeInfo, bag: Path) -> Episode:
    """One recorded episode -> arrays. The first camera is the dataset's image; its JPEG bytes are passed through.

    Rotations are rotation vectors, which at <= 0.1 rad a step differ from roll, pitch, yaw by < 0.005 rad.
    Raises UserError naming the bag on a value that no dataset may hold.
    """
    if not steps[0].instruction:
        raise UserError(f"{bag}: empty instruction: generalists would skip the episode without a word")
    if not all(step.observation.images for step in steps):
        raise UserError(f"{bag}: a Step has no image")
    camera = next(iter(steps[0].observation.images))
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
    if not (np.isfinite(action).all() and np.isfinite(state).all()):
        raise UserError(f"{bag}: an executed action or a pose is not finite")
    try:
        images = [step.observation.images[camera] for step in steps]
    except KeyError as error:
        raise UserError(f"{bag}: camera {camera!r} is missing in some Steps") from error
    return Episode(
        images=images,
        state=state.astype(np.float32),
        action=action.astype(np.float32),
        reward=np.array([step.reward for step in steps], dtype=np.float32),
        is_first=np.array([step.is_first for step in steps]),
        is_last=np.array([step.is_last for step in steps]),
        is_terminal=np.array([step.is_last and step.terminated for step in steps]),
        instruction=steps[0].instruction,
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
        },
    )


def _check(output_dir: Path, name: str, version: str, source: str, overwrite: bool) -> Path:
    """Refuse wrong arguments before anything is read; return the path of the dataset."""
    if not rlds.is_valid_name(name):
        raise UserError(f"dataset name {name!r}: expected lower-case letters, digits and _, starting with a letter")
    if not rlds.is_valid_version(version):
        raise UserError(f"dataset version {version!r}: expected MAJOR.MINOR.PATCH, e.g. 1.0.0")
    known = [s.name.lower() for s in Source if s != Source.NONE]
    if source and source not in known:
        raise UserError(f"source {source!r}: unknown, expected one of {', '.join(known)}")
    path = output_dir / name / version
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists already; ask for overwriting or choose another version")
    if path.exists() and not (path / "dataset_info.json").is_file():
        raise UserError(f"{path}: is not a dataset and will not be replaced")
    return path


def _select(
    candidates: Sequence[tuple[Path, EpisodeInfo]],
    only_success: bool,
    source: str,
    max_episodes: int | None,
    max_episodes_per_object: int | None,
    seed: int,
) -> list[tuple[Path, EpisodeInfo]]:
    order = np.random.default_rng(derive_seed(seed, "export")).permutation(len(candidates))
    chosen: list[tuple[Path, EpisodeInfo]] = []
    per_object: Counter[str] = Counter()
    for bag, info in (candidates[i] for i in order):
        if max_episodes is not None and len(chosen) >= max_episodes:
            break
        full = max_episodes_per_object is not None and per_object[info.object] >= max_episodes_per_object
        if full or info.steps < 1 or (only_success and not info.success) or (source and info.source != source):
            continue
        per_object[info.object] += 1
        chosen.append((bag, info))
    return chosen


def _image_size(data: bytes, bag: Path) -> tuple[int, int]:
    """(height, width) of a JPEG, from its header."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format != "JPEG" or image.mode != "RGB":
                raise UserError(f"{bag}: image is {image.format} {image.mode}, expected JPEG RGB")
            return image.height, image.width
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{bag}: image is no JPEG") from error
