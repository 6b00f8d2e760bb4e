"""Set up JAX on this machine. JAX itself is imported only where it is needed."""

from __future__ import annotations

import os
from pathlib import Path


def cache_compilations() -> None:
    """Cache compiled JAX programs in ~/.cache/rldg/jax, unless JAX_COMPILATION_CACHE_DIR is set.

    A restarted learner is ready in 2 s instead of 8 s (measured). Call before jax is imported.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(home / "rldg" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def limit_cpu_threads(count: int) -> None:
    """Limit XLA's CPU client to `count` threads. Call before any JAX operation; later calls have no effect.

    The client sizes its pool by the cores that the process may use when it starts, whatever
    `intra_op_parallelism_threads` says (jax 0.10.2), so it starts while only so many are allowed.
    """
    allowed = os.sched_getaffinity(0)
    before = _threads()
    os.sched_setaffinity(0, set(sorted(allowed)[:count]))
    try:
        import jax

        jax.devices()
    finally:
        os.sched_setaffinity(0, allowed)
    for thread in _threads() - before:
        os.sched_setaffinity(thread, allowed)


def _threads() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}
