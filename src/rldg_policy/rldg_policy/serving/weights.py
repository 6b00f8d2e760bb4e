"""Weights from the learner: validation, and which version acts when (docs/explanation/architecture.md, Lock-step 7)."""

from __future__ import annotations

from dataclasses import dataclass

from rldg_core.errors import UserError
from rldg_core.files import sha256_hex


@dataclass(frozen=True)
class Weights:
    """One PolicyWeights message: safetensors `data` with its hexadecimal `sha256`."""

    spec_hash: str
    version: int
    valid_from_step: int
    period_steps: int
    sha256: str
    data: bytes


def valid_from_due(step: int, period_steps: int) -> int:
    """Return `valid_from_step` of the version that must act at global action number `step`.

    Version 0 acts for two periods; then each period has a new version, trained on all transitions except those of the
    previous period.
    """
    return 0 if step < 2 * period_steps else step // period_steps * period_steps


class WeightsQueue:
    """Received versions that may still be due, by `valid_from_step`."""

    def __init__(self) -> None:
        self._by_step: dict[int, Weights] = {}
        self._period_steps = 0

    def put(self, weights: Weights) -> None:
        """Add a version. Raises UserError when its checksum does not match or its period is not positive."""
        if sha256_hex(weights.data) != weights.sha256:
            raise UserError(f"policy_weights: version {weights.version}: sha256 does not match its data: refused")
        if weights.period_steps < 1:
            raise UserError(f"policy_weights: version {weights.version}: period_steps must be at least 1: refused")
        self._period_steps = weights.period_steps
        self._by_step[weights.valid_from_step] = weights

    def due(self, step: int) -> Weights | None:
        """Return the version that must act at `step`, None if it has not arrived. Older ones are dropped."""
        if not self._period_steps:
            return None
        valid_from = valid_from_due(step, self._period_steps)
        self._by_step = {k: w for k, w in self._by_step.items() if k >= valid_from}
        return self._by_step.get(valid_from)

    def newest(self) -> Weights | None:
        """Return the version with the highest number; older ones are dropped (real-time mode)."""
        if not self._by_step:
            return None
        newest = max(self._by_step.values(), key=lambda w: w.version)
        self._by_step = {newest.valid_from_step: newest}
        return newest
