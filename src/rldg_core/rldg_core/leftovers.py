"""Leftovers of killed processes: our scratch folders, and the shared memory of Fast DDS.

A process locks its files for as long as it lives, and the kernel releases the locks of a killed one: a file that can
be locked has no owner.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from rldg_core.files import sha256_hex

PREFIX = "rldg_"
SHARED_MEMORY = Path("/dev/shm")
MAKERS = ("fastdds", "fastrtps")
"""File names of Fast DDS 3 (Kilted) and 2 (Jazzy)."""
MIN_AGE_S = 10.0
"""Younger files are kept: the process that creates one may not have locked it yet."""


class ScratchFolder:
    """A temporary folder that is locked while its process lives.

    stack: `stack_key` of the stack that the process starts; others see by it that the stack starts.
    """

    def __init__(self, stack: str = "") -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{stack}"))
        self._lock = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)  # bounded: our own folder
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def cleanup(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def stack_key(domain: int, namespace: str) -> str:
    """What the folders of those who start this stack are called: the same on one machine, and short."""
    return f"stack_{sha256_hex(f'{domain} {namespace}'.encode())[:16]}_"


def stack_started_s(stack: str, temporary: Path | None = None) -> float | None:
    """Time at which a process that still lives has started this stack [s since the epoch]; None without one.

    Seen are the processes of this user on this machine, whatever the graph of ROS remembers of dead ones.
    """
    folders = (temporary or Path(tempfile.gettempdir())).glob(f"{PREFIX}{stack}*")
    started_s = []
    for folder in folders:
        with suppress(OSError):
            found = folder.stat()
            if found.st_uid == os.getuid() and not _unlocked(folder):
                started_s.append(found.st_mtime)
    return max(started_s, default=None)


def remove_leftovers(temporary: Path | None = None, shared_memory: Path = SHARED_MEMORY) -> list[Path]:
    """Remove scratch folders and shared-memory files of this user whose processes are dead; return what was removed.

    Nothing that a living process has locked is touched. Files that cannot be inspected are kept.
    """
    removed = []
    for folder in (temporary or Path(tempfile.gettempdir())).glob(f"{PREFIX}*"):
        if folder.is_dir() and not folder.is_symlink() and _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    for lock in (path for maker in MAKERS for path in shared_memory.glob(f"{maker}_*_el")):
        # The creator holds _el; other processes that opened the port share _sl.
        name = lock.name.removesuffix("_el")
        others = lock.with_name(f"{name}_sl")
        if _is_abandoned(lock) and (not others.exists() or _is_abandoned(others)):
            for path in (lock, others, lock.with_name(name), lock.with_name(f"sem.{name}_mutex")):
                with suppress(OSError):
                    path.unlink()
                    removed.append(path)
    return removed


def _is_abandoned(path: Path) -> bool:
    """Return whether the file is old enough, owned by this user, and not locked."""
    try:
        found = path.stat()
        if found.st_uid != os.getuid() or time.time() - found.st_mtime < MIN_AGE_S:
            return False
        return _unlocked(path)
    except OSError:  # it is gone
        return False


def _unlocked(path: Path) -> bool:
    """Whether no process holds its lock. Raises OSError when it cannot be opened."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # bounded: for its lock
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
