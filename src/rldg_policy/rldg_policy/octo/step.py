"""Compiled steps of Octo's training, over all local devices: parameters replicated, the batch divided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rldg_core.errors import UserError
from rldg_policy.octo.batch import Batch
from rldg_policy.octo.freezing import Flat, unflatten

Loss = Callable[[Mapping[str, Any], Batch, jax.Array, bool], jax.Array]
"""(nested parameters, batch, key, train) -> mean loss over the batch's valid actions."""


class TrainState(NamedTuple):
    """Everything that a step changes. params: those that learn; step: optimiser steps done."""

    params: Flat
    moments: Any
    step: jax.Array


class Steps:
    """Training and validation step for one model, optimiser and set of devices.

    Raises UserError when the batch does not divide over the devices.
    """

    def __init__(self, loss: Loss, optimiser: optax.GradientTransformation, batch: int, seed: int) -> None:
        devices = jax.local_devices()
        if batch % len(devices):
            raise UserError(f"batch: {batch} does not divide over the {len(devices)} devices of this machine")
        mesh = Mesh(np.array(devices), ("batch",))
        self._divided = NamedSharding(mesh, PartitionSpec("batch"))  # type: ignore[no-untyped-call]
        self._replicated = NamedSharding(mesh, PartitionSpec())  # type: ignore[no-untyped-call]
        self._optimiser = optimiser
        key = jax.random.key(seed)

        def train(state: TrainState, frozen: Flat, batch: Batch) -> tuple[TrainState, jax.Array]:
            def of(params: Flat) -> jax.Array:
                # The key of a step depends on its number alone, so that a resumed run needs no other state.
                return loss(unflatten({**params, **frozen}), batch, jax.random.fold_in(key, state.step), True)

            value, gradients = jax.value_and_grad(of)(state.params)
            # A gradient that is not finite spoils the parameters while this step's loss still looks well.
            value = jnp.where(jnp.isfinite(optax.tree.norm(gradients)), value, jnp.nan)
            updates, moments = optimiser.update(gradients, state.moments, state.params)
            params = optax.apply_updates(state.params, updates)
            return TrainState(params, moments, state.step + 1), value

        def validate(params: Flat, frozen: Flat, batch: Batch, number: int) -> jax.Array:
            return loss(unflatten({**params, **frozen}), batch, jax.random.fold_in(key, number), False)

        replicated, divided = self._replicated, self._divided
        self._train = jax.jit(
            train,
            in_shardings=(replicated, replicated, divided),
            out_shardings=(replicated, replicated),
            donate_argnums=0,
        )
        self._validate = jax.jit(validate, in_shardings=(replicated, replicated, divided, None))

    def start(self, params: Flat) -> TrainState:
        """State before the first step, on the devices."""
        moments = jax.jit(self._optimiser.init)(params)
        state: TrainState = self.replicate(TrainState(params, moments, jnp.zeros((), jnp.int32)))
        return state

    def replicate(self, tree: Any) -> Any:
        """Put arrays on every device."""
        return jax.device_put(tree, self._replicated)

    def train(self, state: TrainState, frozen: Flat, batch: Batch) -> tuple[TrainState, jax.Array]:
        """One optimiser step; `state` is consumed. Returns at once: reading the loss waits for the step."""
        new, loss = self._train(state, frozen, jax.device_put(batch, self._divided))
        return new, loss

    def validate(self, params: Flat, frozen: Flat, batch: Batch, number: int) -> float:
        """Loss of validation batch `number`, always with the same noise."""
        return float(self._validate(params, frozen, jax.device_put(batch, self._divided), number))
