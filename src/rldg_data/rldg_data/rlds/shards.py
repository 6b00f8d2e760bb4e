"""One shard: an independent job that leaves three files, the last of which says that it is complete.

`train-00000.tfrecord`, `train-00000.rows` (`statistics.rows_of` of its episodes, raw float32), `train-00000.json`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import google_crc32c

from rldg_core.errors import UserError
from rldg_core.files import read_json, sha256_hex, write_json
from rldg_data.episodes import provenance
from rldg_data.episodes.episode import Episode
from rldg_data.episodes.images import text
from rldg_data.episodes.jpeg import check as jpeg_size
from rldg_data.episodes.provenance import MadeOf
from rldg_data.recipe.plan import EpisodePlan
from rldg_data.rlds.examples import to_features
from rldg_data.rlds.layout import ImageSizes
from rldg_data.rlds.statistics import rows_of
from rldg_data.rlds.tfrecord import encode_example, masked_crc, read_records, write_record

_FORMAT = 2
"""Rises when the bytes that are written for the same episode change: shards of a killed older version are not used."""
_BUFFER_BYTES = 1 << 20
"""Of a file that is written in parts of ten thousand bytes."""


@dataclass(frozen=True)
class ShardJob:
    """folder: of the unfinished dataset; sizes: what the images must be; made_of: what they
    are all made of; skip_bad: leave out unreadable episodes."""

    folder: Path
    split: str
    index: int
    episodes: tuple[EpisodePlan, ...]
    sizes: ImageSizes
    made_of: MadeOf
    skip_bad: bool = False

    def file(self, ending: str) -> Path:
        """tfrecord, rows or json."""
        return self.folder / f"{self.split}-{self.index:05d}.{ending}"

    def key(self) -> str:
        """Hash of all that decides the bytes: the plan's part, and size and time of every file that is read."""
        read = [path for episode in self.episodes for path in _inputs(episode)]
        stamps = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in read]
        parts = [_FORMAT, [asdict(e) for e in self.episodes], dict(self.sizes), asdict(self.made_of), stamps]
        return sha256_hex(json.dumps(parts, default=str, sort_keys=True).encode())


@dataclass(frozen=True)
class Shard:
    """A complete shard. num_bytes: of its examples; crc: over the CRCs of its records; bad: (bag, reason) left out."""

    key: str
    split: str
    index: int
    episodes: int
    steps: int
    num_bytes: int
    crc: int
    tasks: tuple[str, ...]
    bad: tuple[tuple[str, str], ...]


def shards_of(episodes: Sequence[EpisodePlan], shard_bytes: int) -> list[tuple[EpisodePlan, ...]]:
    """Cut one split into parts of about equal size, in its order, by the plan alone."""
    total = sum(episode.num_bytes for episode in episodes)
    count = -(-total // shard_bytes)
    middles, before = [], 0
    for episode in episodes:
        middles.append(before + episode.num_bytes / 2)
        before += episode.num_bytes
    numbered = zip(middles, episodes, strict=True)
    parts = groupby(numbered, key=lambda pair: int(pair[0] * count / total) if total else 0)
    return [tuple(episode for _, episode in part) for _, part in parts]


def write_shard(job: ShardJob, beat: Callable[[], None]) -> Shard:
    """Build and write the episodes of one shard; `beat` is called after each. Raises UserError naming the bag."""
    # The readers of bags are slow to import; whoever looks at a dataset does not need them.
    from rldg_data.episodes.build import build_episode

    key = job.key()
    steps = num_bytes = count = crc = 0
    tasks: set[str] = set()
    bad: list[tuple[str, str]] = []
    scratch = {ending: job.folder / f".{job.split}-{job.index:05d}.{os.getpid()}.{ending}" for ending in _CONTENT}
    try:
        with scratch["tfrecord"].open("wb", _BUFFER_BYTES) as stream, scratch["rows"].open("wb") as rows:
            for plan in job.episodes:
                try:
                    episode = build_episode(plan)
                    check_episode(episode, job.sizes, job.made_of, plan.name)
                except UserError as error:
                    if not job.skip_bad:
                        raise
                    bad.append((str(plan.bags[0]), str(error)))
                else:
                    payload = encode_example(to_features(episode))
                    record_crc = write_record(stream, *payload)
                    crc = google_crc32c.extend(crc, record_crc.to_bytes(4, "little"))
                    num_bytes += sum(map(len, payload))
                    rows.write(rows_of(episode).tobytes())
                    steps += len(episode)
                    count += 1
                    tasks.add(str(episode.metadata["task"]))
                beat()
        for ending, path in scratch.items():
            path.rename(job.file(ending))
        shard = Shard(
            key,
            job.split,
            job.index,
            count,
            steps,
            num_bytes,
            crc,
            tuple(sorted(tasks)),
            tuple(bad),
        )
        write_json(job.file("json"), asdict(shard))
    except OSError as error:
        raise UserError(f"{job.file('tfrecord')}: cannot write: {error.strerror or error}") from error
    finally:
        for path in scratch.values():
            path.unlink(missing_ok=True)
    return shard


def complete_shard(job: ShardJob) -> Shard | None:
    """What a killed export left of this job, if all of it is there and nothing that it was made from has changed."""
    try:
        data: dict[str, Any] = read_json(job.file("json"))
        bad = tuple((str(bag), str(reason)) for bag, reason in data["bad"])
        shard = Shard(**{**data, "tasks": tuple(data["tasks"]), "bad": bad})
        intact = (
            shard.key == job.key()
            and (job.skip_bad or not shard.bad)
            and job.file("rows").is_file()
            and _crc(job.file("tfrecord")) == shard.crc
        )
    except (UserError, OSError, ValueError, LookupError, TypeError):
        return None
    return shard if intact else None


def check_episode(episode: Episode, sizes: ImageSizes, made_of: MadeOf, name: str) -> None:
    """Refuse what does not fit the other episodes, or has nothing to learn from."""
    if len(episode) < 2:
        raise UserError(f"{name}: an episode without a transition")
    MadeOf.of(provenance.parts(episode.metadata)).check(made_of, name, "the first episode")
    found = {key: jpeg_size(files[0]) for key, files in episode.images.items()}
    for key, size in sizes.items():
        if found.get(key) != size:
            has = text(found[key]) if key in found else "missing"
            raise UserError(
                f"{name}: image {key} is {has}, in the first episode it has {text(size)}: set images.size_px"
            )


_CONTENT = ("tfrecord", "rows")


def _crc(path: Path) -> int:
    """Of a shard as it lies on the disk. Raises UserError when a record is damaged."""
    crc = 0
    for record in read_records(path):
        crc = google_crc32c.extend(crc, masked_crc(record).to_bytes(4, "little"))
    return crc


def _inputs(plan: EpisodePlan) -> list[Path]:
    """Every file that the episode is made from; the plan itself holds a checkpoint's hash."""
    return [path for bag in plan.bags for path in sorted(bag.rglob("*")) if path.is_file()]
