"""Networks: exact densities, inference in numpy equal to JAX, shapes."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from rl_samples import insertion
from scipy import stats

from rldg_core.errors import UserError
from rldg_rl import agent
from rldg_rl.config import NetworkConfig, RLConfig
from rldg_rl.inference import actor_forward, choose_action
from rldg_rl.inference import embed as numpy_embed
from rldg_rl.inputs import Inputs, InputSpec
from rldg_rl.networks import TanhGaussian, actor, critics, critics_init, embed, image_features, mlp
from rldg_rl.weights import flatten, pack, policy_shapes, unpack

SPECS = {
    "state": InputSpec(5, None, "float16", 1),
    "vector": InputSpec(5, (12,), "float16", 4),
    "map": InputSpec(5, (2, 3, 4), "float16", 4),
    "pixels": InputSpec(5, (128, 128, 3), "uint8", 1),
}


sample_and_log_prob = jax.jit(TanhGaussian.sample_and_log_prob)
compiled_embed = jax.jit(embed, static_argnums=3)


@partial(jax.jit, static_argnums=2)
def act(params: Any, inputs: Inputs, config: NetworkConfig) -> tuple[jax.Array, TanhGaussian, jax.Array, jax.Array]:
    """Return the embedding, the distribution, its mode and the values of the gripper head."""
    embedding = embed(params["head"], image_features(params["head"], inputs), inputs.state, config.image_dropout)
    distribution = actor(params["actor"], embedding, config)
    return embedding, distribution, distribution.mode(), mlp(params["gripper"], embedding, config.activation)


@pytest.mark.parametrize("std", [0.01, 0.3, 2.0])
def test_log_probability_equals_that_of_scipy(std: float) -> None:
    mean = np.array([[0.3, -1.2], [0.0, 2.0]], np.float32)
    distribution = TanhGaussian(mean, np.full((2, 2), std, np.float32))
    actions, log_prob = sample_and_log_prob(distribution, jax.random.key(1))
    before = np.arctanh(np.asarray(actions, np.float64))
    gaussian = stats.norm.logpdf(before, mean, std)
    expected = (gaussian - np.log1p(-(np.asarray(actions, np.float64) ** 2))).sum(-1)
    np.testing.assert_allclose(log_prob, expected, rtol=2e-3, atol=2e-3)


def test_samples_have_the_given_standard_deviation() -> None:
    distribution = TanhGaussian(np.zeros((20_000, 1), np.float32), np.full((20_000, 1), 0.04, np.float32))
    actions, _ = sample_and_log_prob(distribution, jax.random.key(0))
    assert np.arctanh(np.asarray(actions)).std() == pytest.approx(0.04, rel=0.03)  # if it were a covariance: 0.2


def test_log_probability_is_finite_where_tanh_saturates() -> None:
    distribution = TanhGaussian(np.array([[30.0]], np.float32), np.array([[1.0]], np.float32))
    assert np.isfinite(sample_and_log_prob(distribution, jax.random.key(0))[1]).all()


def frame(spec: InputSpec, seed: int = 0) -> Inputs:
    """Return random inputs of one frame."""
    rng = np.random.default_rng(seed)
    image = None
    if spec.pixels:
        image = rng.integers(0, 256, spec.image_shape, dtype=np.uint8)
    elif spec.image_shape:
        image = rng.normal(size=spec.image_shape).astype(np.float16)
    return Inputs(rng.normal(size=spec.state_dim).astype(np.float32), image)


def random_params(spec: InputSpec, config: NetworkConfig, action_dim: int = 7) -> Any:
    """Return `policy_params` of an agent's shapes with random values everywhere, including biases and LayerNorm."""
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(lambda: agent.policy_params(agent.init(RLConfig(network=config), spec, action_dim, 0)))
    return jax.tree.map(
        lambda leaf: (rng.standard_normal(leaf.shape) * max(1, np.prod(leaf.shape[:-1])) ** -0.5).astype(np.float32),
        shapes,
    )


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(hidden=(32, 24), image_bottleneck=24, state_bottleneck=8),
        NetworkConfig(hidden=(16,), activation="relu", image_bottleneck=0, state_bottleneck=0),
    ],
)
def test_numpy_inference_equals_jax(kind: str, config: NetworkConfig) -> None:
    spec = SPECS[kind]
    params = random_params(spec, config)
    tensors = flatten(params)
    assert {name: tensor.shape for name, tensor in tensors.items()} == policy_shapes(config, spec, 7)
    one = frame(spec)
    embedding, expected, mode, gripper = act(params, jax.tree.map(lambda x: np.asarray(x)[None], one), config)
    np.testing.assert_allclose(numpy_embed(tensors, one), embedding[0], rtol=1e-3, atol=1e-4)
    mean, std = actor_forward(tensors, np.asarray(embedding[0]), config)
    np.testing.assert_allclose(mean, expected.mean[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(std, expected.std[0], rtol=1e-3, atol=1e-3)
    action = choose_action(tensors, one, config, None)
    np.testing.assert_allclose(action[:6], mode[0], atol=1e-3)
    assert action[6] == np.asarray(gripper)[0].argmax() - 1


def test_dropout_scales_kept_features_and_is_off_without_a_key() -> None:
    spec = SPECS["map"]
    head = random_params(spec, NetworkConfig())["head"]
    batched = jax.tree.map(lambda x: np.asarray(x)[None], frame(spec))
    seen = jax.jit(image_features)(head, batched)
    still = compiled_embed(head, seen, batched.state, 0.5)
    assert np.array_equal(still, compiled_embed(head, seen, batched.state, 0.5))
    dropped = compiled_embed(head, seen, batched.state, 0.5, jax.random.key(0))
    assert not np.allclose(dropped[:, :256], still[:, :256])
    assert np.array_equal(dropped[:, 256:], still[:, 256:])  # state features have no dropout


def test_network_of_hil_serl_with_a_resnet_map_stays_small() -> None:
    """Spatial embeddings 8, dense 256 and 64: the published weights stay within 6 MB, with a gripper head, too."""
    spec = InputSpec(20, (4, 4, 512), "float16", 4)
    config = RLConfig()
    shapes = policy_shapes(config.network, spec, 7)
    assert shapes["head/spatial"] == (4, 4, 512, 8)
    assert shapes["head/image/w"] == (4096, 256)
    assert shapes["head/state/w"] == (20, 64)
    assert shapes["actor/layer_0/w"] == (320, 256)
    assert len(pack(flatten(random_params(spec, config.network)))) <= 6e6


def test_random_gripper_commands_have_their_probability() -> None:
    spec, config = SPECS["state"], NetworkConfig(hidden=(8,))
    tensors = flatten(random_params(spec, config))
    rng = np.random.default_rng(0)
    chosen = [choose_action(tensors, frame(spec), config, rng, 0.3)[6] for _ in range(2000)]
    usual = choose_action(tensors, frame(spec), config, None)[6]
    assert np.mean(np.array(chosen) != usual) == pytest.approx(0.2, abs=0.03)  # a third of them is the greedy command


def test_critics_are_independent() -> None:
    config = NetworkConfig(hidden=(16,), critics=3)
    params = jax.jit(critics_init, static_argnums=(1, 2))(jax.random.key(0), 10, config)
    ones = np.ones((4, 7), np.float32), np.ones((4, 3), np.float32)
    q = jax.jit(critics, static_argnums=3)(params, *ones, "tanh")
    assert q.shape == (3, 4)
    assert np.unique(np.asarray(q)[:, 0].round(6)).size == 3


def test_weights_survive_a_round_trip_and_are_checked() -> None:
    config, spec = NetworkConfig(hidden=(16, 8), state_bottleneck=0), InputSpec(5, None, "float16", 1)
    tensors = flatten(random_params(spec, config, insertion().action.dim))
    shapes = policy_shapes(config, spec, 6)
    assert {name: array.shape for name, array in tensors.items()} == shapes
    data = pack(tensors)
    assert data == pack(tensors)
    restored = unpack(data, shapes, "here")
    assert all(np.array_equal(tensors[name], restored[name]) for name in shapes)
    with pytest.raises(UserError, match=r"here: actor/layer_0/w is float32\(5, 16\)"):
        unpack(data, policy_shapes(config, InputSpec(4, None, "float16", 1), 6), "here")
    with pytest.raises(UserError, match="here: tensors differ"):
        unpack(data, policy_shapes(NetworkConfig(hidden=(16,), state_bottleneck=0), spec, 6), "here")
    with pytest.raises(UserError, match="here: not valid safetensors"):
        unpack(b"\x80\x04pickle", shapes, "here")
    tensors["actor/out/b"] = np.full_like(tensors["actor/out/b"], np.nan)
    with pytest.raises(UserError, match="here: actor/out/b holds a value that is not finite"):
        unpack(pack(tensors), shapes, "here")
