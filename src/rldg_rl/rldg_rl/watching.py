"""A folder in which closed bags appear while the learner runs, and a journal of which were learned from, and when.

A recorder renames a bag to its final name when it is complete, so every folder of that name can be read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rldg_core.errors import UserError
from rldg_core.files import parse_json, read_text
from rldg_core.types import Step
from rldg_data.bags.reading import find_bags


class WatchedFolder:
    """Tells new bags by name, in the order of their numbers."""

    def __init__(self, directory: Path) -> None:
        """Raises UserError when the folder is missing."""
        self._directory = directory
        self._known: set[Path] = set()
        find_bags(directory)

    def new_bags(self) -> list[Path]:
        """Bags that were not there at the last call; none while the folder is away."""
        found = find_bags(self._directory) if self._directory.is_dir() else []
        new = [bag for bag in found if bag not in self._known]
        self._known.update(new)
        return new


@dataclass(frozen=True)
class Journal:
    """`<run>/watched.jsonl`: after which own episode ("": before the first) each watched bag was consumed.

    Written before the bag is consumed, so that a resumed run takes it at the same place.
    """

    run_dir: Path

    @property
    def path(self) -> Path:
        """The file."""
        return self.run_dir / "watched.jsonl"

    def append(self, bag: Path, after_episode_id: str) -> None:
        """Add a line and wait for the disk. Raises UserError when it cannot be written."""
        line = json.dumps({"bag": str(bag.absolute()), "after": after_episode_id}) + "\n"
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self.path}: cannot write: {error.strerror or error}") from error

    def read(self, read_bag: Callable[[Path], list[Step]]) -> list[tuple[str, list[Step]]]:
        """(after, Steps) of every journalled bag. Raises UserError on a damaged line or bag.

        A last line without its end is what a killed process or a full disk left: its bag was not consumed.
        """
        if not self.path.is_file():
            return []
        text = read_text(self.path)
        lines = text[: text.rfind("\n") + 1].splitlines()
        try:
            entries = [
                (str(value["after"]), Path(value["bag"]))
                for value in (parse_json(line, str(self.path)) for line in lines)
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}: line not understood: {error!r}") from error
        if len(text) > text.rfind("\n") + 1:
            os.truncate(self.path, len(text[: text.rfind("\n") + 1].encode()))
        return [(after, read_bag(bag)) for after, bag in entries]
