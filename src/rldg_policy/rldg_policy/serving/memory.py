"""Memory of policies that come and go while ticks are due: a full garbage collection with torch imported holds the
interpreter for 0.5 s, which is five ticks."""

from __future__ import annotations

import ctypes
import gc

from rldg_core.registry import factory

_imported: set[str] = set()


def import_backend(backend: str) -> None:
    """Import a back-end; when that is new, no later collection looks at what was there before any of its policies.

    Raises UserError listing what exists.
    """
    factory(backend)
    if backend not in _imported:
        _imported.add(backend)
        gc.freeze()


def release_memory() -> None:
    """Give freed memory back to the system; glibc keeps what a large model leaves behind in its heaps."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # another C library: it decides by itself
        return
