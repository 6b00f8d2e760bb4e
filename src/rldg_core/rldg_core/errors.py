"""The one exception that stands for a user's mistake, and the one line that it is told in."""

from __future__ import annotations

MAX_LINE = 1000
"""Characters of a message: enough for two paths and a list of names, too few to flood a log."""

_TAIL = 200
"""Characters kept of the end of a longer text: that is where a message says what to do."""


def one_line(text: object, limit: int = MAX_LINE) -> str:
    """Return `text` as one printable line of at most `limit` characters; what is left out is counted in the middle."""
    line = str(text)
    if len(line) > limit:
        tail = min(_TAIL, limit // 4)
        head = limit - tail - 40  # for the words between them
        line = f"{line[:head]} ... ({len(line) - head - tail} characters left out) ... {line[-tail:]}"
    if line.isprintable():
        return line
    line = "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in line.strip())
    return line if len(line) <= limit else line[: limit - 4] + " ..."


class UserError(Exception):
    """Bad input. The message is one clear line that names the file, topic or field.

    Command lines print it and exit with code 2; services return it as their message; nodes print it
    and exit. It never reaches a user as a traceback. Whatever goes into the message, it is one printable
    line of at most MAX_LINE characters.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))


class StalledError(UserError):
    """A lock-step run that stands still: a message was lost. Running it again gives the same result."""
