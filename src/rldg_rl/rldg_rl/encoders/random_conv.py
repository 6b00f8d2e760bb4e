"""A frozen convolutional network with random weights from a fixed seed: the baseline of trained encoders."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rldg_core.files import sha256_hex
from rldg_rl.encoders.frozen import FrozenEncoder

FEATURE_DIM = 4 * 4 * 32
_SEED = 0
# (kernel, stride, input channels, output channels)
_LAYERS = ((8, 4, 3, 16), (4, 2, 16, 32), (4, 2, 32, 32))


def random_conv() -> FrozenEncoder:
    """Features (512,) in (-1, 1)."""
    rng = np.random.default_rng(_SEED)
    kernels = [
        (rng.standard_normal((k, k, i, o)) * (2.0 / (k * k * i)) ** 0.5).astype(np.float32) for k, _, i, o in _LAYERS
    ]

    def forward(images: jax.Array) -> jax.Array:
        # Per-image standardisation removes brightness and contrast.
        x = images.astype(jnp.float32)
        x = (x - x.mean((1, 2, 3), keepdims=True)) / (x.std((1, 2, 3), keepdims=True) + 1.0)
        for kernel, (_, stride, _, _) in zip(kernels, _LAYERS, strict=True):
            x = jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x)
        x = x.reshape(-1, 4, 2, 4, 2, 32).mean((2, 4)).reshape(-1, FEATURE_DIM)
        return jnp.tanh((x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True) + 1e-6))

    digest = sha256_hex(b"".join(kernel.tobytes() for kernel in kernels))
    return FrozenEncoder("random_conv", (FEATURE_DIM,), digest, jax.jit(forward))
