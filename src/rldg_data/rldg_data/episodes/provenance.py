"""Provenance: the recordings of an episode, from its metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rldg_core.errors import UserError
from rldg_core.files import parse_json
from rldg_data.plausibility import Limits


def parts(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one mapping per recording, as written by `rldg_data.episodes.build`: bag, blake3, ...

    Raises ValueError when it does not have that form.
    """
    text = metadata.get("provenance", "")
    try:
        found = parse_json(text, "provenance") if text else []
    except UserError as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, list) or not all(isinstance(part, dict) and _is_part(part) for part in found):
        raise ValueError(f"provenance is not a list of recordings: {text[:60]!r}")
    return found


@dataclass(frozen=True)
class ObservationRecord:
    """Properties shared by all episodes of a dataset. rate_hz: Steps per second; cameras: image key -> camera.

    0 and empty: unknown.
    """

    rate_hz: float
    cameras: Mapping[str, str]

    @classmethod
    def of(cls, recordings: Sequence[Mapping[str, Any]]) -> ObservationRecord:
        """Return those of an episode's first recording (`parts`); the others have the same."""
        first = recordings[0] if recordings else {}
        images = first.get("images") or {}
        return cls(float(first.get("rate_hz") or 0.0), {key: str(of.get("camera")) for key, of in images.items()})

    def check(self, other: ObservationRecord, where: str, other_where: str) -> None:
        """Raise UserError when it differs from `other`, found at other_where."""
        tolerance_hz = Limits().max_rate_error * other.rate_hz
        if self.rate_hz and other.rate_hz and abs(self.rate_hz - other.rate_hz) > tolerance_hz:
            raise UserError(
                f"{where}: {self.rate_hz:g} steps per second, {other_where} has {other.rate_hz:g}: a delta per step is "
                "another speed; make a dataset of each rate"
            )
        for key, camera in self.cameras.items():
            if other.cameras.get(key, camera) != camera:
                raise UserError(
                    f"{where}: image {key!r} is from camera {camera!r}, in {other_where} from {other.cameras[key]!r}: "
                    "name the camera in the recipe (cameras)"
                )


def _is_part(part: dict[str, Any]) -> bool:
    images = part.get("images", {})
    described = isinstance(images, dict) and all(isinstance(image, dict) for image in images.values())
    if not described or not isinstance(part.get("rate_hz", 0.0), int | float):
        return False
    return isinstance(part.get("bag"), str) and re.fullmatch("[0-9a-f]{64}", str(part.get("blake3"))) is not None
