"""What an instruction may be, wherever one enters: task files, mappings, recipes, datasets, requests.

A generalist refuses or skips the others, so they are refused before anything is recorded or built with them.
"""

from __future__ import annotations

from rldg_core.errors import UserError, quoted

MAX_INSTRUCTION = 500
"""Characters. The instructions of the public robot datasets have fewer than 200."""


def fault(instruction: str) -> str:
    """Why a text is no instruction: empty, longer than MAX_INSTRUCTION, with control characters; "" for a good one."""
    if not instruction.strip():
        return "must not be empty"
    if len(instruction) > MAX_INSTRUCTION:
        return f"{len(instruction)} characters, at most {MAX_INSTRUCTION}: say it shorter"
    if not instruction.isprintable():
        return f"{quoted(instruction)}: holds a control character or a line break"
    return ""


def check_instruction(instruction: str) -> None:
    """Raise UserError `instruction: reason` on one that has a fault."""
    if reason := fault(instruction):
        raise UserError(f"instruction: {reason}")
