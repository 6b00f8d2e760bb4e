"""Ranges and choices of arguments and parameters, with one message for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from rldg_core.errors import UserError, quoted


def check_value(
    what: str,
    value: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> None:
    """Raise UserError when a value, or an element of a list, is not finite, out of range (inclusive) or no choice."""
    for element in value if isinstance(value, list) else [value]:
        if choices and element not in choices:
            raise UserError(f"{what}: expected {either(choices)}, got {quoted(element)}")
        if isinstance(element, float) and not math.isfinite(element):
            raise UserError(f"{what}: expected a finite number, got {element}")
        if (low is not None and element < low) or (high is not None and element > high):
            raise UserError(f"{what}: expected {range_text(low, high)}, got {element}")


def range_text(low: float | None, high: float | None) -> str:
    """Describe an inclusive range, of which at least one end is known."""
    return f"{low} or more" if high is None else f"{high} or less" if low is None else f"{low} to {high}"


def check_name(kind: str, name: str, known: Sequence[str]) -> None:
    """Raise UserError for an unknown name, listing similar names, or all where none is similar."""
    if name not in known:
        near = get_close_matches(name, known, 3) or known
        raise UserError(f"unknown {kind} {quoted(name)}, expected {either(near)}")


def either(choices: Sequence[str]) -> str:
    """Join names as in "a, b or c"."""
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last
