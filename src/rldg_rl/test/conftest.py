"""JAX keeps what it compiles between runs and between the processes of one run."""

from rldg_core.jax_runtime import cache_compilations

cache_compilations()
