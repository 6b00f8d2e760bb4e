"""Enables JAX's compilation cache, shared by runs and by the processes of one run."""

from rldg_core.jax_runtime import cache_compilations

cache_compilations()
