"""The exception for bad input, and the one-line description of any exception."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

DEBUG_VARIABLE = "RLDG_DEBUG"
"""Set to 1 to print the traceback of every exception that ends a process."""

MAX_LINE = 1000
"""Maximum characters of a message: room for two paths and a list of names without flooding a log."""

_TAIL = 200
"""Characters kept from the end of a longer text, where a message says what to do."""

_WORDS = 40
"""Room for the words between the two ends."""


def one_line(text: object, limit: int = MAX_LINE) -> str:
    """Return `text` as one printable line of at most `limit` characters; the middle is left out."""
    line = str(text)
    if len(line) > limit >= _WORDS * 2:
        tail = min(_TAIL, limit // 4)
        head = limit - tail - _WORDS
        line = f"{line[:head]} ... ({len(line) - head - tail} characters left out) ... {line[-tail:]}"
    line = line if len(line) <= limit else f"{line[: limit - 4]} ..."
    if line.isprintable():
        return line
    line = "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in line.strip())
    return line if len(line) <= limit else line[: limit - 4] + " ..."


_QUOTED = 60


def quoted(value: object) -> str:
    """Return a name or value from outside as messages quote it: `repr` of its first 60 characters."""
    if isinstance(value, str):
        return repr(value if len(value) <= _QUOTED else f"{value[: _QUOTED - 3]}...")
    text = repr(value)
    return text if len(text) <= _QUOTED else f"{text[: _QUOTED - 3]}..."


def cause(error: BaseException) -> str:
    """Return type and first line of an exception, of a UserError its message: for a sentence about what failed."""
    if isinstance(error, UserError):
        return str(error)
    text = str(error).splitlines()
    return one_line(f"{type(error).__name__}: {text[0] if text else ''}")


class UserError(Exception):
    """Bad input. The message is one clear line that names the file, topic or field.

    Command lines print it and exit with code 2; services return it as their message; nodes print it
    and exit. It never reaches a user as a traceback. Whatever goes into the message, it is one printable
    line of at most MAX_LINE characters.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))


class StalledError(UserError):
    """A lock-step run has stalled because a message was lost. Running it again gives the same result."""


def describe(error: BaseException) -> tuple[str, int]:
    """Describe the exception that ends a process in one line, and its exit code: 2 for input or system, 1 for a bug."""
    if isinstance(error, UserError):
        return str(error), 2
    said = one_line(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return one_line(": ".join([*names, error.strerror])), 2
    if isinstance(error, MemoryError):
        return "not enough memory", 2
    if isinstance(error, UnicodeError):
        return one_line(f"text that cannot be read or printed as {getattr(error, 'encoding', 'UTF-8')}: {said}"), 2
    if type(error).__module__.startswith("rclpy"):
        # Messages of rcl continue with source locations.
        return one_line(f"ROS: {said.split(', at ')[0]}"), 2
    if isinstance(error, ImportError):
        return one_line(f"cannot import a required package: {said}"), 2
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "rldg_" in frame.filename] or frames
    place = f" ({Path(ours[-1].filename).name}, line {ours[-1].lineno})" if ours else ""
    kind = "" if said == type(error).__name__ else f"{said} "
    reason = f"unexpected {type(error).__name__}: {kind}".strip().rstrip(":")
    return one_line(f"{reason}{place}; {DEBUG_VARIABLE}=1 shows the traceback"), 1


def report(program: str, error: BaseException) -> int:
    """Print the line of `describe` to standard error and return the exit code; called at the top of every process."""
    if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"):
        traceback.print_exception(error)
    line, code = describe(error)
    print(f"{program}: {line}", file=sys.stderr, flush=True)
    return code
