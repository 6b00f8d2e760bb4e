"""How JAX uses this machine."""

from __future__ import annotations

import os
from pathlib import Path

from rldg_core.compilations import cache_compilations


def use_one_core() -> None:
    """Give XLA's CPU client one thread, so that the other core is free for the cell. Call before any JAX operation.

    The client sizes its pool by the cores that the process may use when it starts, whatever
    `intra_op_parallelism_threads` says (jax 0.10.2), so it starts while only one is allowed.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    cache_compilations()
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    import jax

    jax.devices()
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), allowed)
