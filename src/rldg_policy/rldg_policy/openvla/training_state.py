"""What a training of OpenVLA starts from and what it writes: initial model, training state, result, saves.

A save holds the merged checkpoint, the adapters and the training state in one folder, which is published by one rename:
weights, statistics and training state always belong together, and the previous save is kept until then.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from rldg_core.errors import UserError
from rldg_core.files import write_json, writing_aside
from rldg_core.seeding import derive_seed
from rldg_policy.checkpoint.manifest import Manifest
from rldg_policy.openvla.checkpoint import read_model, write_files
from rldg_policy.openvla.config import IMAGE_SIZE, INFERENCE_HZ, DecodingConfig, OpenVLATrainConfig
from rldg_policy.openvla.lora import add_adapters, full_tensor, trainable, write_adapter
from rldg_policy.openvla.model import L1Head, OpenVLA
from rldg_policy.openvla.processing import PromptTokenizer
from rldg_policy.training.dataset import TrainingSet
from rldg_policy.training.run import TRAINING_FILE, TRAINING_FOLDER, training_report
from rldg_policy.training.torch_state import (
    TrainingState,
    check_finite,
    flatten_optimizer,
    generator_tensors,
    restore_generators,
    restore_optimizer,
    write_state,
)


@dataclass(frozen=True)
class OpenVLATrainResult:
    """Result of a training. steps: of the optimiser; samples: of all processes; trained: parameters; losses, l1s (of
    normalised actions), accuracies (of action tokens; empty for continuous actions): means over every 50 steps;
    samples_per_s: of all processes since the start or the last resume, without saving."""

    checkpoint: Path
    steps: int
    samples: int
    episodes: int
    trained: int
    processes: int
    losses: tuple[float, ...]
    l1s: tuple[float, ...]
    accuracies: tuple[float, ...]
    samples_per_s: float


_PARAMETER = "parameter."


def gather(model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors on the CPU, optimiser state as JSON). Under FSDP every process must call this."""
    tensors = {_PARAMETER + name: parameter.detach() for name, parameter in trainable(model).items()}
    moments, values = flatten_optimizer(optimiser)
    gathered = {name: full_tensor(tensor).cpu() for name, tensor in {**tensors, **moments}.items()}
    return {**gathered, **generator_tensors()}, values


def restore(state: TrainingState, model: nn.Module, optimiser: torch.optim.Optimizer, where: Path) -> None:
    """Restore what `gather` returned. Raises UserError `where: reason` when the state belongs to another model."""
    parameters = trainable(model)
    found = {n.removeprefix(_PARAMETER): t for n, t in state.tensors.items() if n.startswith(_PARAMETER)}
    for name in {*parameters, *found}:
        if name not in parameters or name not in found or parameters[name].shape != found[name].shape:
            raise UserError(f"{where}: {name}: the state belongs to another model")
    with torch.no_grad():
        for name, trained in parameters.items():
            trained.copy_(shard_like(found[name], trained))
    restore_optimizer(optimiser, state.tensors, state.meta["optimiser"])
    for parameter, members in optimiser.state.items():
        for member, value in members.items():
            if value.shape == parameter.shape:
                members[member] = shard_like(value, parameter)
    restore_generators(state.tensors)


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return `tensor` on the device of `like`, sharded as `like` if FSDP has sharded it."""
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


def fingerprint(model: nn.Module) -> str:
    """Return a hash that identifies the initial weights, from the first values of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.flatten()[:16].float().cpu().numpy().tobytes())
    return digest.hexdigest()


ADAPTER_FOLDER = "adapter"
"""A subfolder, because transformers would load the base model named in adapter_config.json."""


@dataclass(frozen=True)
class InitialModel:
    """model: with adapters, on the CPU; tokenizer: of the checkpoint; adapter: content of adapter_config.json; base:
    folder; weights: fingerprint of the base model."""

    model: OpenVLA
    tokenizer: PromptTokenizer
    adapter: LoraConfig
    base: Path
    weights: str


def load_initial_model(base: Path, config: OpenVLATrainConfig, seed: int, device: torch.device) -> InitialModel:
    """Read the base checkpoint and add adapters and, for head `l1`, the action head.

    An action head of the base is trained further, else a new one is initialised. Raises UserError on an invalid
    checkpoint.
    """
    tokenizer = PromptTokenizer(base)
    model = read_model(base, dtype=torch.bfloat16 if uses_bfloat16(config, device) else torch.float32)
    weights = fingerprint(model)
    adapter = add_adapters(model, config.rank, config.alpha, seed, str(base))
    model.action_head = action_head(model, config, seed)
    if gradient_checkpointing(config, device):
        # Only in the language model: the activations of the vision towers take about 1 GB at batch 2.
        model.language_model.activation_checkpointing_enable({"use_reentrant": False})
    return InitialModel(model.train(), tokenizer, adapter, base, weights)


def action_head(model: OpenVLA, config: OpenVLATrainConfig, seed: int) -> L1Head | None:
    """Return the action head to train (float32): the model's own or a new one; None for bins."""
    if config.head != "l1":
        return None
    head = model.action_head
    if head is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "action_head"))
            head = L1Head(model.config.language.hidden_size)
    return head.float().requires_grad_(True)


def uses_bfloat16(config: OpenVLATrainConfig, device: torch.device) -> bool:
    """Return whether weights and products are bfloat16; adapters and optimiser are always float32."""
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bf16"


def gradient_checkpointing(config: OpenVLATrainConfig, device: torch.device) -> bool:
    """Return whether activations are recomputed instead of stored."""
    return device.type == "cuda" if config.gradient_checkpointing is None else config.gradient_checkpointing


@dataclass(frozen=True)
class SaveContext:
    """What is the same in every save of a training."""

    data: TrainingSet
    start: InitialModel
    config: OpenVLATrainConfig
    seed: int


def write_save(
    out: Path,
    context: SaveContext,
    result: OpenVLATrainResult,
    merged: Iterable[tuple[str, Tensor]],
    adapter: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None,
    meta: Mapping[str, Any],
) -> None:
    """Replace the previous save. state, meta: training state to resume from (None: the training is finished).

    Raises UserError when the disk is full; the previous save is then kept.
    """
    with writing_aside(out) as aside:
        aside.mkdir()
        write_files(
            aside,
            context.start.model.config,
            _finite(merged, f"step {result.steps}: the training has diverged: not saved"),
            statistics_json=context.data.statistics_json,
            manifest=manifest(context, result.steps),
            decoding=DecodingConfig(
                decoding=context.config.decoding,
                head=context.config.head,
                horizon=context.config.horizon,
                centre_crop=context.config.augment,
            ),
            tokenizer_from=context.start.base,
        )
        (aside / ADAPTER_FOLDER).mkdir()
        write_adapter(aside / ADAPTER_FOLDER, context.start.adapter, adapter)
        data = context.data
        report = training_report(
            asdict(result), data.dataset.path, data.sha256, context.start.base, context.seed, context.config
        )
        write_json(aside / TRAINING_FILE, report)
        if state is not None:
            write_state(aside / TRAINING_FOLDER, result.steps, state, meta)


def _finite(tensors: Iterable[tuple[str, Tensor]], where: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors. Raises UserError on the first that is not finite: merging adapters can overflow."""
    for name, tensor in tensors:
        check_finite(where, [(name, tensor)])
        yield name, tensor


def manifest(context: SaveContext, step: int) -> Manifest:
    """Return the manifest of a save."""
    return context.data.manifest(
        "openvla",
        step,
        image_size=IMAGE_SIZE,
        window=1,
        horizon=context.config.horizon,
        inference_hz=min(INFERENCE_HZ, context.data.rate_hz),
    )


def remove_leftovers(out: Path) -> None:
    """Remove partial saves of a killed run beside `out`; a 7B model takes 15 GB."""
    for folder in out.parent.glob(f".{out.name}.????????.partial"):
        shutil.rmtree(folder, ignore_errors=True)
