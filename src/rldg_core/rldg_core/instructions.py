"""Validity of instructions, checked on every input: task files, mappings, recipes, datasets, requests.

Generalists refuse or skip invalid ones, so they are refused before anything is recorded or built with them.
"""

from __future__ import annotations

from rldg_core.errors import UserError, quoted

MAX_INSTRUCTION = 500
"""Characters. The instructions of the public robot datasets have fewer than 200."""


def fault(instruction: str) -> str:
    """Return why an instruction is invalid: empty, longer than MAX_INSTRUCTION, control characters; "" if valid."""
    if not instruction.strip():
        return "must not be empty"
    if len(instruction) > MAX_INSTRUCTION:
        return f"{len(instruction)} characters, expected at most {MAX_INSTRUCTION}"
    if not instruction.isprintable():
        return f"{quoted(instruction)}: holds a control character or a line break"
    return ""


def check_instruction(instruction: str) -> None:
    """Raise UserError `instruction: reason` on an invalid one."""
    if reason := fault(instruction):
        raise UserError(f"instruction: {reason}")
