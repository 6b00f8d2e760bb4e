"""Fine-tuning of Octo: what learns, batches, steps, saves, resuming, several devices, and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import generalist_samples
import jax
import jax.numpy as jnp
import numpy as np
import octo_train_samples
import optax
import pytest
from octo_train_samples import CONFIG, SEED, SIZE
from pydantic import ValidationError
from safetensors import safe_open

from rldg_core.errors import UserError
from rldg_core.files import sha256_hex
from rldg_policy.checkpoint.statistics import choose_statistics
from rldg_policy.octo import output as output_module
from rldg_policy.octo import train
from rldg_policy.octo.batch import BatchSource
from rldg_policy.octo.checkpoint import OctoCheckpoint, random_checkpoint, read_checkpoint, write_random
from rldg_policy.octo.fit import Record, fit
from rldg_policy.octo.freezing import count, flatten, optimiser, partition, schedule, unflatten
from rldg_policy.octo.random import OCTO_BASE
from rldg_policy.octo.resume import read_state, write_state
from rldg_policy.octo.step import Steps, TrainState
from rldg_policy.octo.train_config import OctoTrainConfig
from rldg_policy.training.dataset import open_training_set

pytestmark = pytest.mark.timeout(300)  # XLA compiles for half a minute, longer on a busy machine

GOLDEN = Path(__file__).parents[4] / "shared" / "golden" / "octo_tiny"


@pytest.fixture(scope="module", autouse=True)
def quick_compiler(tmp_path_factory):
    """Compiling is most of the time here: little optimisation, and nothing twice."""
    from jax.experimental.compilation_cache import compilation_cache

    wanted = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("xla")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return octo_train_samples.dataset_with_validation(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "octo"
    write_random(folder, SIZE, 0)
    return folder


@pytest.fixture(scope="module")
def trained(dataset, base, tmp_path_factory) -> tuple[Path, train.OctoTrainResult, list[float]]:
    """(checkpoint, result, losses of the first 16 steps as the training state told them)."""
    out = tmp_path_factory.mktemp("trained") / "octo"
    losses: list[float] = []

    def look(step: int, steps: int) -> None:
        if step == 18:
            with safe_open(out / ".training" / "state.safetensors", framework="np") as file:
                losses.extend(json.loads(file.metadata()["rldg"])["losses"])

    result = train.finetune(dataset, out, CONFIG, base=base, seed=SEED, progress=look)
    return out, result, losses


@pytest.fixture(scope="module")
def variant() -> OctoCheckpoint:
    """What the training begins with: one image."""
    return random_checkpoint(SIZE.model_copy(update={"wrist": False, "window": CONFIG.window}), 0)


def same_bits(a: Path, b: Path) -> bool:
    first, second = (flatten(read_checkpoint(path).params) for path in (a, b))
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


# What learns


def test_modes_freeze_what_upstream_freezes():
    tree = {
        "octo_transformer": {"a": {"kernel": jnp.ones((3, 2))}, "b": {"hf_model": {"shared": jnp.ones(4)}}},
        "heads_action": {"map_head": {"probe": jnp.ones(2)}, "mean_proj": {"kernel": jnp.ones(5)}},
    }
    learns = {mode: set(partition(tree, OctoTrainConfig(mode=mode).patterns)[0]) for mode in train_modes()}
    head = {"heads_action.map_head.probe", "heads_action.mean_proj.kernel"}
    assert learns["full"] == {"octo_transformer.a.kernel", *head}
    assert learns["head_only"] == head
    assert learns["head_mlp_only"] == {"heads_action.mean_proj.kernel"}
    with pytest.raises(UserError, match="leave no parameter to learn"):
        partition(tree, OctoTrainConfig(frozen=("*",)).patterns)
    learning, frozen = partition(tree, CONFIG.patterns)
    assert jax.tree.all(jax.tree.map(np.array_equal, unflatten(learning | frozen), tree))


def train_modes():
    return ("full", "head_only", "head_mlp_only")


def test_octo_base_in_rldgs_variant_trains_all_but_t5():
    shapes = GOLDEN / "octo_base_params.txt"
    if not shapes.is_file():
        pytest.skip("no golden references")
    flat = {}
    for line in shapes.read_text().splitlines():
        path, _, shape = line.partition(" (")
        sizes = [int(part) for part in shape.rstrip(")").split(",") if part.strip()]
        flat[path.replace("/", ".")] = np.broadcast_to(np.float32(0), sizes)
    from rldg_policy.octo.random import upstream_config
    from rldg_policy.octo.variant import rldg_variant

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


# Batches


@pytest.fixture(scope="module")
def source(dataset):
    data = open_training_set(dataset)
    with ThreadPoolExecutor(2) as pool:
        yield BatchSource(data, CONFIG, 32, 4, lambda text: np.full((16, 16), len(text), np.float32), pool, SEED)


def test_batches_are_upstreams(source):
    batch = next(source.training(0))
    observation, task = batch["observation"], batch["task"]
    assert observation["image_primary"].shape == (4, 2, 32, 32, 3) and observation["image_primary"].dtype == np.uint8
    assert set(task) == {"language_instruction", "pad_mask_dict"}, "no goal image"
    assert task["language_instruction"].shape == (4, 16, 16) and task["pad_mask_dict"]["language_instruction"].all()
    assert batch["action"].shape == batch["action_pad_mask"].shape == (4, 2, 4, 7)
    assert batch["action"].dtype == np.float32 and batch["action_pad_mask"].dtype == bool
    seen = observation["timestep_pad_mask"]
    assert seen[:, -1].all() and not batch["action_pad_mask"][~seen].any()
    template = octo_train_samples.random_batch(np.random.default_rng(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), batch) == jax.tree.map(lambda x: (x.shape, x.dtype), template)


def test_actions_are_normalised_but_the_gripper(source):
    batches = source.training(0)
    found = np.concatenate([next(batches)["action"][:, -1, 0] for _ in range(10)])
    assert np.allclose(found[:, :6].mean(0), 0, atol=0.5) and np.allclose(found[:, :6].std(0), 1, atol=0.4)
    assert not found[:, 6].any(), "raw"


def test_batches_go_on_where_they_ended(source):
    whole = source.training(0)
    skipped = [next(whole) for _ in range(3)][-1]
    again = next(source.training(2))
    assert jax.tree.all(jax.tree.map(np.array_equal, skipped, again))


def test_only_training_images_vary(source, dataset):
    plain = BatchSource(
        source.data, CONFIG.model_copy(update={"augment": False}), 32, 4, source.language, source.pool, 3
    )
    varied, same = next(source.training(0)), next(plain.training(0))
    assert np.array_equal(varied["action"], same["action"])
    assert not np.array_equal(varied["observation"]["image_primary"], same["observation"]["image_primary"])
    first, second = list(source.validation()), list(source.validation())
    assert len(first) == 2 and jax.tree.all(jax.tree.map(np.array_equal, first, second))


def test_a_small_validation_split_fills_one_batch(source):
    big = BatchSource(source.data, CONFIG.model_copy(update={"batch": 64}), 32, 4, source.language, source.pool, SEED)
    (batch,) = big.validation()
    images = batch["observation"]["image_primary"]
    assert len(images) == 64 and np.array_equal(images[0], images[40])


# Steps and the loop


def toy_steps(loss, batch: int = 2) -> tuple[Steps, TrainState]:
    config = OctoTrainConfig(steps=10, warmup_steps=0, learning_rate=0.1)
    params = {"x.kernel": jnp.zeros(2)}
    steps = Steps(loss, optimiser(params, config), batch, 0)
    return steps, steps.start(params)


def test_a_gradient_that_is_not_finite_counts_as_such_a_loss():
    steps, state = toy_steps(lambda params, batch, key, train: jnp.sqrt(params["x"]["kernel"] * batch).sum())
    _, loss = steps.train(state, {}, np.ones(2, np.float32))
    assert np.isnan(float(loss))


def test_validation_noise_stays_and_training_noise_does_not():
    steps, state = toy_steps(lambda params, batch, key, train: jax.random.normal(key) + 100.0 * train)
    held_out = [steps.validate(state.params, {}, np.ones(2, np.float32), 0) for _ in range(2)]
    losses = []
    for _ in range(2):
        state, loss = steps.train(state, {}, np.ones(2, np.float32))
        losses.append(float(loss))
    assert held_out[0] == held_out[1] < 50 < min(losses) and losses[0] != losses[1]


class ScriptedSteps:
    """Steps whose losses are given."""

    def __init__(self, losses):
        self.losses = losses

    def train(self, state, frozen, batch):
        return state + 1, jnp.float32(self.losses[state])


@pytest.mark.parametrize("bad", [0, 4, 7, 9])
def test_a_loss_that_is_no_number_stops_before_the_next_save(bad):
    losses = [1.0] * 10
    losses[bad] = float("nan")
    config = OctoTrainConfig(steps=10, warmup_steps=0, save_every=5)
    record, saved = Record(), []

    def save(step, state):
        saved.append((step, state))
        record.last_checkpoint = Path("kept")

    kept = "last good checkpoint: kept" if bad >= 5 else "no checkpoint was written before"
    with pytest.raises(UserError, match=f"step {bad + 1}: loss is nan: .*; {kept}"):
        fit(ScriptedSteps(losses), 0, {}, iter(range(10)), config, record, save)
    assert saved == ([(5, 5)] if bad >= 5 else [])


def test_the_loop_saves_reports_and_draws_the_curve():
    config = OctoTrainConfig(steps=120, warmup_steps=0, save_every=50)
    saved, told = [], []
    record = Record(losses=[float(n) for n in range(30)])
    fit(
        ScriptedSteps([float(n) for n in range(120)]),
        30,
        {},
        iter(range(90)),
        config,
        record,
        lambda *at: saved.append(at),
        lambda *at: told.append(at),
    )
    assert saved == [(50, 50), (100, 100), (120, 120)] and told == [(n, 120) for n in range(31, 121)]
    assert record.curve() == (24.5, 74.5, 109.5)


def test_state_file_round_trip_and_what_is_wrong_with_one(tmp_path):
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


# The whole


def test_the_result_can_be_served(trained, base, dataset):
    out, _, _ = trained
    checkpoint, before = read_checkpoint(out), read_checkpoint(base)
    manifest = checkpoint.manifest
    assert manifest is not None and manifest.version == checkpoint.step == 20
    assert (manifest.backend, manifest.tasks, manifest.statistics_key) == ("octo", ("insertion",), "made_up")
    assert (manifest.image_size, manifest.window, manifest.horizon, manifest.rate_hz) == (32, 2, 4, 10.0)
    key, statistics = choose_statistics(out, manifest)
    assert key == "made_up" and np.array_equal(statistics.mean, open_training_set(dataset).actions.mean)
    assert manifest.statistics_sha256 == sha256_hex((out / "dataset_statistics.json").read_bytes())
    assert checkpoint.image_sizes == {"image_primary": 32} and checkpoint.config["window_size"] == 2
    assert list(checkpoint.config["model"]["observation_tokenizers"]) == ["primary"]
    after, old = flatten(checkpoint.params), flatten(before.params)
    assert set(old.keys() - after.keys()) == {path for path in old if "wrist" in path}
    same = {path for path in after if np.array_equal(after[path], old[path])}
    assert {path for path in after if "hf_model" in path} <= same
    assert all("hf_model" in path or "bias" in path or "pos_embedding" in path for path in same), same
    assert sorted(path.name for path in out.iterdir()) == [
        "20",
        "config.json",
        "dataset_statistics.json",
        "example_batch.msgpack",
        "rldg.json",
        "tiny-t5",
        "training.json",
    ]


def test_the_loss_falls_and_is_told(trained):
    out, result, losses = trained
    assert result.steps == 20 and result.samples == 80 and result.episodes == 5 and result.samples_per_s > 0
    assert result.trained < result.parameters and len(result.losses) == 1 and len(result.validation_losses) == 3
    assert len(losses) == 16 and max(np.mean(losses[8:]), *result.validation_losses) < 0.8 * losses[0]
    told = json.loads((out / "training.json").read_text())
    assert told["losses"] == list(result.losses) and told["seed"] == SEED and told["config"]["batch"] == 4


class Killed(BaseException):
    """Stands for kill -9: nothing of ours handles it."""


def interrupted(dataset, out, base, at: int) -> None:
    def stop(step, steps):
        if step == at:
            raise Killed

    with pytest.raises(Killed):
        train.finetune(dataset, out, CONFIG, base=base, seed=SEED, progress=stop)


def test_a_resumed_training_ends_with_the_same_bits(trained, dataset, base, tmp_path):
    whole, result, _ = trained
    out = tmp_path / "octo"
    interrupted(dataset, out, base, 18)
    assert read_checkpoint(out).step == 16, "served already"
    partial = out / ".training" / ".state.safetensors.0.partial"
    partial.write_bytes(b"half")
    refused = {
        "seed was 3, now it is 4": {"seed": 4},
        "learning_rate was 0.003, now it is 0.1": {"config": CONFIG.model_copy(update={"learning_rate": 0.1})},
    }
    for reason, change in refused.items():
        arguments = {"config": CONFIG, "seed": SEED, **change}
        with pytest.raises(UserError, match=reason):
            train.finetune(dataset, out, base=base, resume=True, **arguments)
    with pytest.raises(UserError, match="holds an unfinished training"):
        train.finetune(dataset, out, CONFIG, base=base, seed=SEED)
    config = CONFIG.model_copy(update={"save_every": 20, "workers": 2})
    calls = []
    again = train.finetune(
        dataset, out, config, base=base, seed=SEED, resume=True, progress=lambda *at: calls.append(at)
    )
    assert calls[0] == (17, 20) and calls[-1] == (20, 20)
    assert same_bits(whole, out) and again.losses == result.losses
    assert again.validation_losses == result.validation_losses
    assert not (out / ".training").exists()
    with pytest.raises(UserError, match="no unfinished training to resume"):
        train.finetune(dataset, out, CONFIG, base=base, seed=SEED, resume=True)


@pytest.mark.parametrize("moves", [2, 6], ids=["shared", "manifest"])
def test_a_kill_while_publishing_loses_nothing(moves, variant, tmp_path, monkeypatch):
    """Whatever is killed between two moves, what is there afterwards is one step, whole, or is refused."""
    from rldg_policy.octo.checkpoint import RANDOM_KEY
    from rldg_policy.octo.random import small_actions

    statistics = json.dumps({RANDOM_KEY: {"action": small_actions()}}).encode()

    def publish(step):
        from rldg_policy.checkpoint.manifest import Manifest

        manifest = Manifest(
            backend="octo",
            image_size=32,
            window=2,
            horizon=4,
            rate_hz=10,
            statistics_key=RANDOM_KEY,
            statistics_sha256=sha256_hex(statistics),
            version=step,
        )
        output_module.Output(tmp_path, (tmp_path / ".training").is_dir()).publish(variant, statistics, manifest)

    publish(10)
    left = [moves]
    monkeypatch.setattr(output_module.os, "replace", counted(os.replace, left))
    monkeypatch.setattr(output_module.os, "rename", counted(os.rename, left))
    with suppress(Killed):
        publish(20)
    assert left == [0]
    monkeypatch.undo()
    found = read_checkpoint(tmp_path)
    assert found.step in (10, 20) and found.manifest.version in (10, 20)
    publish(20)
    assert read_checkpoint(tmp_path).step == 20 and not (tmp_path / "10").exists()


def counted(move, left):
    def limited(source, target):
        if ".training" in str(source) and "partial" not in str(source):
            if not left[0]:
                raise Killed
            left[0] -= 1
        move(source, target)

    return limited


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
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["devices"] == 2
    assert np.allclose(told["losses"], octo_train_samples.losses_of_steps(), rtol=1e-5)


# What goes wrong


def test_a_batch_that_does_not_divide(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: ["a", "b"])
    with pytest.raises(UserError, match="batch: 3 does not divide over the 2 devices"):
        Steps(lambda *_: 0, optax.identity(), 3, 0)


def test_out_of_memory_says_what_to_lower(dataset, base, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")

    monkeypatch.setattr(Steps, "train", full)
    with pytest.raises(UserError, match=r"out of memory: lower batch \(4\) or window \(2\)"):
        train.finetune(dataset, tmp_path / "out", CONFIG, base=base)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": CONFIG.model_copy(update={"window": 11})}, "window: 11, but .* has positions for at most 10"),
        ({"base": None}, "base: Octo is fine-tuned from a checkpoint"),
        ({"base": Path("/nowhere")}, "/nowhere/config.json: cannot read"),
        ({"dataset": Path("/nowhere")}, "/nowhere: not a dataset"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(change, reason, dataset, base, tmp_path):
    arguments = {"dataset": dataset, "config": CONFIG, "base": base, **change}
    with pytest.raises(UserError, match=reason) as error:
        train.finetune(out=tmp_path / "out", **arguments)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_folder_that_is_no_checkpoint_is_not_replaced(dataset, base, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="exists and is no checkpoint"):
        train.finetune(dataset, tmp_path, CONFIG, base=base)


def test_a_dataset_without_instruction_is_refused(base, tmp_path):
    dirty = generalist_samples.insertion_dataset(tmp_path, episodes=2, instruction=" ")
    with pytest.raises(UserError, match=r"not fit for training: .*empty instruction"):
        train.finetune(dirty, tmp_path / "out", CONFIG, base=base)


def test_actions_of_another_dimension_are_refused(dataset, tmp_path):
    write_random(tmp_path / "base", SIZE.model_copy(update={"action_dim": 8}), 0)
    with pytest.raises(UserError, match="predicts actions of 8 components, the datasets have 7"):
        train.starting_point(tmp_path / "base", CONFIG)


def test_the_golden_checkpoint_can_be_fine_tuned():
    if not GOLDEN.is_dir():
        pytest.skip("no golden references")
    start = train.starting_point(GOLDEN, OctoTrainConfig())
    assert start.window == 1 and start.image_sizes == {"image_primary": 128}
    learning, frozen = partition(start.params, OctoTrainConfig().patterns)
    assert all(".hf_model." in path for path in frozen) and learning
