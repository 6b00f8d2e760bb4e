"""Bags -> RLDS: selection, conversion to arrays, one atomic write."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from rldg_core.errors import UserError
from rldg_core.files import writing_aside
from rldg_core.seeding import derive_seed
from rldg_core.types import Source
from rldg_data.bags import episode_info, find_bags
from rldg_data.build import build_episode
from rldg_data.episode import IMAGE_KEY, Episode, Float32
from rldg_data.episode_info import EpisodeInfo
from rldg_data.plan import EpisodePlan
from rldg_data.rlds import layout
from rldg_data.rlds.examples import to_features
from rldg_data.statistics import dataset_statistics, rows_of
from rldg_data.tfrecord import encode_example, write_record

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
    rows: list[Float32] = []

    def episodes() -> Iterator[Episode]:
        for done, (bag, _) in enumerate(chosen):
            episode = build_episode(EpisodePlan("train", (bag,)))
            height_width = _image_size(episode.images[IMAGE_KEY][0], bag)
            size.append(height_width)
            if height_width != size[0]:
                raise UserError(f"{bag}: images of {height_width} px, those before are of {size[0]} px (height, width)")
            rows.append(rows_of(episode))
            yield episode
            if progress:
                progress(done + 1, len(chosen))

    with writing_aside(path) as folder:
        folder.mkdir()
        size_bytes = count = 0
        with (folder / layout.shard_name(name, "train", 0, 1)).open("wb") as stream:
            for episode in episodes():
                size_bytes += write_record(stream, *encode_example(to_features(episode)))
                count += 1
        description = f"Episodes recorded by RLDG for ROS 2; tasks: {', '.join(sorted({i.task for _, i in chosen}))}."
        for file_name, value in (
            (
                "dataset_info.json",
                layout.dataset_info(name, version, description, {"train": layout.Split((count,), size_bytes)}),
            ),
            ("features.json", layout.features_json({IMAGE_KEY: size[0]})),
            ("dataset_statistics.json", _statistics(rows)),
        ):
            (folder / file_name).write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    return ExportResult(path, len(chosen), sum(len(r) + 1 for r in rows), len(bags) - len(chosen))


def _statistics(rows: Sequence[Float32]) -> Mapping[str, Any]:
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows"
        file.write_bytes(b"".join(r.tobytes() for r in rows))
        return dataset_statistics([file], len(rows))


def _check(output_dir: Path, name: str, version: str, source: str, overwrite: bool) -> Path:
    """Refuse wrong arguments before anything is read; return the path of the dataset."""
    if not layout.is_valid_name(name):
        raise UserError(f"dataset name {name!r}: expected lower-case letters, digits and _, starting with a letter")
    if not layout.is_valid_version(version):
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
