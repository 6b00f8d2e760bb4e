"""The RLPD update: which parts change when, targets, size of the state."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

from rldg_rl import agent
from rldg_rl.config import RLConfig, resolve
from rldg_rl.inputs import Inputs, InputSpec
from rldg_rl.networks import critics, embed, image_features, mlp

SPECS = {
    "state": InputSpec(5, None, "float16", 1),
    "vector": InputSpec(5, (12,), "float16", 4),
    "map": InputSpec(5, (2, 3, 4), "float16", 4),
}
STATE = SPECS["state"]
SCANNED = 4
"""Updates in one call: the same in two tests, which then share what is compiled."""


TAU = 0.25


@cache
def configuration(actor_period: int = 2) -> RLConfig:
    """Return a configuration of small networks."""
    return resolve(
        "hil_serl",
        {
            "network": {"hidden": [16, 16], "image_bottleneck": 16, "state_bottleneck": 8},
            "agent": {"actor_period": actor_period, "tau": TAU, "batch_size": 8},
        },
    )


@cache
def update(config: RLConfig) -> Callable[..., Any]:
    """Return the update, compiled once for all tests: (state, batch) -> (state, metrics)."""
    return jax.jit(lambda state, batch: agent.update(state, batch, config))


@jax.jit
def values(state: agent.TrainState, batch: agent.Batch) -> tuple[jax.Array, jax.Array | None]:
    """Return Q of every critic (N, B) and the values of the gripper head (B, 3)."""
    head, inputs = state.critic["head"], batch.observations
    embedding = embed(head, image_features(head, inputs), inputs.state, 0.0)
    gripper = mlp(state.gripper, embedding, "tanh") if state.gripper else None
    return critics(state.critic["ensemble"], embedding, batch.actions[:, :6], "tanh"), gripper


def batch(discount: float = 0.9, seed: int = 0, spec: InputSpec = STATE, action_dim: int = 3) -> agent.Batch:
    """Return random transitions."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=(8, *shape)).astype(np.float32)  # noqa: E731

    def inputs() -> Inputs:
        image = None if spec.image_shape is None else draw(*spec.image_shape).astype(np.float16)
        return Inputs(draw(5), image)

    actions = np.tanh(draw(action_dim))
    if action_dim == 7:
        actions[:, 6] = rng.integers(-1, 2, 8)
    discounts = np.full(8, discount, np.float32)
    return agent.Batch(inputs(), actions, draw(), discounts, inputs(), np.zeros(8, np.float32))


def same(a: object, b: object) -> bool:
    """Return whether two trees are equal bit for bit."""
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize(("kind", "action_dim"), [("state", 3), ("map", 7)])
def test_actor_and_its_momentum_are_unchanged_by_a_critic_only_update(kind: str, action_dim: int) -> None:
    config, spec = configuration(actor_period=2), SPECS[kind]
    state = agent.init(config, spec, action_dim, 0)
    data = batch(spec=spec, action_dim=action_dim)
    moved = []
    for _ in range(4):
        after, _ = update(config)(state, data)
        for part in after.critic:
            assert not same(after.critic[part], state.critic[part])
        assert same(after.gripper, state.gripper) == (action_dim == 3)
        moved.append(not same(after.actor, state.actor))
        assert same(after.actor_optimiser, state.actor_optimiser) == (not moved[-1])
        assert same(after.temperature, state.temperature) == (not moved[-1])
        state = after
    assert moved == [False, True] * 2


def test_actor_loss_does_not_change_the_encoder_head() -> None:
    """With zero critics and rewards the critic loss is flat; only the actor could change the head."""
    config, spec = configuration(actor_period=1), SPECS["map"]
    state = agent.init(config, spec, 3, 0)
    nothing = jax.tree.map(np.zeros_like, state.critic["ensemble"])
    state = state._replace(critic={**state.critic, "ensemble": nothing})
    state = state._replace(target_critic=jax.tree.map(np.array, state.critic))
    after, _ = update(config)(state, batch(spec=spec)._replace(returns=np.zeros(8, np.float32)))
    assert same(after.critic["head"], state.critic["head"])
    assert not same(after.actor, state.actor)


def test_gripper_head_trains_the_encoder_head_and_learns_the_values_of_its_commands() -> None:
    config = configuration()
    data = batch(discount=0.0, spec=SPECS["vector"], action_dim=7)
    data = data._replace(returns=np.zeros(8, np.float32), grasp_penalties=np.where(data.actions[:, 6] > 0, -1.0, 0.0))
    state = agent.init(config, SPECS["vector"], 7, 0)
    many = agent.make_update_many(config)
    state, metrics = many(state, jax.tree.map(lambda x: np.repeat(np.asarray(x, np.float32)[None], 1000, 0), data))
    assert set(metrics) == {*agent.METRIC_NAMES, "gripper_loss"}
    assert metrics["gripper_loss"] < 0.2
    q, gripper = values(state, data)
    taken = np.asarray(gripper)[np.arange(8), np.asarray(data.actions[:, 6], int) + 1]
    np.testing.assert_allclose(taken, data.grasp_penalties, atol=0.1)
    assert np.abs(q).max() < 0.5  # only the gripper head has the penalty


def test_pixels_are_shifted_and_train_their_network() -> None:
    config = configuration(actor_period=1)
    spec = InputSpec(5, (128, 128, 3), "uint8", 1)
    state = agent.init(config, spec, 3, 0)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    data = jax.tree.map(lambda x: x[:2], batch())
    data = data._replace(
        observations=data.observations._replace(image=pixels),
        next_observations=data.next_observations._replace(image=pixels),
    )
    after, metrics = update(config)(state, data)
    assert all(np.isfinite(value) for value in metrics.values())
    for name, before in state.critic["head"]["cnn"].items():
        assert not same(before, after.critic["head"]["cnn"][name])


def test_each_group_has_its_own_optimiser_state() -> None:
    state = agent.init(configuration(), SPECS["map"], 7, 0)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    for params, optimiser in (
        (state.actor, state.actor_optimiser),
        (state.critic, state.critic_optimiser),
        (state.gripper, state.gripper_optimiser),
        (state.temperature, state.temperature_optimiser),
    ):
        assert count(optimiser) == 2 * count(params) + 1  # two moments and a counter


def test_critics_learn_the_return_of_terminal_steps() -> None:
    config = configuration()
    data = batch(discount=0.0)
    state = agent.init(config, STATE, 3, 0)
    many = agent.make_update_many(config)
    batches = jax.tree.map(lambda x: np.repeat(x[None], SCANNED, 0), data)
    for _ in range(1000 // SCANNED):
        state, metrics = many(state, batches)
    q, _ = values(state, data)
    np.testing.assert_allclose(q.mean(0), data.returns, atol=0.15)
    assert set(metrics) == set(agent.METRIC_NAMES)


def test_targets_follow_with_tau() -> None:
    config = configuration()
    state = agent.init(config, STATE, 3, 0)
    after, _ = update(config)(state, batch())
    mixed = jax.tree.map(
        lambda t, c: np.asarray(t) + TAU * (np.asarray(c) - np.asarray(t)), state.target_critic, after.critic
    )
    for a, b in zip(jax.tree.leaves(after.target_critic), jax.tree.leaves(mixed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_scan_equals_single_updates() -> None:
    config = configuration()
    batches = [batch(seed=k) for k in range(SCANNED)]
    one = agent.init(config, STATE, 3, 7)
    for item in batches:
        one, _ = update(config)(one, item)
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    many, _ = agent.make_update_many(config)(agent.init(config, STATE, 3, 7), stacked)
    assert int(many.updates) == SCANNED
    for a, b in zip(jax.tree.leaves(one.actor), jax.tree.leaves(many.actor), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_seed_determines_the_initialisation() -> None:
    config = configuration()
    assert same(agent.init(config, STATE, 3, 1), agent.init(config, STATE, 3, 1))
    assert not same(agent.init(config, STATE, 3, 1).actor, agent.init(config, STATE, 3, 2).actor)
    assert float(agent.temperature_of(agent.init(config, STATE, 3, 1))) == pytest.approx(0.01, rel=1e-3)
