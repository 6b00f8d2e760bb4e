"""Pairs messages of two streams by their stamps, in order and once, whichever of the two arrives first."""

from __future__ import annotations

from typing import Generic, TypeVar

First = TypeVar("First")
Second = TypeVar("Second")

KEPT = 50
"""Messages without a partner that are kept of each stream; the partner may never arrive."""


class StampPairs(Generic[First, Second]):
    """Messages of two streams by stamp [ns]; `due` returns the pairs of the running episode, each once."""

    def __init__(self) -> None:
        self._first: dict[int, First] = {}
        self._second: dict[int, Second] = {}
        self._from_ns: int | None = None

    def start(self, first_stamp_ns: int) -> None:
        """Return pairs from this stamp on; what arrived before and is older is dropped."""
        self._from_ns = first_stamp_ns
        self._forget_before(first_stamp_ns)

    def stop(self) -> None:
        """Return no pairs until the next start."""
        self._from_ns = None

    def add_first(self, stamp_ns: int, message: First) -> None:
        """Keep a message of the first stream."""
        self._first[stamp_ns] = message
        self._bound()

    def add_second(self, stamp_ns: int, message: Second) -> None:
        """Keep a message of the second stream."""
        self._second[stamp_ns] = message
        self._bound()

    def due(self) -> list[tuple[int, First, Second]]:
        """Return the pairs that are complete, oldest first; they and everything older are forgotten."""
        if self._from_ns is None:
            return []
        stamps = sorted(s for s in self._first.keys() & self._second.keys() if s >= self._from_ns)
        pairs = [(s, self._first[s], self._second[s]) for s in stamps]
        if stamps:
            self._from_ns = stamps[-1] + 1
            self._forget_before(self._from_ns)
        return pairs

    def _forget_before(self, stamp_ns: int) -> None:
        self._first = {s: m for s, m in self._first.items() if s >= stamp_ns}
        self._second = {s: m for s, m in self._second.items() if s >= stamp_ns}

    def _bound(self) -> None:
        for kept in (self._first, self._second):
            while len(kept) > KEPT:
                del kept[min(kept)]
