"""RLPD (Ball et al. 2023) as HIL-SERL uses it: one pure, jitted update over a TrainState.

Critics: mean squared error to r + discount * min over a random subset of target critics, no entropy in the
backup. Actor: mean Q over the ensemble plus entropy. Temperature: softplus-constrained Lagrange multiplier.
Each parameter group has one Adam of its own, so momentum of one never moves another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rldg_rl.config import RLConfig
from rldg_rl.networks import Params, actor, actor_init, critics, critics_init


class Batch(NamedTuple):
    """Transitions: observations (..., B, O), actions (..., B, A), returns, discounts (..., B).

    returns: sum of (n-step) rewards; discounts: discount^n, 0 where the episode terminated.
    """

    observations: Any
    actions: Any
    returns: Any
    discounts: Any
    next_observations: Any


class TrainState(NamedTuple):
    """Everything an update reads and writes. `updates` also drives the random numbers."""

    actor: Params
    critic: Params
    target_critic: Params
    temperature: Params
    actor_optimiser: Any
    critic_optimiser: Any
    temperature_optimiser: Any
    key: jax.Array
    updates: jax.Array


Metrics = dict[str, jax.Array]
UpdateMany = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
METRIC_NAMES = ("critic_loss", "actor_loss", "temperature", "entropy", "q_mean")


def init(config: RLConfig, observation_dim: int, action_dim: int, seed: int) -> TrainState:
    """Fresh state; depends on config, sizes and seed alone."""
    key = jax.random.key_data(jax.random.key(seed % 2**32))
    actor_key, critic_key = jax.random.split(jax.random.wrap_key_data(key))
    actor_params = actor_init(actor_key, observation_dim, action_dim, config.network)
    critic_params = critics_init(critic_key, observation_dim + action_dim, config.network)
    # softplus(raw) = initial temperature
    temperature = {"raw": jnp.log(jnp.expm1(jnp.float32(config.agent.initial_temperature)))}
    adam = optax.adam(config.agent.learning_rate)
    return TrainState(
        actor_params,
        critic_params,
        jax.tree.map(jnp.copy, critic_params),
        temperature,
        adam.init(actor_params),
        adam.init(critic_params),
        adam.init(temperature),
        key,
        jnp.int32(0),
    )


def update(state: TrainState, batch: Batch, config: RLConfig) -> tuple[TrainState, Metrics]:
    """One update: critics always; actor and temperature in every `actor_period`-th."""
    agent, network = config.agent, config.network
    adam = optax.adam(agent.learning_rate)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.updates)
    next_key, subset_key, actor_key = jax.random.split(key, 3)

    next_actions, _ = actor(state.actor, batch.next_observations, network).sample_and_log_prob(next_key)
    chosen = jax.random.permutation(subset_key, network.critics)[: agent.critic_subset]
    subset = jax.tree.map(lambda leaf: leaf[chosen], state.target_critic)
    next_q = critics(subset, batch.next_observations, next_actions, network.activation).min(0)
    target = batch.returns + batch.discounts * next_q

    def critic_loss(params: Params) -> tuple[jax.Array, jax.Array]:
        q = critics(params, batch.observations, batch.actions, network.activation)
        return ((q - target) ** 2).mean(1).sum(0), q.mean()

    (loss, q_mean), gradient = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
    step, critic_optimiser = adam.update(gradient, state.critic_optimiser, state.critic)
    critic = optax.apply_updates(state.critic, step)
    target_critic = jax.tree.map(lambda t, c: t + agent.tau * (c - t), state.target_critic, critic)
    state = state._replace(critic=critic, target_critic=target_critic, critic_optimiser=critic_optimiser)

    def with_actor(state: TrainState) -> tuple[TrainState, Metrics]:
        return _actor_update(state, batch.observations, actor_key, config)

    def critic_only(state: TrainState) -> tuple[TrainState, Metrics]:
        return state, {"actor_loss": jnp.float32(jnp.nan), "entropy": jnp.float32(jnp.nan)}

    due = (state.updates + 1) % agent.actor_period == 0
    state, metrics = jax.lax.cond(due, with_actor, critic_only, state)
    metrics |= {"critic_loss": loss / network.critics, "q_mean": q_mean, "temperature": temperature_of(state)}
    return state._replace(updates=state.updates + 1), metrics


def temperature_of(state: TrainState) -> jax.Array:
    """Weight of the entropy, > 0."""
    return jax.nn.softplus(state.temperature["raw"])


def _actor_update(
    state: TrainState, observations: jax.Array, key: jax.Array, config: RLConfig
) -> tuple[TrainState, Metrics]:
    network = config.network
    adam = optax.adam(config.agent.learning_rate)
    temperature_adam = optax.adam(config.agent.temperature_learning_rate)
    temperature = temperature_of(state)

    def actor_loss(params: Params) -> tuple[jax.Array, jax.Array]:
        actions, log_prob = actor(params, observations, network).sample_and_log_prob(key)
        q = critics(state.critic, observations, actions, network.activation).mean(0)
        return (temperature * log_prob - q).mean(), -log_prob.mean()

    (loss, entropy), gradient = jax.value_and_grad(actor_loss, has_aux=True)(state.actor)
    step, actor_optimiser = adam.update(gradient, state.actor_optimiser, state.actor)
    target_entropy = config.agent.target_entropy_per_dim * state.actor["out"]["b"].shape[0] / 2

    def temperature_loss(params: Params) -> jax.Array:
        return jnp.asarray(jax.nn.softplus(params["raw"]) * (entropy - target_entropy))

    t_gradient = jax.grad(temperature_loss)(state.temperature)
    t_step, temperature_optimiser = temperature_adam.update(t_gradient, state.temperature_optimiser, state.temperature)
    state = state._replace(
        actor=optax.apply_updates(state.actor, step),
        actor_optimiser=actor_optimiser,
        temperature=optax.apply_updates(state.temperature, t_step),
        temperature_optimiser=temperature_optimiser,
    )
    return state, {"actor_loss": loss, "entropy": entropy}


def make_update_many(config: RLConfig) -> UpdateMany:
    """Jitted (state, batches with a leading axis K) -> (state after K updates, mean metrics).

    The scan keeps K updates in one dispatch; the state is donated, so an update allocates nothing. Compiled
    once per process for the same networks and hyper-parameters.
    """
    compiled: UpdateMany = _compiled(RLConfig(network=config.network, agent=config.agent))
    return compiled


@cache
def _compiled(config: RLConfig) -> Any:
    @partial(jax.jit, donate_argnums=0)
    def scan(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = jax.lax.scan(lambda s, b: update(s, b, config), state, batches)
        return state, jax.tree.map(jnp.nanmean, metrics)

    return scan
