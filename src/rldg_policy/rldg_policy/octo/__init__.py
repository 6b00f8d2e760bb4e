"""The back-end `octo`: Octo 1.5 on current jax and flax.linen, with upstream's checkpoints and parameter names."""

from rldg_core.jax_runtime import cache_compilations

cache_compilations()  # before any module of this package imports jax
