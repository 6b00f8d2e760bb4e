"""Training and validation steps of Octo: frozen and trained parameters, optimiser, compiled steps on all local devices.

Parameters are replicated and the batch is sharded over the devices. Source: octo-models/octo,
octo/utils/train_utils.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rldg_core.errors import UserError
from rldg_policy.octo.batch import Batch
from rldg_policy.octo.config import OctoTrainConfig

Flat = dict[str, Any]
"""Dotted parameter path -> array."""


def flatten(params: Mapping[str, Any]) -> Flat:
    """Return {dotted path: array} of nested parameters, sorted by path."""
    flat: Flat = flatten_dict(params, sep=".")
    return dict(sorted(flat.items()))


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Invert `flatten`."""
    nested: dict[str, Any] = unflatten_dict(dict(flat), sep=".")
    return nested


def partition(params: Mapping[str, Any], patterns: Sequence[str]) -> tuple[Flat, Flat]:
    """Split nested parameters into (trainable, frozen) by fnmatch patterns over dotted paths.

    Gradients and moments exist only for trainable parameters, which gives upstream's updates with less memory (the
    gradient norm is that of the trainable parameters there as well). Raises UserError when all parameters are frozen.
    """
    flat = flatten(params)
    frozen = {path: value for path, value in flat.items() if any(fnmatchcase(path, p) for p in patterns)}
    trainable = {path: value for path, value in flat.items() if path not in frozen}
    if not trainable:
        raise UserError(f"frozen: the patterns {', '.join(patterns)} freeze all parameters")
    return trainable, frozen


def count(flat: Mapping[str, Any]) -> int:
    """Return the number of values."""
    return sum(int(value.size) for value in flat.values())


def schedule(config: OctoTrainConfig) -> Callable[[Any], Any]:
    """Return the learning rate schedule: linear warm-up from 0, then cosine decay to 0 at `steps`."""
    rate: Callable[[Any], Any] = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=config.steps,
        end_value=0.0,
    )
    return rate


def optimiser(trainable: Flat, config: OctoTrainConfig) -> optax.GradientTransformation:
    """Return upstream's optimiser: global-norm clipping, AdamW with bfloat16 first moment, weight decay of kernels."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule(config),
            weight_decay=config.weight_decay,
            mu_dtype=jnp.bfloat16,
            mask={path: "kernel" in path for path in trainable},
        ),
    )


Loss = Callable[[Mapping[str, Any], Batch, jax.Array, bool], jax.Array]
"""(nested parameters, batch, key, train) -> mean loss over the batch's valid actions."""


class TrainState(NamedTuple):
    """State of a training. params: trainable parameters; moments: of the optimiser; step: optimiser steps done."""

    params: Flat
    moments: Any
    step: jax.Array


class Steps:
    """Compiled training and validation steps.

    Raises UserError when the batch is not divisible by the number of devices.
    """

    def __init__(self, loss: Loss, optimiser: optax.GradientTransformation, batch: int, seed: int) -> None:
        devices = jax.local_devices()
        if batch % len(devices):
            raise UserError(f"batch: {batch} is not divisible by the {len(devices)} devices of this machine")
        mesh = Mesh(np.array(devices), ("batch",))
        self._sharded = NamedSharding(mesh, PartitionSpec("batch"))  # type: ignore[no-untyped-call]
        self._replicated = NamedSharding(mesh, PartitionSpec())  # type: ignore[no-untyped-call]
        self._optimiser = optimiser
        key = jax.random.key(seed)

        def train(state: TrainState, frozen: Flat, batch: Batch) -> tuple[TrainState, jax.Array]:
            def of(params: Flat) -> jax.Array:
                # The key of a step depends only on its number, so that a resumed run needs no other state.
                return loss(unflatten({**params, **frozen}), batch, jax.random.fold_in(key, state.step), True)

            value, gradients = jax.value_and_grad(of)(state.params)
            # The gradient can be non-finite although the loss of this step is finite.
            value = jnp.where(jnp.isfinite(optax.tree.norm(gradients)), value, jnp.nan)
            updates, moments = optimiser.update(gradients, state.moments, state.params)
            params = optax.apply_updates(state.params, updates)
            return TrainState(params, moments, state.step + 1), value

        def validate(params: Flat, frozen: Flat, batch: Batch, number: int) -> jax.Array:
            return loss(unflatten({**params, **frozen}), batch, jax.random.fold_in(key, number), False)

        replicated, sharded = self._replicated, self._sharded
        self._train = jax.jit(
            train,
            in_shardings=(replicated, replicated, sharded),
            out_shardings=(replicated, replicated),
            donate_argnums=0,
        )
        self._validate = jax.jit(validate, in_shardings=(replicated, replicated, sharded, None))

    def start(self, params: Flat) -> TrainState:
        """Return the state before the first step, on the devices."""
        moments = jax.jit(self._optimiser.init)(params)
        state: TrainState = self.replicate(TrainState(params, moments, jnp.zeros((), jnp.int32)))
        return state

    def replicate(self, tree: Any) -> Any:
        """Put arrays on every device."""
        return jax.device_put(tree, self._replicated)

    def train(self, state: TrainState, frozen: Flat, batch: Batch) -> tuple[TrainState, jax.Array]:
        """Make one optimiser step; `state` is donated. Asynchronous: reading the loss waits for the step."""
        new, loss = self._train(state, frozen, jax.device_put(batch, self._sharded))
        return new, loss

    def validate(self, params: Flat, frozen: Flat, batch: Batch, number: int) -> float:
        """Return the loss of validation batch `number`, always with the same noise."""
        return float(self._validate(params, frozen, jax.device_put(batch, self._sharded), number))
