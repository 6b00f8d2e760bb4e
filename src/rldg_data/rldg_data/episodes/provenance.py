"""What an episode's metadata says of the recordings that it was made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rldg_core.errors import UserError
from rldg_core.files import parse_json


def parts(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One mapping per recording, as `rldg_data.episodes.build` writes them: bag, blake3, ...; none without any.

    Raises ValueError when it is not of that form.
    """
    text = metadata.get("provenance", "")
    try:
        found = parse_json(text, "provenance") if text else []
    except UserError as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, list) or not all(isinstance(part, dict) and _is_part(part) for part in found):
        raise ValueError(f"provenance is no list of recordings: {text[:60]!r}")
    return found


def _is_part(part: dict[str, Any]) -> bool:
    return isinstance(part.get("bag"), str) and re.fullmatch("[0-9a-f]{64}", str(part.get("blake3"))) is not None
