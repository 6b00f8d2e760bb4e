"""Plug-ins: what distributions register under an entry point group, found by name and imported when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from rldg_core.errors import UserError, cause, quoted


@dataclass(frozen=True)
class Plugins:
    """The plug-ins of one entry point group.

    what: what one of them is, for messages; hidden: names that are found but not listed.
    """

    group: str
    what: str
    hidden: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Return the names of those that are installed, sorted. Imports none of them."""
        return sorted({entry.name for entry in entry_points(group=self.group)}.difference(self.hidden))

    def entry_point(self, name: str) -> EntryPoint:
        """Find a plug-in without importing it.

        Raises UserError naming the installed ones when it is unknown, and naming the distributions when two have one
        name: which of them were taken would depend on the order of sys.path.
        """
        found = entry_points(group=self.group, name=name)
        if not found:
            known = ", ".join(self.names()) or "none installed"
            raise UserError(f"unknown {self.what} {quoted(name)}, expected one of {known}")
        if len(found) > 1:
            owners = " and ".join(sorted(f"{_distribution(entry)} ({entry.value})" for entry in found))
            raise UserError(
                f"{self.what} {quoted(name)}: registered by {owners}, expected one distribution: uninstall the other, "
                f"or rename its entry point in group {self.group}"
            )
        (entry,) = found
        return entry

    def load(self, name: str) -> Any:
        """Import a plug-in. Raises UserError with one line, whatever its module raises, and as `entry_point`."""
        entry = self.entry_point(name)
        try:
            return entry.load()
        except Exception as error:  # a plug-in: importing it may raise anything
            raise UserError(f"{self.describe(entry)} cannot be imported: {cause(error)}") from error

    def describe(self, entry: EntryPoint) -> str:
        """Name and place of a plug-in, for messages."""
        return f"{self.what} {quoted(entry.name)} ({entry.value})"


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unknown distribution"
