"""Octo's fine-tuning: trained parameters, optimiser, steps on one device and on two, the loop and its saved state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import octo_train_samples
import optax
import pytest
from golden_references import OCTO_BASE_PARAMS, tensor_shapes
from octo_train_samples import CONFIG
from pydantic import ValidationError

from rldg_core.errors import UserError
from rldg_policy.octo.config import OctoTrainConfig
from rldg_policy.octo.random import OCTO_BASE
from rldg_policy.octo.steps import Steps, TrainState, count, optimiser, partition, schedule, unflatten
from rldg_policy.octo.train import History, fit
from rldg_policy.octo.training_state import read_state, write_state

pytestmark = pytest.mark.timeout(300)  # XLA compiles for half a minute, longer on a busy machine


# Trained parameters


def test_modes_freeze_the_parameters_of_upstream():
    tree = {
        "octo_transformer": {"a": {"kernel": jnp.ones((3, 2))}, "b": {"hf_model": {"shared": jnp.ones(4)}}},
        "heads_action": {"map_head": {"probe": jnp.ones(2)}, "mean_proj": {"kernel": jnp.ones(5)}},
    }
    learns = {mode: set(partition(tree, OctoTrainConfig(mode=mode).patterns)[0]) for mode in train_modes()}
    head = {"heads_action.map_head.probe", "heads_action.mean_proj.kernel"}
    assert learns["full"] == {"octo_transformer.a.kernel", *head}
    assert learns["head_only"] == head
    assert learns["head_mlp_only"] == {"heads_action.mean_proj.kernel"}
    with pytest.raises(UserError, match="freeze all parameters"):
        partition(tree, OctoTrainConfig(frozen=("*",)).patterns)
    learning, frozen = partition(tree, CONFIG.patterns)
    assert jax.tree.all(jax.tree.map(np.array_equal, unflatten(learning | frozen), tree))


def train_modes():
    return ("full", "head_only", "head_mlp_only")


def test_our_variant_of_octo_base_trains_all_but_t5():
    shapes = tensor_shapes(OCTO_BASE_PARAMS)
    flat = {path.replace("/", "."): np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}
    from rldg_policy.octo.random import upstream_config
    from rldg_policy.octo.train import rldg_variant

    _, params = rldg_variant(upstream_config(OCTO_BASE), unflatten(flat))
    learning, frozen = partition(params, OctoTrainConfig().patterns)
    assert not any("wrist" in path for path in learning)
    assert all(".hf_model." in path for path in frozen)
    assert 85e6 < count(learning) < 93e6 and (not frozen or count(frozen) == 109_628_544)


def test_schedule_warms_up_and_ends_at_zero():
    rate = schedule(OctoTrainConfig())
    at = [float(rate(step)) for step in (0, 1000, 2000, 26_000, 50_000)]
    assert np.allclose(at, [0, 1.5e-4, 3e-4, 1.5e-4, 0], atol=1e-9)
    with pytest.raises(ValidationError, match=r"warmup_steps \(2000\) must be less than steps \(100\)"):
        OctoTrainConfig(steps=100)


def test_only_kernels_decay_and_the_gradient_is_clipped():
    config = OctoTrainConfig(steps=10, warmup_steps=0, learning_rate=0.1, weight_decay=0.5, clip_norm=1.0)
    params = {"a.kernel": jnp.full(3, 2.0), "a.bias": jnp.full(3, 2.0)}
    rule = optimiser(params, config)
    moments = rule.init(params)
    zero = {name: jnp.zeros(3) for name in params}
    updates, _ = rule.update(zero, moments, params)
    assert np.allclose(updates["a.kernel"], -0.1 * 0.5 * 2.0) and not updates["a.bias"].any()
    gradients = {"a.kernel": jnp.full(3, 30.0), "a.bias": jnp.full(3, 40.0)}
    _, after = rule.update(gradients, moments, params)
    mu = after[1][0].mu
    assert mu["a.bias"].dtype == jnp.bfloat16
    assert np.isclose(float(optax.tree.norm(after[1][0].nu)) ** 0.5, (0.001 * 0.6**2) ** 0.5, rtol=0.2)
    assert np.allclose(np.asarray(mu["a.bias"], np.float32), 0.1 * 40 / np.sqrt(3 * (30**2 + 40**2)), rtol=1e-2)


# Steps and the loop


def toy_steps(loss, batch: int = 2) -> tuple[Steps, TrainState]:
    config = OctoTrainConfig(steps=10, warmup_steps=0, learning_rate=0.1)
    params = {"x.kernel": jnp.zeros(2)}
    steps = Steps(loss, optimiser(params, config), batch, 0)
    return steps, steps.start(params)


def test_non_finite_gradient_gives_a_non_finite_loss():
    steps, state = toy_steps(lambda params, batch, key, train: jnp.sqrt(params["x"]["kernel"] * batch).sum())
    _, loss = steps.train(state, {}, np.ones(2, np.float32))
    assert np.isnan(float(loss))


def test_validation_noise_is_fixed_and_training_noise_varies():
    steps, state = toy_steps(lambda params, batch, key, train: jax.random.normal(key) + 100.0 * train)
    held_out = [steps.validate(state.params, {}, np.ones(2, np.float32), 0) for _ in range(2)]
    losses = []
    for _ in range(2):
        state, loss = steps.train(state, {}, np.ones(2, np.float32))
        losses.append(float(loss))
    assert held_out[0] == held_out[1] < 50 < min(losses) and losses[0] != losses[1]


class ScriptedSteps:
    """Steps with given losses."""

    def __init__(self, losses):
        self.losses = losses

    def train(self, state, frozen, batch):
        return state + 1, jnp.float32(self.losses[state])


@pytest.mark.parametrize("bad", [0, 4, 7, 9])
def test_non_finite_loss_stops_before_the_next_save(bad):
    losses = [1.0] * 10
    losses[bad] = float("nan")
    config = OctoTrainConfig(steps=10, warmup_steps=0, save_every=5)
    record, saved = History(), []

    def save(step, state):
        saved.append((step, state))
        record.last_checkpoint = Path("kept")

    kept = "last good checkpoint: kept" if bad >= 5 else "no checkpoint was written before"
    with pytest.raises(UserError, match=f"step {bad + 1}: loss is nan: .*; {kept}"):
        fit(ScriptedSteps(losses), 0, {}, iter(range(10)), config, record, save)
    assert saved == ([(5, 5)] if bad >= 5 else [])


def test_loop_saves_reports_and_keeps_every_loss():
    config = OctoTrainConfig(steps=120, warmup_steps=0, save_every=50)
    saved, reported = [], []
    record = History(losses=[float(n) for n in range(30)])
    fit(
        ScriptedSteps([float(n) for n in range(120)]),
        30,
        {},
        iter(range(90)),
        config,
        record,
        lambda *at: saved.append(at),
        lambda *at: reported.append(at),
    )
    assert saved == [(50, 50), (100, 100), (120, 120)] and reported == [(n, 120) for n in range(31, 121)]
    assert record.losses == [float(n) for n in range(120)]


def test_state_file_survives_a_round_trip_and_bad_ones_are_refused(tmp_path):
    state = {"a": jnp.arange(3, dtype=jnp.bfloat16), "b": (jnp.ones((2, 2)), jnp.int32(7))}
    write_state(tmp_path, state, {"losses": [0.1, 2.5]})
    found, meta = read_state(tmp_path, state)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), found, state))
    assert meta == {"losses": [0.1, 2.5]}
    with pytest.raises(UserError, match="not of this training"):
        read_state(tmp_path, {**state, "a": jnp.ones(4)})
    with pytest.raises(UserError, match="holds 3 arrays, this training has 1"):
        read_state(tmp_path, {"a": state["a"]})
    file = tmp_path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(UserError, match="damaged training state"):
        read_state(tmp_path, state)
    with pytest.raises(UserError, match="no training state"):
        read_state(tmp_path / "nowhere", state)


def test_batch_not_divisible_by_the_devices_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: ["a", "b"])
    with pytest.raises(UserError, match="batch: 3 is not divisible by the 2 devices"):
        Steps(lambda *_: 0, optax.identity(), 3, 0)


def test_two_devices_give_the_losses_of_one():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, octo_train_samples.__file__], env=environment, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout.splitlines()[-1])
    assert reported["devices"] == 2
    assert np.allclose(reported["losses"], octo_train_samples.losses_of_steps(), rtol=1e-5)
