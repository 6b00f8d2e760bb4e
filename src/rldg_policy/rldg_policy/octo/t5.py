"""The T5 encoder, with the parameter names of transformers' former FlaxT5EncoderModel.

Nested names (encoder/block/3/layer/0/SelfAttention/q) need one small module per level. There is no dropout, because the
encoder is frozen and upstream never runs it in training mode. Source: Raffel et al. 2020; transformers 4.40.
"""

# Modules of flax are untyped for mypy.
# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False, warn-return-any=False

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from rldg_policy.octo.config import T5Config


class T5Encoder(nn.Module):
    """Encodes token ids (B, L) with their mask (B, L) to embeddings (B, L, d_model) float32."""

    config: T5Config

    @nn.compact
    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        x = nn.Embed(self.config.vocab_size, self.config.d_model, name="shared")(input_ids)
        return _Stack(self.config, name="encoder")(x, attention_mask)


class _Stack(nn.Module):
    config: T5Config

    @nn.compact
    def __call__(self, x: jax.Array, attention_mask: jax.Array) -> jax.Array:
        x = _Blocks(self.config, name="block")(x, attention_mask)
        return _RootMeanSquareNorm(self.config.layer_norm_epsilon, name="final_layer_norm")(x)


class _Blocks(nn.Module):
    config: T5Config

    @nn.compact
    def __call__(self, x: jax.Array, attention_mask: jax.Array) -> jax.Array:
        bias = jnp.where(attention_mask[:, None, None, :] > 0, 0.0, np.finfo(np.float32).min)
        for number in range(self.config.num_layers):
            x, bias = _Block(self.config, has_position_bias=number == 0, name=str(number))(x, bias)
        return x


class _Block(nn.Module):
    config: T5Config
    has_position_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _Layers(self.config, self.has_position_bias, name="layer")(x, bias)


class _Layers(nn.Module):
    config: T5Config
    has_position_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, bias = _AttentionLayer(self.config, self.has_position_bias, name="0")(x, bias)
        return _FeedForwardLayer(self.config, name="1")(x), bias


class _AttentionLayer(nn.Module):
    config: T5Config
    has_position_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        normed = _RootMeanSquareNorm(self.config.layer_norm_epsilon, name="layer_norm")(x)
        y, bias = _SelfAttention(self.config, self.has_position_bias, name="SelfAttention")(normed, bias)
        return x + y, bias


class _SelfAttention(nn.Module):
    """Attention without scaling. The first layer adds its position bias to `bias`; the other layers reuse the sum."""

    config: T5Config
    has_position_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        config = self.config
        batch, length, _ = x.shape
        heads = (batch, length, config.num_heads, config.d_kv)
        inner = config.num_heads * config.d_kv
        query, key, value = (nn.Dense(inner, use_bias=False, name=name)(x).reshape(heads) for name in "qkv")
        if self.has_position_bias:
            buckets = position_buckets(
                length, config.relative_attention_num_buckets, config.relative_attention_max_distance
            )
            table = nn.Embed(config.relative_attention_num_buckets, config.num_heads, name="relative_attention_bias")
            bias = bias + table(jnp.asarray(buckets)).transpose(2, 0, 1)[None]
        weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) + bias)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(batch, length, inner)
        return nn.Dense(config.d_model, use_bias=False, name="o")(y), bias


class _FeedForwardLayer(nn.Module):
    config: T5Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        normed = _RootMeanSquareNorm(self.config.layer_norm_epsilon, name="layer_norm")(x)
        return x + _FeedForward(self.config, name="DenseReluDense")(normed)


class _FeedForward(nn.Module):
    config: T5Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(self.config.d_ff, use_bias=False, name="wi")(x))
        return nn.Dense(self.config.d_model, use_bias=False, name="wo")(x)


class _RootMeanSquareNorm(nn.Module):
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],))
        return weight * (x / jnp.sqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon))


def position_buckets(length: int, buckets: int, max_distance: int) -> NDArray[np.int32]:
    """Return the bucket of the distance (query, key): half for each direction, exact when near, then logarithmic."""
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    size = np.abs(distance)
    scaled = np.log(np.maximum(size, 1).astype(np.float32) / exact) / math.log(max_distance / exact)
    far = np.minimum(exact + (scaled * (half - exact)).astype(np.int32), half - 1)
    return ((distance > 0) * half + np.where(size < exact, size, far)).astype(np.int32)
