"""Limits of JAX on the computer that also runs the stack."""

from __future__ import annotations

import os

from rldg_core.jax_runtime import cache_compilations, limit_cpu_threads


def use_one_core() -> None:
    """Run JAX on the CPU with one thread, which leaves the other cores to the stack. Call before any JAX operation."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    cache_compilations()
    limit_cpu_threads(1)
