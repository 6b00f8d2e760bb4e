"""Plan of an export: made from a recipe and metadata alone, carried out by any engine and format."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

SPLITS = ("train", "val")
"""What OpenVLA and Octo look for; without "val" they hold out the last 5 % of "train"."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", re.ASCII)


def is_valid_name(name: str) -> bool:
    """Return whether this is a valid TFDS dataset name or image key: lower-case letters, digits, _."""
    return len(name) <= 100 and _NAME.fullmatch(name) is not None


def is_valid_version(version: str) -> bool:
    """Return whether this is a valid TFDS version: MAJOR.MINOR.PATCH."""
    return len(version) <= 100 and _VERSION.fullmatch(version) is not None


@dataclass(frozen=True)
class Relabel:
    """Replace executed actions by those of a policy on the same observations (paper, Fig. 9).

    backend: name of the entry point; path: its checkpoint, None for a back-end without one; task: path of a task
    file, `:object` may follow; sources: the action sources to replace; policy_id: name under which the actions appear;
    checkpoint_sha256: of the files at `path`, so that another checkpoint there is another plan.
    """

    backend: str
    path: Path | None
    task: str
    sources: tuple[str, ...] = ("human",)
    policy_id: str = ""
    checkpoint_sha256: str = ""


@dataclass(frozen=True)
class ImageFormat:
    """size_px None: the recorded JPEG bytes are passed through; else those of another size (or PNG) are decoded,
    resized to a square of size_px and encoded with jpeg_quality."""

    size_px: int | None = None
    jpeg_quality: int = 95


@dataclass(frozen=True)
class EpisodePlan:
    """One episode to build, with everything that a worker needs, on any machine with access to the bags.

    bags: more than one are stitched in this order; joints: for each bag but the last the index of the Step that the
    next bag's first Step replaces; cameras: (key in the dataset, camera of the Observation), the first one has the
    key "image"; ("image", "") is the first camera of the bag; instruction: replaces the recorded one unless empty;
    num_bytes: of the files it needs, to fill shards evenly.
    """

    split: str
    bags: tuple[Path, ...]
    instruction: str = ""
    cameras: tuple[tuple[str, str], ...] = (("image", ""),)
    images: ImageFormat = field(default_factory=ImageFormat)
    relabel: Relabel | None = None
    num_bytes: int = 0
    joints: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """For messages: the bags, joined by +."""
        return " + ".join(map(str, self.bags))


@dataclass(frozen=True)
class Plan:
    """name, version: of the dataset; episodes in the order of writing, splits one after the other.

    left_out: key of the recipe -> number of bags (after stitching: of episodes) that it left out; bad: (bag, reason)
    of unreadable ones skipped by `--skip-bad`; recipe: canonical JSON of the recipe without its globs, so that
    moving the runs changes no byte of a dataset.
    """

    name: str
    version: str
    episodes: tuple[EpisodePlan, ...]
    description: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    bad: tuple[tuple[Path, str], ...] = ()
    recipe: str = ""

    def sha256(self) -> str:
        """Hash of everything that determines the bytes of the dataset, except the content of the bags."""
        parts = [self.name, self.version, self.description, self.recipe, [asdict(e) for e in self.episodes]]
        return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()
