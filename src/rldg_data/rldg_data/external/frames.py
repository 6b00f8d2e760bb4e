"""Compare the frame names of messages with the frames that a mapping expects."""

from __future__ import annotations

import re
from typing import Any, Literal

from rldg_core.errors import quoted

Frame = Literal["base", "tcp"]

_PREFIX = r"/?(?P<prefix>(?:.*[/_])?)"
_KNOWN = {
    "base": re.compile(rf"{_PREFIX}(?:base|base_link|link_?0)", re.IGNORECASE | re.DOTALL),
    "tcp": re.compile(
        rf"{_PREFIX}(?:tcp|k|ee|eef|ee_link|end_effector|end_effector_frame|stiffness|stiffness_frame|tool|tool0)",
        re.IGNORECASE | re.DOTALL,
    ),
}
_OTHER_BODY = re.compile(
    r"cam(?:era)?|realsense|d4\d\d|gripper|hand|fingers?|robotiq|schunk|onrobot|wsg\d*|sensor|ft|ati|table|bench|"
    r"wrist|tool|tcp|mobile|cart|platform|torso|object|board|marker|tag",
    re.IGNORECASE,
)
"""Words that mark the base or tool of another body than the arm: `robotiq_85_base_link`."""
_TCP_WORDS = frozenset({"hand", "tool", "tcp", "gripper", "wrist"})
"""Words of them that may appear in the name of a tcp: `arm_hand_tcp`."""
_EXAMPLES = {"base": "base, base_link, arm_link0", "tcp": "tcp, arm_hand_tcp, tool0, stiffness_frame"}


def check_frame(found: str, expected: Frame, declared: str = "", key: str = "frame_id") -> None:
    """Check a frame name against the mapping; an empty name is accepted.

    declared: frame name in the mapping (`key`), which replaces the known names. Raises ValueError.
    """
    if declared:
        if found != declared:
            raise ValueError(f"{key} is {quoted(found)}, the mapping says {declared!r}")
        return
    if not found or _is(found, expected):
        return
    other = next((name for name in _KNOWN if _is(found, name)), "")
    advice = f"it is the {other} frame" if other else f"if this is correct, set `{key}: {quoted(found)}` in the mapping"
    raise ValueError(f"{key} is {quoted(found)}, expected the {expected} frame ({_EXAMPLES[expected]}): {advice}")


def _is(found: str, frame: str) -> bool:
    """Return whether it is a known name, and its prefix does not name another body than the arm."""
    if not (match := _KNOWN[frame].fullmatch(found)):
        return False
    words = re.split(r"[/_]", match["prefix"].lower())
    others = {word for word in words if _OTHER_BODY.fullmatch(word)}
    return not (others - _TCP_WORDS if frame == "tcp" else others)


def frame_of(visited: list[Any], name: Literal["frame_id", "child_frame_id"]) -> str:
    """Return the frame named by the innermost of the nested messages; "" when none is."""
    for value in reversed(visited):
        holder = getattr(value, "header", None) if name == "frame_id" else value
        if isinstance(found := getattr(holder, name, None), str):
            return found
    return ""
