"""Metadata of the episode in a bag: `custom_data` of metadata.yaml."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

from rldg_core.errors import UserError
from rldg_core.types import ExecutedAction, Source, Step

if TYPE_CHECKING:
    # Only for types: the module of tasks is slow to import.
    from rldg_core.task import ActionConfig


class RecordedTask(Protocol):
    """Properties of a task that a recorder needs; satisfied by `rldg_core.task.Task`."""

    @property
    def name(self) -> str: ...

    @property
    def action(self) -> ActionConfig: ...

    @property
    def rate_hz(self) -> float: ...

    @property
    def views(self) -> Mapping[str, Mapping[str, Any]]: ...

    def config_hash(self) -> str: ...


@dataclass(frozen=True)
class ImportedTask:
    """Task of imported data. views: of the cameras whose view is known; hash: of the source.

    rate_hz: Steps per second of the data, which may differ from a task file.
    """

    name: str
    action: ActionConfig
    rate_hz: float
    views: Mapping[str, Mapping[str, Any]]
    hash: str

    def config_hash(self) -> str:
        """Same length as that of a task file."""
        return self.hash


@dataclass(frozen=True)
class EpisodeInfo:
    """One episode. source: the action source of most transitions; steps: transitions (messages less one).

    The action scale is stored with the data, so that an export needs no task file: executed actions are
    normalised, scale_m / scale_rad turn them into metres and radians. relabelled_by: JSON of the policy that
    replaced actions (`rldg_data.relabelling`), absent from original recordings. views: JSON of camera ->
    `CameraConfig.view`, rate_hz: Steps per second that the task declares; absent from bags of an older recorder.
    """

    task: str
    object: str
    success: bool
    source: str
    policy_id: str
    policy_version: int
    config_hash: str
    episode_id: str
    seed: int
    instruction: str
    steps: int
    wall_time: str
    action_scale_m: float
    action_scale_rad: float
    relabelled_by: str = ""
    views: str = ""
    rate_hz: float = 0.0

    @classmethod
    def of(
        cls, first: Step, actions: Sequence[ExecutedAction], success: bool, task: RecordedTask, wall_time: str
    ) -> EpisodeInfo:
        """Summarise an episode: its first Step, the actions of its transitions, its outcome, its time (ISO 8601)."""
        last = next((a for a in reversed(actions) if a.policy_id), None)
        return cls(
            task=first.task,
            object=first.object,
            success=success,
            source=dominant_source(actions).name.lower(),
            policy_id=last.policy_id if last else "",
            policy_version=last.policy_version if last else 0,
            config_hash=task.config_hash(),
            episode_id=first.episode_id,
            seed=first.seed,
            instruction=first.instruction,
            steps=len(actions),
            wall_time=wall_time,
            action_scale_m=task.action.scale_m,
            action_scale_rad=task.action.scale_rad,
            views=json.dumps(task.views, sort_keys=True) if task.views else "",
            rate_hz=task.rate_hz,
        )

    @classmethod
    def from_custom_data(cls, data: Mapping[str, str], where: str) -> EpisodeInfo:
        """Parse custom_data. Raises UserError `where: custom_data.<key>: reason`."""
        held = [f for f in fields(cls) if f.default is MISSING or f.name in data]
        return cls(**{f.name: _parse(data, f.name, str(f.type), where) for f in held})

    def to_custom_data(self) -> dict[str, str]:
        """custom_data of a bag: strings only."""
        return {f.name: _text(value) for f in fields(self) if (value := getattr(self, f.name)) != f.default}


def dominant_source(actions: Sequence[ExecutedAction]) -> Source:
    """The source of most actions; on a tie the first in the order of Source; NONE without actions."""
    counts = Counter(a.source for a in actions)
    return max(Source, key=lambda s: (counts[s], -s))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not finite")
    return value


_PARSERS: Mapping[str, Callable[[str], Any]] = {"str": str, "int": int, "float": _finite}


def _parse(data: Mapping[str, str], key: str, type_name: str, where: str) -> Any:
    if key not in data:
        raise UserError(f"{where}: custom_data.{key}: missing; not recorded by this suite")
    value = data[key]
    try:
        if type_name == "bool":
            return {"true": True, "false": False}[value.lower()]
        return _PARSERS[type_name](value)
    except (KeyError, ValueError) as error:
        raise UserError(f"{where}: custom_data.{key}: {value!r}, expected {type_name}") from error
