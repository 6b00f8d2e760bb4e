"""Networks: exact densities, numpy inference equal to JAX, shapes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rl_samples import insertion
from scipy import stats

from rldg_core.errors import UserError
from rldg_rl.config import NetworkConfig
from rldg_rl.inference import actor_forward
from rldg_rl.networks import TanhGaussian, actor, actor_init, critics, critics_init
from rldg_rl.weights import actor_shapes, flatten, pack, unpack


@pytest.mark.parametrize("std", [0.01, 0.3, 2.0])
def test_log_probability_equals_scipys_and_std_is_no_covariance(std: float) -> None:
    mean = np.array([[0.3, -1.2], [0.0, 2.0]])
    distribution = TanhGaussian(jnp.asarray(mean), jnp.full((2, 2), std))
    actions, log_prob = distribution.sample_and_log_prob(jax.random.key(1))
    before = np.arctanh(np.asarray(actions, np.float64))
    gaussian = stats.norm.logpdf(before, mean, std)
    expected = (gaussian - np.log1p(-(np.asarray(actions, np.float64) ** 2))).sum(-1)
    np.testing.assert_allclose(log_prob, expected, rtol=2e-3, atol=2e-3)


def test_samples_spread_as_std_says() -> None:
    distribution = TanhGaussian(jnp.zeros((20_000, 1)), jnp.full((20_000, 1), 0.04))
    actions, _ = distribution.sample_and_log_prob(jax.random.key(0))
    assert np.arctanh(np.asarray(actions)).std() == pytest.approx(0.04, rel=0.03)  # as a covariance: 0.2


def test_log_probability_is_finite_where_tanh_saturates() -> None:
    distribution = TanhGaussian(jnp.array([[30.0]]), jnp.array([[1.0]]))
    assert np.isfinite(distribution.sample_and_log_prob(jax.random.key(0))[1]).all()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_numpy_actor_equals_jax(activation: str) -> None:
    config = NetworkConfig(hidden=(32, 24), activation=activation)  # type: ignore[arg-type]
    params = actor_init(jax.random.key(3), 11, 6, config)
    params["out"]["w"] = params["out"]["w"] * 100  # initially near zero by design
    x = np.random.default_rng(0).normal(size=11).astype(np.float32)
    expected = actor(params, x[None], config)
    mean, std = actor_forward(flatten(params), x, config)
    np.testing.assert_allclose(mean, expected.mean[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(std, expected.std[0], rtol=1e-4, atol=1e-5)


def test_critics_are_independent() -> None:
    config = NetworkConfig(hidden=(16,), critics=3)
    params = critics_init(jax.random.key(0), 10, config)
    q = critics(params, jnp.ones((4, 7)), jnp.ones((4, 3)), "tanh")
    assert q.shape == (3, 4)
    assert np.unique(np.asarray(q)[:, 0].round(6)).size == 3


def test_weights_round_trip_and_are_checked() -> None:
    config = NetworkConfig(hidden=(16, 8))
    tensors = flatten(actor_init(jax.random.key(0), 5, insertion().action.dim, config))
    shapes = actor_shapes(config, 5, 6)
    assert {name: array.shape for name, array in tensors.items()} == shapes
    data = pack(tensors)
    assert data == pack(tensors)
    restored = unpack(data, shapes, "here")
    assert all(np.array_equal(tensors[name], restored[name]) for name in shapes)
    with pytest.raises(UserError, match=r"here: layer_0/w is float32\(5, 16\)"):
        unpack(data, actor_shapes(config, 4, 6), "here")
    with pytest.raises(UserError, match="here: tensors differ"):
        unpack(data, actor_shapes(NetworkConfig(hidden=(16,)), 5, 6), "here")
    with pytest.raises(UserError, match="here: not valid safetensors"):
        unpack(b"\x80\x04pickle", shapes, "here")
    tensors["out/b"] = np.full_like(tensors["out/b"], np.nan)
    with pytest.raises(UserError, match="here: out/b holds a value that is not finite"):
        unpack(pack(tensors), shapes, "here")
