"""Pairs what must be answered with the fact needed for the answer, in order and once, whatever arrives first."""

from __future__ import annotations

from typing import Generic, TypeVar

Question = TypeVar("Question")
Fact = TypeVar("Fact")

KEPT = 50
"""Unpaired facts and questions that are kept; one side may be missing for ever."""


class Answering(Generic[Question, Fact]):
    """Questions and facts by stamp [ns]; `due` yields the pairs of the running episode, each once."""

    def __init__(self) -> None:
        self._questions: dict[int, Question] = {}
        self._facts: dict[int, Fact] = {}
        self._from_ns: int | None = None

    def start(self, first_stamp_ns: int) -> None:
        """Answer from this stamp on; what arrived before and is older is dropped."""
        self._from_ns = first_stamp_ns
        self._forget_before(first_stamp_ns)

    def stop(self) -> None:
        """Answer nothing until the next start."""
        self._from_ns = None

    def add_question(self, stamp_ns: int, question: Question) -> None:
        """Something to answer."""
        self._questions[stamp_ns] = question
        self._bound()

    def add_fact(self, stamp_ns: int, fact: Fact) -> None:
        """What the answer to the question of this stamp needs."""
        self._facts[stamp_ns] = fact
        self._bound()

    def due(self) -> list[tuple[int, Question, Fact]]:
        """Pairs that are complete, oldest first; they and everything older are forgotten."""
        if self._from_ns is None:
            return []
        stamps = sorted(s for s in self._questions.keys() & self._facts.keys() if s >= self._from_ns)
        pairs = [(s, self._questions[s], self._facts[s]) for s in stamps]
        if stamps:
            self._from_ns = stamps[-1] + 1
            self._forget_before(self._from_ns)
        return pairs

    def _forget_before(self, stamp_ns: int) -> None:
        self._questions = {s: q for s, q in self._questions.items() if s >= stamp_ns}
        self._facts = {s: f for s, f in self._facts.items() if s >= stamp_ns}

    def _bound(self) -> None:
        for kept in (self._questions, self._facts):
            while len(kept) > KEPT:
                del kept[min(kept)]
