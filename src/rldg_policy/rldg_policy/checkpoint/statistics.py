"""Action statistics of a checkpoint: selection, normalisation and denormalisation.

Physical actions are (..., 7): tcp delta in the tcp frame [m, rad] and gripper, 0 closed .. 1 open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rldg_core.errors import UserError
from rldg_core.files import read_bytes, read_json, sha256_hex
from rldg_core.task import Task
from rldg_data.rlds import ACTION_DIM
from rldg_data.rlds.statistics import read_columns
from rldg_policy.checkpoint.manifest import MANIFEST_FILE, Manifest

Float32 = NDArray[np.float32]

STATISTICS_FILE = "dataset_statistics.json"
UNNAMED_KEY = "default"
"""Key of the single entry of a file without dataset names, as Octo's fine-tuning writes it."""
SCALE_TOLERANCE = 1.05
_EPSILON = 1e-8
_NAMES: Mapping[str, tuple[str, ...]] = {
    "mean": ("mean",),
    "std": ("std",),
    "min": ("min",),
    "max": ("max",),
    "q01": ("q01", "p01"),
    "q99": ("q99", "p99"),
}
"""Member -> its names in the file; p01 and p99 are Octo's."""


@dataclass(frozen=True)
class ActionStatistics:
    """Each statistic is (7,) float32, or None if it is not in the file; mask (7,): which components are normalised;
    where: file and key, for messages."""

    mean: Float32 | None
    std: Float32 | None
    min: Float32 | None
    max: Float32 | None
    q01: Float32 | None
    q99: Float32 | None
    mask: NDArray[np.bool_]
    where: str

    @classmethod
    def read(cls, mapping: Mapping[str, Any], where: str) -> ActionStatistics:
        """Parse `{"q01": [...], "q99": [...], "mask": [...], ...}`. Raises UserError `where: reason`.

        Without a mask all components are normalised, as upstream.
        """
        columns = read_columns(mapping, ACTION_DIM, where)
        found = {
            member: columns[name].astype(np.float32)
            for member, names in _NAMES.items()
            for name in names
            if name in columns
        }
        if not found:
            raise UserError(f"{where}: no action statistics, expected some of {', '.join(_NAMES)}")
        members = {member: found.get(member) for member in _NAMES}
        statistics = cls(**members, mask=columns["mask"].astype(np.bool_), where=where)
        statistics._check()
        return statistics

    def _check(self) -> None:
        """Raise UserError when a normalised component has equal bounds or no deviation.

        A component that is constant in the data (min = max) is allowed: it is normalised to 0.
        """
        constant = np.zeros(ACTION_DIM, dtype=np.bool_)
        if self.min is not None and self.max is not None:
            constant = self.min == self.max
        varied = self.mask & ~constant
        if self.q01 is not None and self.q99 is not None:
            self._refuse("q01", self.q01, "equal to q99", self.q99, varied & (self.q01 == self.q99))
        if self.std is not None:
            self._refuse("std", self.std, "not above", np.zeros_like(self.std), varied & (self.std <= 0))

    def _refuse(self, name: str, values: Float32, verdict: str, other: Float32, wrong: NDArray[np.bool_]) -> None:
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"{self.where}: {name}[{index}] is {values[index]:g}, {verdict} {other[index]:g}: "
                "the statistics are invalid; compute them again from the data (mask[i] false: i is not normalised)"
            )

    def bounds_normalise(self, action: ArrayLike) -> Float32:
        """Scale physical actions (..., 7) so that q01..q99 maps to [-1, 1], clipped; constant components become 0.

        Components with mask false are unchanged. Source: OpenVLA, bounds_q99 of
        prismatic/vla/datasets/rlds/utils/data_utils.py, in float32 as there.
        """
        low, high = self.need("q01"), self.need("q99")
        values = np.asarray(action, dtype=np.float32)
        scaled = np.clip(2 * (values - low) / (high - low + _EPSILON) - 1, -1, 1)
        constant = self.need("min") == self.need("max")
        return np.where(constant, 0, np.where(self.mask, scaled, values)).astype(np.float32)

    def bounds_denormalise(self, x: ArrayLike) -> Float32:
        """Return the physical actions of (..., 7) in [-1, 1] (OpenVLA, predict_action of modeling_prismatic.py)."""
        low, high = (self.need(name).astype(np.float64) for name in ("q01", "q99"))
        values = np.asarray(x, dtype=np.float64)
        return np.where(self.mask, 0.5 * (values + 1) * (high - low) + low, values).astype(np.float32)

    def gaussian_normalise(self, action: ArrayLike) -> Float32:
        """Scale physical actions (..., 7) to mean 0 and standard deviation 1 (Octo, data_utils.py).

        Components with mask false are unchanged.
        """
        values = np.asarray(action, dtype=np.float32)
        scaled = (values - self.need("mean")) / (self.need("std") + _EPSILON)
        return np.where(self.mask, scaled, values).astype(np.float32)

    def gaussian_denormalise(self, x: ArrayLike) -> Float32:
        """Invert `gaussian_normalise`, without its epsilon (Octo, OctoModel.sample_actions)."""
        values = np.asarray(x, dtype=np.float32)
        return np.where(self.mask, values * self.need("std") + self.need("mean"), values).astype(np.float32)

    def need(self, name: str) -> Float32:
        """Return a statistic by its name. Raises UserError when it is not in the file."""
        value: Float32 | None = getattr(self, name)
        if value is None:
            raise UserError(f"{self.where}: no {' or '.join(_NAMES[name])} among the action statistics")
        return value


def entries_of(statistics: Any, where: str) -> dict[str, Mapping[str, Any]]:
    """Return dataset key -> entry of a dataset_statistics.json; a file without names has the key UNNAMED_KEY.

    Raises UserError `where: reason`.
    """
    if isinstance(statistics, dict) and isinstance(statistics.get("action"), dict):
        inside = statistics["action"]
        if "action" not in inside:
            return {UNNAMED_KEY: statistics}
    if not isinstance(statistics, dict) or not all(isinstance(entry, dict) for entry in statistics.values()):
        raise UserError(f"{where}: expected a JSON object of datasets")
    if not statistics:
        raise UserError(f"{where}: holds no dataset")
    return dict(statistics)


def read_entries(folder: Path) -> tuple[Path, dict[str, Mapping[str, Any]]]:
    """Return (file, dataset key -> entry) of a checkpoint.

    The file is dataset_statistics.json, else an OpenVLA config.json with `norm_stats`. Raises UserError when there is
    neither.
    """
    path = folder / STATISTICS_FILE
    if path.is_file():
        return path, entries_of(read_json(path), str(path))
    config = folder / "config.json"
    inside = read_json(config) if config.is_file() else None
    if isinstance(inside, dict) and "norm_stats" in inside:
        return config, entries_of(inside["norm_stats"], f"{config}: norm_stats")
    raise UserError(
        f"{path}: missing: the checkpoint's actions cannot be denormalised without the statistics of its dataset"
    )


def choose_statistics(folder: Path, manifest: Manifest | None) -> tuple[str, ActionStatistics]:
    """Return (key, action statistics) of a checkpoint.

    Raises UserError when the file or the key is missing, when there are several keys and no manifest names one, or when
    the checksum of the file is not the one in the manifest.
    """
    if manifest is None:
        path, entries = read_entries(folder)
        if len(entries) > 1:
            raise UserError(
                f"{path}: statistics of {len(entries)} datasets ({_listed(entries)}): say which with "
                f"`rldg checkpoint adopt {folder} --statistics-key KEY`"
            )
        key = next(iter(entries))
    else:
        path, key = folder / STATISTICS_FILE, manifest.statistics_key
        entries = entries_of(read_json(path), str(path))
        if sha256_hex(read_bytes(path)) != manifest.statistics_sha256:
            raise UserError(
                f"{path}: not the file that {MANIFEST_FILE} was written with (its sha256 differs): "
                "the statistics belong to another checkpoint"
            )
        if set(entries) == {UNNAMED_KEY}:
            entries = {key: entries[UNNAMED_KEY]}
    return key, action_statistics(entries, key, path)


def action_statistics(entries: Mapping[str, Mapping[str, Any]], key: str, path: Path) -> ActionStatistics:
    """Return the action statistics of one key. Raises UserError `path: reason`."""
    if key not in entries:
        raise UserError(f"{path}: no statistics for {key!r}, it has {_listed(entries)}")
    action = entries[key].get("action")
    if not isinstance(action, dict):
        raise UserError(f"{path}: {key}: no action statistics")
    return ActionStatistics.read(action, f"{path}: {key}")


def _listed(entries: Mapping[str, Any]) -> str:
    names = sorted(entries)
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def check_scale(where: object, statistics: ActionStatistics, task: Task) -> None:
    """Raise UserError when the actions in the training data exceed the action scale of the task.

    A smaller scale would shorten every motion without notice.
    """
    low, high = (statistics.need(name) for name in ("q01", "q99"))
    largest = np.maximum(np.abs(low), np.abs(high))[:6]
    for values, scale, unit in ((largest[:3], task.action.scale_m, "m"), (largest[3:], task.action.scale_rad, "rad")):
        if float(values.max()) > SCALE_TOLERANCE * scale:
            raise UserError(
                f"{where}: made for actions up to {float(values.max()):.4f} {unit} per step, "
                f"task {task.name} allows {scale:g} {unit}"
            )


def to_unit_actions(physical: ArrayLike, task: Task, action_dim: int) -> Float32:
    """Scale physical actions (H, 7) to (H, action_dim) in [-1, 1] of the task's scale; gripper 0..1 -> -1..1.

    Raises ValueError on a value that is not finite: clipping would turn an infinite value into the largest motion.
    """
    values = np.asarray(physical, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("the policy's action holds a value that is not finite")
    scale = np.array([task.action.scale_m] * 3 + [task.action.scale_rad] * 3)
    actions = np.concatenate([values[:, :6] / scale, 2 * values[:, 6:] - 1], axis=1)
    unit: Float32 = np.clip(actions[:, :action_dim], -1.0, 1.0).astype(np.float32)
    return unit
