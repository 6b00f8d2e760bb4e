"""The back-end `octo`: Octo 1.5 on today's jax and flax.linen, with upstream's checkpoints and parameter names."""
