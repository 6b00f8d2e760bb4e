"""The one exception that stands for a user's mistake."""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The message is one clear line that names the file, topic or field.

    Command lines print it and exit with code 2; services return it as their message; nodes print it
    and exit. It never reaches a user as a traceback.
    """


class StalledError(UserError):
    """A lock-step run that stands still: a message was lost. Running it again gives the same result."""
