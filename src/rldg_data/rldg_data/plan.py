"""What an export will write: made by `rldg_data.recipe` from metadata alone, carried out by any engine and format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Relabel:
    """Replace the executed actions of humans by what a policy would do.

    backend: name of the entry point; path: its checkpoint; task: task file or name, as `rldg_core.task` loads it;
    sources: the action sources to replace.
    """

    backend: str
    path: Path
    task: str
    sources: tuple[str, ...] = ("human",)
    seed: int = 0


@dataclass(frozen=True)
class ImageFormat:
    """size_px None: the recorded JPEG bytes are passed through; else decoded, resized to a square and encoded."""

    size_px: int | None = None
    jpeg_quality: int = 95


@dataclass(frozen=True)
class EpisodePlan:
    """One episode to build; holds all that a worker needs, on any machine that sees the bags.

    bags: more than one are stitched in this order; cameras: (key in the dataset, camera of the Observation), the
    first one has the key "image"; ("image", "") is the first camera of the bag; instruction: replaces the recorded
    one unless empty; num_bytes: of its files, to fill shards evenly.
    """

    split: str
    bags: tuple[Path, ...]
    instruction: str = ""
    cameras: tuple[tuple[str, str], ...] = (("image", ""),)
    images: ImageFormat = field(default_factory=ImageFormat)
    relabel: Relabel | None = None
    num_bytes: int = 0

    @property
    def name(self) -> str:
        """For messages: the bags, joined by +."""
        return " + ".join(map(str, self.bags))


@dataclass(frozen=True)
class Plan:
    """name, version: of the dataset; episodes in the order of writing, splits one after the other.

    left_out: reason -> number of bags that the recipe's filters left out; bad: (bag, reason) of unreadable ones that
    `--skip-bad` passed over; tasks: names; recipe: canonical text of the recipe.
    """

    name: str
    version: str
    episodes: tuple[EpisodePlan, ...]
    description: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    bad: tuple[tuple[Path, str], ...] = ()
    recipe: str = ""

    def sha256(self) -> str:
        """Hash of everything that decides the bytes of the dataset, content of the bags aside."""
        parts = [self.name, self.version, self.description, self.recipe, [asdict(e) for e in self.episodes]]
        return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()
