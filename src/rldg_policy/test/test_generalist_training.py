"""Common parts of all fine-tunings: checks of the dataset, guards, and the training state on disk."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generalist_samples import insertion_dataset, make_episode, write_dataset

from rldg_core.errors import UserError
from rldg_policy.checkpoint.statistics import ActionStatistics
from rldg_policy.compact.config import TrainConfig
from rldg_policy.training.dataset import open_training_set
from rldg_policy.training.run import (
    check_loss,
    check_same_training,
    curve,
    explain_out_of_memory,
    training_identity,
    training_report,
)
from rldg_policy.training.torch_state import (
    flatten_optimizer,
    generator_tensors,
    read_state,
    restore_generators,
    restore_optimizer,
    write_state,
)


def test_training_set_describes_the_dataset_for_the_checkpoint(tmp_path):
    found = open_training_set(insertion_dataset(tmp_path, episodes=3, transitions=5))
    assert (found.name, found.tasks, found.episodes, found.transitions) == ("made_up", ("insertion",), 3, 15)
    assert found.image_size == 64 and found.rate_hz == 10.0
    assert json.loads(found.statistics_json) == {"made_up": found.statistics}
    entry = ActionStatistics.read(found.statistics["action"], "x")
    np.testing.assert_array_equal(found.actions.need("q01"), entry.need("q01"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"instruction": " "}, "instruction: train 1 .*must not be empty"),
        ({"action": np.full((9, 7), np.nan, np.float32)}, "not_finite: train 1 .*action is not finite"),
        ({"is_first": np.zeros(9, bool)}, "flags: train 1 .*is_first is missing"),
    ],
)
def test_dataset_with_findings_is_refused(tmp_path, change, reason):
    path = write_dataset(tmp_path, [make_episode(0), replace(make_episode(1), **change)])
    with pytest.raises(UserError, match=f"made_up/1.0.0: not fit for training: error: {reason}") as error:
        open_training_set(path)
    assert "\n" not in str(error.value)


def test_several_findings_are_counted_and_wrong_statistics_are_found(tmp_path):
    path = write_dataset(tmp_path, [make_episode(0, instruction=""), make_episode(1, instruction="")])
    with pytest.raises(UserError, match=r"\(and 1 more: `rldg dataset lint"):
        open_training_set(path)
    path = insertion_dataset(tmp_path / "b")
    file = path / "dataset_statistics.json"
    statistics = json.loads(file.read_text())
    statistics["action"]["q99"][0] *= 1.1
    file.write_text(json.dumps(statistics))
    with pytest.raises(UserError, match="statistics: dataset: do not match the data"):
        open_training_set(path)


def test_dataset_without_transitions_is_refused(tmp_path):
    with pytest.raises(UserError, match="no step with an action"):
        open_training_set(write_dataset(tmp_path, [make_episode(0, 0), make_episode(1, 0)]))


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_loss_ends_the_training(loss):
    with pytest.raises(UserError, match=rf"step 7: loss is {loss}: .*; last good checkpoint: a/b$"):
        check_loss(7, loss, Path("a/b"))
    with pytest.raises(UserError, match="no checkpoint was written before"):
        check_loss(7, loss, None)
    check_loss(7, 1e30, None)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123 bytes."),
    ],
)
def test_out_of_memory_names_the_options_to_lower(error):
    with pytest.raises(UserError, match=r"^out of memory: lower --batch$"), explain_out_of_memory("lower --batch"):
        raise error


def test_failed_allocations_are_recognised_among_other_errors():
    with pytest.raises(UserError, match="out of memory: x"), explain_out_of_memory("x"):
        torch.empty(1 << 55)
    with pytest.raises(RuntimeError, match="shape"), explain_out_of_memory("x"):
        raise RuntimeError("shape")


def test_resuming_allows_only_free_options_to_change(tmp_path):
    data = open_training_set(insertion_dataset(tmp_path / "a", episodes=2))
    other = open_training_set(insertion_dataset(tmp_path / "b", episodes=3))
    config = TrainConfig()

    def identity(data=data, seed=0, base="x", **changed):
        return training_identity(data, config.model_copy(update=changed), seed, free={"save_every"}, base=base)

    before = json.loads(json.dumps(identity()))
    check_same_training(tmp_path, before, identity(save_every=7))
    for change, reason in (
        ({"data": other}, r"the dataset is not the one .* \(sha256 [0-9a-f]{12}, now [0-9a-f]{12}\).*"),
        ({"seed": 1}, "seed was 0, now it is 1"),
        ({"base": "y"}, "base was x, now it is y"),
        ({"batch": 3}, "batch was 32, now it is 3"),
    ):
        with pytest.raises(UserError, match=f"^{tmp_path}: cannot resume: {reason}$"):
            check_same_training(tmp_path, before, identity(**change))


def test_loss_curve_has_a_point_per_50_steps_and_one_for_the_rest():
    assert curve([]) == () and curve([3.0]) == (3.0,)
    assert curve([float(n) for n in range(120)]) == (24.5, 74.5, 109.5)
    assert curve(tuple(range(100))) == (24.5, 74.5)


def test_training_json_states_result_and_origin():
    config = TrainConfig()
    report = training_report({"checkpoint": Path("out"), "steps": 3}, Path("data"), "ab", None, 7, config)
    assert json.loads(json.dumps(report)) == {
        "checkpoint": "out",
        "steps": 3,
        "dataset": "data",
        "dataset_sha256": "ab",
        "base": None,
        "seed": 7,
        "config": json.loads(config.model_dump_json()),
    }
    assert training_report({"checkpoint": "out"}, Path("data"), "ab", Path("base"), 0, config)["base"] == "base"


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[torch.Tensor]:
    for _ in range(steps):
        loss = model(torch.randn(4, 3)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def make(seed: int, out: int = 2) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, out)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def test_resumed_training_continues_bit_for_bit(tmp_path):
    with torch.random.fork_rng(devices=[]):
        model, optimizer = make(1)
        train(model, optimizer, 3)
        tensors, meta = flatten_optimizer(optimizer)
        write_state(tmp_path / "s", 3, {**model.state_dict(), **tensors, **generator_tensors()}, {"optimizer": meta})
        expected = train(model, optimizer, 3)

        model, optimizer = make(2)
        state = read_state(tmp_path / "s")
        assert state.step == 3
        model.load_state_dict({name: state.tensors[name] for name in model.state_dict()})
        restore_optimizer(optimizer, state.tensors, state.meta["optimizer"])
        restore_generators(state.tensors)
        found = train(model, optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert state.tensors["optimizer.0.step"] == 3


def test_state_of_another_model_is_refused():
    tensors, meta = flatten_optimizer_after_a_step(out=2)
    _, other = make(0, out=5)
    with pytest.raises(UserError, match="belongs to another model"):
        restore_optimizer(other, tensors, meta)
    _, fewer = make(0)
    fewer.param_groups[0]["params"].pop()
    with pytest.raises(UserError, match="belongs to another model"):
        restore_optimizer(fewer, tensors, meta)


def flatten_optimizer_after_a_step(out: int) -> tuple[dict, dict]:
    with torch.random.fork_rng(devices=[]):
        model, optimizer = make(0, out)
        train(model, optimizer, 1)
    return flatten_optimizer(optimizer)


def test_damaged_state_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"nowhere/state\.json: cannot read"):
        read_state(tmp_path / "nowhere")
    write_state(tmp_path / "s", 1, {"a": torch.ones(3)}, {})
    file = tmp_path / "s" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"state\.safetensors: damaged"):
        read_state(tmp_path / "s")
    file.unlink()
    with pytest.raises(UserError, match=r"state\.safetensors: cannot read"):
        read_state(tmp_path / "s")
    (tmp_path / "s" / "state.json").write_text('{"step": "one"}')
    with pytest.raises(UserError, match=r"state\.json: not a training state"):
        read_state(tmp_path / "s")


def test_full_disk_keeps_the_previous_state(tmp_path):
    write_state(tmp_path / "s", 1, {"a": torch.ones(3)}, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError, match=r"s: cannot write: File too large"):
            write_state(tmp_path / "s", 2, {"a": torch.zeros(3000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_state(tmp_path / "s").step == 1 and [p.name for p in tmp_path.iterdir()] == ["s"]
