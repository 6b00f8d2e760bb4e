"""Find where the episodes of an external bag begin and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.from_msg import NS_PER_S
from rldg_data.external.mapping import EpisodeRange
from rldg_data.external.topics import Series

BEGINNING_NS, END_NS = -(2**62), 2**62


@dataclass(frozen=True)
class Cutout:
    """A part [begin, end) of a bag. number: None for a whole bag.

    success, object, instruction: None: from the mapping.
    """

    path: Path
    name: str
    number: int | None = None
    begin_ns: int = BEGINNING_NS
    end_ns: int = END_NS
    success: bool | None = None
    object: str | None = None
    instruction: str | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the mapping defines its begin and end."""
        return self.number is not None

    @property
    def where(self) -> str:
        """Location, for messages."""
        return f"{self.path}: episode {self.number}" if self.is_cut else str(self.path)


def ranges(given: Sequence[EpisodeRange], path: Path, name: str, start_ns: int) -> list[Cutout]:
    """The ranges of a mapping. start_ns: of the bag."""
    return [
        Cutout(
            path,
            f"{name}/{number}",
            number,
            # Stamps are slightly earlier than log times, and the bag's start is a log time.
            start_ns + round(one.from_s * NS_PER_S) if one.from_s else BEGINNING_NS,
            start_ns + round(one.to_s * NS_PER_S),
            one.success,
            one.object,
            one.instruction,
        )
        for number, one in enumerate(given)
    ]


def at_gaps(stamps_ns: Sequence[NDArray[np.int64]], gap_s: float, path: Path, name: str) -> list[Cutout]:
    """Cut where a topic pauses for longer than gap_s."""
    edges = set()
    for stamps in stamps_ns:
        after = np.flatnonzero(np.diff(stamps) > gap_s * NS_PER_S) + 1
        edges |= {int(stamps[index]) for index in after}
    # Topics resume at different times: edges closer than gap_s are one pause.
    begins = [BEGINNING_NS]
    for edge in sorted(edges):
        if edge - begins[-1] > gap_s * NS_PER_S:
            begins.append(edge)
    return _between(begins, path, name)


def at_events(events: Series, path: Path, name: str) -> list[Cutout]:
    """Each event begins an episode; a value of false or 0 ends it. Raises UserError when none begins."""
    found: list[Cutout] = []
    stamps = [*map(int, events.stamps_ns), END_NS]
    for value, begin, end in zip(events.values, stamps, stamps[1:], strict=False):
        if not isinstance(value, bool | int | float | np.generic) or bool(value):
            found.append(Cutout(path, f"{name}/{len(found)}", len(found), begin, end))
    if not found:
        raise UserError(f"{path}: topic {events.topic}: no message begins an episode")
    return found


def _between(begins: Sequence[int], path: Path, name: str) -> list[Cutout]:
    ends = [*begins[1:], END_NS]
    return [
        Cutout(path, f"{name}/{number}", number, begin, end)
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True))
    ]
