"""Points the CMake files of the ROS wheels at this environment.

The wheels export targets that name their build host's Python (`/opt/python/cp311-cp311/include/python3.11`,
`.../lib/python3.11/site-packages`). Both are rewritten to this interpreter's include directory and this
environment's site-packages. Running it again changes nothing.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

BUILD_HOST_INCLUDE = re.compile(r"/opt/python/cp\d+-cp\d+/include/python3\.\d+")
BUILD_HOST_PACKAGES = re.compile(r"/opt/python/cp\d+-cp\d+/lib/python3\.\d+/site-packages")


def repaired(text: str, include: str, site_packages: str) -> str:
    """The text with the build host's two directories replaced."""
    text = BUILD_HOST_INCLUDE.sub(lambda _: include, text)
    return BUILD_HOST_PACKAGES.sub(lambda _: site_packages, text)


def main(venv: Path) -> None:
    """Repairs every `*.cmake` under `venv/share`."""
    include, site_packages = sysconfig.get_path("include"), sysconfig.get_path("purelib")
    changed = 0
    for path in (venv / "share").rglob("*.cmake"):
        before = path.read_text(encoding="utf-8")
        after = repaired(before, include, site_packages)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed += 1
    print(f"setup: {changed} CMake files of the ROS wheels repaired")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
