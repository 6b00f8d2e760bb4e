"""Fails unless `colcon list` shows every package of src/ with its intended type.

colcon silently downgrades an ament_python package to plain Python when its package.xml is not valid.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def intended_type(package: str) -> str:
    """Type colcon must report for a package name."""
    return "ros.ament_cmake" if package == "rldg_msgs" else "ros.ament_python"


def wrong_types(listing: str, packages: list[str]) -> list[str]:
    """Complaints about `colcon list` output (lines `name<TAB>path<TAB>(type)`); empty when all is well."""
    found = {name: kind.strip("()") for name, _, kind in (line.split("\t") for line in listing.splitlines())}
    return [
        f"{name}: colcon lists {found.get(name, 'nothing')}, expected {intended_type(name)}"
        for name in sorted({*packages, *found})
        if found.get(name) != intended_type(name)
    ]


def main() -> int:
    """Prints `colcon list` and the complaints; 1 when there are any."""
    command = ["colcon", "--log-base", "/dev/null", "list", "--base-paths", "src"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(listing, end="")
    complaints = wrong_types(listing, [path.parent.name for path in Path("src").glob("*/package.xml")])
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
