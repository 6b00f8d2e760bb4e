"""Outcome of episodes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Episodes:
    """Outcome of a sequence of episodes, one value per episode. steps: control steps."""

    success: tuple[bool, ...] = field(default=())
    steps: tuple[int, ...] = field(default=())
    episode_ids: tuple[str, ...] = field(default=())

    @property
    def successes(self) -> int:
        """Number of successful episodes."""
        return sum(self.success)

    def cycle_time_s(self, period_s: float) -> float | None:
        """Return the mean duration of the successful episodes; None without one."""
        durations = [n * period_s for n, good in zip(self.steps, self.success, strict=True) if good]
        return sum(durations) / len(durations) if durations else None

    def __add__(self, other: Episodes) -> Episodes:
        return Episodes(self.success + other.success, self.steps + other.steps, self.episode_ids + other.episode_ids)
