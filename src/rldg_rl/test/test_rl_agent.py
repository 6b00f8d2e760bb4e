"""The RLPD update: who moves when, targets, size of the state."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rldg_rl import agent
from rldg_rl.config import RLConfig, resolve
from rldg_rl.networks import critics


def configuration(actor_period: int = 2, tau: float = 0.005, critics: int = 2) -> RLConfig:
    """Small networks."""
    return resolve(
        "hil_serl",
        {
            "network": {"hidden": [16, 16], "critics": critics},
            "agent": {"actor_period": actor_period, "tau": tau, "batch_size": 8},
        },
    )


def batch(discount: float = 0.9, seed: int = 0) -> agent.Batch:
    """Random transitions."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return agent.Batch(draw(8, 5), np.tanh(draw(8, 3)), draw(8), np.full(8, discount, np.float32), draw(8, 5))


def same(a: object, b: object) -> bool:
    """Bit for bit."""
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_actor_and_its_momentum_rest_in_a_critic_only_update() -> None:
    config = configuration(actor_period=2)
    state = agent.init(config, 5, 3, 0)
    step = jax.jit(lambda s: agent.update(s, batch(), config)[0])
    moved = []
    for _ in range(6):
        after = step(state)
        assert not same(after.critic, state.critic)
        moved.append(not same(after.actor, state.actor))
        assert same(after.actor_optimiser, state.actor_optimiser) == (not moved[-1])
        assert same(after.temperature, state.temperature) == (not moved[-1])
        state = after
    assert moved == [False, True] * 3


def test_each_group_has_one_optimiser_of_its_own_size() -> None:
    state = agent.init(configuration(), 5, 3, 0)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    for params, optimiser in (
        (state.actor, state.actor_optimiser),
        (state.critic, state.critic_optimiser),
        (state.temperature, state.temperature_optimiser),
    ):
        assert count(optimiser) == 2 * count(params) + 1  # two moments and a counter


def test_critics_learn_the_return_where_the_episode_ended() -> None:
    config = configuration()
    data = batch(discount=0.0)
    state = agent.init(config, 5, 3, 0)
    many = agent.make_update_many(config)
    batches = jax.tree.map(lambda x: np.repeat(x[None], 500, 0), data)
    state, _ = many(state, batches)
    state, metrics = many(state, batches)
    q = critics(state.critic, data.observations, data.actions, config.network.activation)
    np.testing.assert_allclose(q.mean(0), data.returns, atol=0.15)
    assert set(metrics) == set(agent.METRIC_NAMES)


def test_targets_follow_with_tau() -> None:
    config = configuration(tau=0.25)
    state = agent.init(config, 5, 3, 0)
    after, _ = agent.update(state, batch(), config)
    mixed = jax.tree.map(lambda t, c: t + 0.25 * (c - t), state.target_critic, after.critic)
    for a, b in zip(jax.tree.leaves(after.target_critic), jax.tree.leaves(mixed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_scan_equals_single_updates() -> None:
    config = configuration()
    batches = [batch(seed=k) for k in range(4)]
    one = agent.init(config, 5, 3, 7)
    for item in batches:
        one, _ = agent.update(one, item, config)
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    many, _ = agent.make_update_many(config)(agent.init(config, 5, 3, 7), stacked)
    assert int(many.updates) == 4
    for a, b in zip(jax.tree.leaves(one.actor), jax.tree.leaves(many.actor), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_seed_decides_initialisation() -> None:
    config = configuration()
    assert same(agent.init(config, 5, 3, 1), agent.init(config, 5, 3, 1))
    assert not same(agent.init(config, 5, 3, 1).actor, agent.init(config, 5, 3, 2).actor)
    assert float(agent.temperature_of(agent.init(config, 5, 3, 1))) == pytest.approx(0.01, rel=1e-3)
