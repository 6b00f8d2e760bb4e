"""How JAX uses the robot's PC while a specialist learns."""

from __future__ import annotations

import os

from rldg_core.jax_runtime import cache_compilations, limit_cpu_threads


def use_one_core() -> None:
    """Run JAX on the CPU with one thread; the other core is for the cell. Call before any JAX operation."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    cache_compilations()
    limit_cpu_threads(1)
