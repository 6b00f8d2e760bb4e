"""RLPD (Ball et al. 2023) as HIL-SERL uses it: one pure, jitted update over a TrainState.

Critics: mean squared error to r + discount * min over a random subset of target critics, no entropy in the
backup. Actor: mean Q over the ensemble plus entropy. Temperature: softplus-constrained Lagrange multiplier.
Gripper head: double DQN over {-1 close, 0 keep, 1 open} (HIL-SERL); actor and critics see the arm's actions only.

The losses of critics and gripper head train the encoder head; the actor stops its gradient. All losses of an update
are evaluated at the parameters from before the update (HIL-SERL). Each parameter group has its own Adam optimiser, so
that the momentum of one group never moves another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rldg_rl.config import RLConfig
from rldg_rl.inputs import Inputs, InputSpec
from rldg_rl.networks import (
    Params,
    actor,
    actor_init,
    critics,
    critics_init,
    embed,
    gripper_init,
    head_init,
    image_features,
    mlp,
)
from rldg_rl.weights import ARM_DIM, embedding_dim


class Batch(NamedTuple):
    """Transitions: Inputs (..., B, *), actions (..., B, A), returns, discounts, grasp_penalties (..., B).

    returns: sum of (n-step) rewards; discounts: discount^n, 0 where the episode terminated. grasp_penalties: added
    to the gripper head's reward alone.
    """

    observations: Inputs
    actions: Any
    returns: Any
    discounts: Any
    next_observations: Inputs
    grasp_penalties: Any


class TrainState(NamedTuple):
    """Everything an update reads and writes. `updates` also drives the random numbers.

    critic, target_critic: {"head": encoder head, "ensemble": critics}; gripper: {} for tasks without a gripper.
    """

    actor: Params
    critic: Params
    target_critic: Params
    gripper: Params
    target_gripper: Params
    temperature: Params
    actor_optimiser: Any
    critic_optimiser: Any
    gripper_optimiser: Any
    temperature_optimiser: Any
    key: jax.Array
    updates: jax.Array


Metrics = dict[str, jax.Array]
UpdateMany = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
METRIC_NAMES = ("critic_loss", "actor_loss", "temperature", "entropy", "q_mean")
"""Tasks with a gripper also have gripper_loss."""


def init(config: RLConfig, spec: InputSpec, action_dim: int, seed: int, gripper: bool | None = None) -> TrainState:
    """Return an initial state, a function of config, sizes and seed.

    gripper: whether the last component of an action is a gripper command, which the gripper head chooses; None: as in
    a task, where it is the 7th.
    """
    with_gripper = action_dim > ARM_DIM if gripper is None else gripper
    key = jax.random.key_data(jax.random.key(seed % 2**32))
    state: TrainState = _init(config, spec, action_dim - with_gripper, with_gripper, key)
    return state


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _init(config: RLConfig, spec: InputSpec, arm_dim: int, gripper: bool, key: jax.Array) -> TrainState:
    head_key, actor_key, critic_key, gripper_key = jax.random.split(jax.random.wrap_key_data(key), 4)
    network, width = config.network, embedding_dim(spec, config.network)
    actor_params = actor_init(actor_key, width, arm_dim, network)
    critic_params = {
        "head": head_init(head_key, spec, network),
        "ensemble": critics_init(critic_key, width + arm_dim, network),
    }
    gripper_params = gripper_init(gripper_key, width, network) if gripper else {}
    # softplus(raw) = initial temperature
    temperature = {"raw": jnp.log(jnp.expm1(jnp.float32(config.agent.initial_temperature)))}
    adam = optax.adam(config.agent.learning_rate)
    return TrainState(
        actor_params,
        critic_params,
        jax.tree.map(jnp.copy, critic_params),
        gripper_params,
        jax.tree.map(jnp.copy, gripper_params),
        temperature,
        adam.init(actor_params),
        adam.init(critic_params),
        adam.init(gripper_params),
        adam.init(temperature),
        key,
        jnp.int32(0),
    )


def policy_params(state: TrainState) -> Params:
    """Return the parameters that a policy needs to act: encoder head, actor and gripper head."""
    return {"head": state.critic["head"], "actor": state.actor, "gripper": state.gripper}


def temperature_of(state: TrainState) -> jax.Array:
    """Return the weight of the entropy, > 0."""
    return jax.nn.softplus(state.temperature["raw"])


def update(state: TrainState, batch: Batch, config: RLConfig) -> tuple[TrainState, Metrics]:
    """Update critics and gripper head, and in every `actor_period`-th update also actor and temperature."""
    agent, network = config.agent, config.network
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.updates)
    shift_key, target_key, actor_key = jax.random.split(key, 3)
    batch = _augmented(batch, shift_key)
    target, gripper_target = _targets(state, batch, target_key, config)
    arm_actions = batch.actions[..., :-1] if state.gripper else batch.actions

    # Critics, gripper head and encoder head: one gradient of the sum of their losses.
    def critic_loss(trained: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Metrics]]:
        head = trained["critic"]["head"]
        image = image_features(head, batch.observations)
        embedding = embed(head, image, batch.observations.state, network.image_dropout)
        q = critics(trained["critic"]["ensemble"], embedding, arm_actions, network.activation)
        errors = ((q - target) ** 2).mean(1)
        loss, metrics = errors.sum(), {"critic_loss": errors.mean(), "q_mean": q.mean()}
        if gripper_target is not None:
            error = gripper_loss(trained["gripper"], embedding, batch.actions, gripper_target, network.activation)
            loss, metrics = loss + error, metrics | {"gripper_loss": error}
        return loss, (image, embedding, metrics)

    trained = {"critic": state.critic, "gripper": state.gripper}
    gradient, (image, embedding, metrics) = jax.grad(critic_loss, has_aux=True)(trained)

    # Actor and temperature, against the critics from before the update.
    def with_actor() -> tuple[TrainState, Metrics]:
        return _actor_update(state, image, embedding, batch.observations.state, actor_key, config)

    def critic_only() -> tuple[TrainState, Metrics]:
        return state, {"actor_loss": jnp.float32(jnp.nan), "entropy": jnp.float32(jnp.nan)}

    due = (state.updates + 1) % agent.actor_period == 0
    after, actor_metrics = jax.lax.cond(due, with_actor, critic_only)
    # Adam steps, then the target networks move towards the new parameters.
    adam = optax.adam(agent.learning_rate)
    critic, critic_optimiser = _step(adam, gradient["critic"], state.critic_optimiser, state.critic)
    gripper, gripper_optimiser = _step(adam, gradient["gripper"], state.gripper_optimiser, state.gripper)
    after = after._replace(
        critic=critic,
        target_critic=_soft_update(state.target_critic, critic, agent.tau),
        critic_optimiser=critic_optimiser,
        gripper=gripper,
        target_gripper=_soft_update(state.target_gripper, gripper, agent.tau),
        gripper_optimiser=gripper_optimiser,
        updates=state.updates + 1,
    )
    return after, metrics | actor_metrics | {"temperature": temperature_of(after)}


def _augmented(batch: Batch, key: jax.Array) -> Batch:
    """Shift pixels at random, independently for observation and next observation; features are of stored crops."""
    if batch.observations.image is None or batch.observations.image.dtype != jnp.uint8:
        return batch
    from rldg_rl.encoders.small_cnn import random_shift

    keys = jax.random.split(key)
    pairs = zip((batch.observations, batch.next_observations), keys, strict=True)
    first, second = (inputs._replace(image=random_shift(inputs.image, k)) for inputs, k in pairs)
    return batch._replace(observations=first, next_observations=second)


def _targets(state: TrainState, batch: Batch, key: jax.Array, config: RLConfig) -> tuple[jax.Array, jax.Array | None]:
    """Return the targets of the critics (B,) and of the gripper head (B,), or None without one."""
    agent, network = config.agent, config.network
    dropout_key, action_key, subset_key = jax.random.split(key, 3)
    after = batch.next_observations
    head, target_head = state.critic["head"], state.target_critic["head"]
    image = image_features(head, after)
    for_actor = embed(head, image, after.state, network.image_dropout, dropout_key)
    actions, _ = actor(state.actor, for_actor, network).sample_and_log_prob(action_key)
    embedding = embed(target_head, image_features(target_head, after), after.state, network.image_dropout)
    # RLPD: the minimum over a random subset of the ensemble.
    subset = state.target_critic["ensemble"]
    if agent.critic_subset < network.critics:
        chosen = jax.random.permutation(subset_key, network.critics)[: agent.critic_subset]
        subset = jax.tree.map(lambda leaf: leaf[chosen], subset)
    target = batch.returns + batch.discounts * critics(subset, embedding, actions, network.activation).min(0)
    if not state.gripper:
        return target, None
    values = mlp(state.gripper, embed(head, image, after.state, network.image_dropout), network.activation)
    target_values = mlp(state.target_gripper, embedding, network.activation)
    rewards = batch.returns + batch.grasp_penalties
    return target, double_q_target(values, target_values, rewards, batch.discounts)


def _actor_update(
    state: TrainState,
    image: jax.Array,
    embedding: jax.Array,
    proprioception: jax.Array,
    key: jax.Array,
    config: RLConfig,
) -> tuple[TrainState, Metrics]:
    """Update actor and temperature.

    image, embedding: outputs of `image_features` and `embed` for the observations; proprioception: their state (B, S).
    """
    network = config.network
    dropout_key, action_key = jax.random.split(key)
    temperature = temperature_of(state)
    for_actor = embed(state.critic["head"], image, proprioception, network.image_dropout, dropout_key)

    def actor_loss(params: Params) -> tuple[jax.Array, jax.Array]:
        actions, log_prob = actor(params, for_actor, network).sample_and_log_prob(action_key)
        q = critics(state.critic["ensemble"], embedding, actions, network.activation).mean(0)
        return (temperature * log_prob - q).mean(), -log_prob.mean()

    (loss, entropy), gradient = jax.value_and_grad(actor_loss, has_aux=True)(state.actor)
    target_entropy = config.agent.target_entropy_per_dim * state.actor["out"]["b"].shape[0] / 2

    def temperature_loss(params: Params) -> jax.Array:
        return jnp.asarray(jax.nn.softplus(params["raw"]) * (entropy - target_entropy))

    adam = optax.adam(config.agent.learning_rate)
    actor_params, actor_optimiser = _step(adam, gradient, state.actor_optimiser, state.actor)
    temperature_params, temperature_optimiser = _step(
        optax.adam(config.agent.temperature_learning_rate),
        jax.grad(temperature_loss)(state.temperature),
        state.temperature_optimiser,
        state.temperature,
    )
    state = state._replace(
        actor=actor_params,
        actor_optimiser=actor_optimiser,
        temperature=temperature_params,
        temperature_optimiser=temperature_optimiser,
    )
    return state, {"actor_loss": loss, "entropy": entropy}


def command_index(actions: jax.Array) -> jax.Array:
    """Return the index 0, 1, 2 of the gripper command of actions (B, 7): (B,)."""
    return jnp.clip(jnp.round(actions[..., -1]), -1, 1).astype(jnp.int32) + 1


def double_q_target(values: jax.Array, target_values: jax.Array, rewards: jax.Array, discounts: jax.Array) -> jax.Array:
    """Return reward + discount x target value of the command with the highest current value; values are (B, 3)."""
    best = values.argmax(-1)
    return rewards + discounts * jnp.take_along_axis(target_values, best[:, None], -1)[:, 0]


def gripper_loss(
    params: Params, embedding: jax.Array, actions: jax.Array, target: jax.Array, activation: str
) -> jax.Array:
    """Return the mean squared error of the executed command's value: embedding (B, E), actions (B, 7), target (B,)."""
    values = mlp(params, embedding, activation)
    taken = jnp.take_along_axis(values, command_index(actions)[:, None], -1)[:, 0]
    return ((taken - target) ** 2).mean()


def _step(adam: Any, gradient: Params, optimiser: Any, params: Params) -> tuple[Params, Any]:
    change, optimiser = adam.update(gradient, optimiser, params)
    return optax.apply_updates(params, change), optimiser


def _soft_update(target: Params, params: Params, tau: float) -> Params:
    return jax.tree.map(lambda t, p: t + tau * (p - t), target, params)


def make_update_many(config: RLConfig) -> UpdateMany:
    """Return the jitted function (state, batches with a leading axis K) -> (state after K updates, mean metrics).

    A scan runs K updates in one dispatch. The state is donated, so that its memory is reused. The function is compiled
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
