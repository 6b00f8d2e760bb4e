"""Fine-tuning of OpenVLA with LoRA, in one process or several (Accelerate: DDP, FSDP).

The procedure is that of openvla vla-scripts/finetune.py, except that saves happen after optimiser steps and a resumed
run continues as if it had not been interrupted. Every sample has the same weight, however much of its chunk is padding,
so that micro-batches and processes add up exactly to one large batch. Several GPUs:

    accelerate launch --config_file ddp.yaml -m rldg_policy.openvla.train DATASET --base BASE --out OUT [--batch 2 ...]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.nn import functional as F

from rldg_core.configuration import validated
from rldg_core.errors import UserError
from rldg_core.seeding import derive_seed
from rldg_policy.generalist import Progress
from rldg_policy.openvla.batch import Batch, Collator
from rldg_policy.openvla.config import OpenVLATrainConfig
from rldg_policy.openvla.lora import adapter_tensors, full_tensor, merged_tensors, trainable
from rldg_policy.openvla.model import OpenVLA
from rldg_policy.openvla.processing import action_values, is_action
from rldg_policy.openvla.training_state import (
    OpenVLATrainResult,
    SaveContext,
    gather,
    load_initial_model,
    remove_leftovers,
    restore,
    uses_bfloat16,
    write_save,
)
from rldg_policy.training.dataset import TrainingSet, open_training_set
from rldg_policy.training.run import (
    TRAINING_FOLDER,
    check_base,
    check_loss,
    check_out,
    check_same_training,
    curve,
    explain_out_of_memory,
    training_identity,
)
from rldg_policy.training.samples import batches, stream_samples
from rldg_policy.training.torch_state import read_state


class Losses(NamedTuple):
    """loss: minimised; accuracy: share of correct action tokens (NaN for continuous actions); l1: mean absolute error
    of normalised actions, decoded from the most likely tokens. Accuracy and L1 as in upstream's finetune.py."""

    loss: Tensor
    accuracy: Tensor
    l1: Tensor


class Objective(nn.Module):
    """Computes the losses of a batch; a module, so that DDP and FSDP wrap the whole computation."""

    def __init__(self, model: OpenVLA) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Losses:
        """Return the mean losses of a batch. Logits are computed only at the predicted positions."""
        hidden = self.model.hidden(batch.input_ids, batch.pixel_values, batch.attention_mask, batch.slot_mask)
        predicted = hidden.gather(1, batch.positions[..., None].expand(-1, -1, hidden.shape[-1]))
        if self.model.action_head is not None:
            return regression(self.model.action_head(predicted), batch)
        return classification(self.model.language_model.lm_head(predicted), batch)


def classification(logits: Tensor, batch: Batch) -> Losses:
    """Return the cross-entropy of logits (B, K, vocabulary); `</s>` counts in the loss only."""
    logits = logits.float()
    loss = F.cross_entropy(logits.transpose(1, 2), batch.targets, reduction="none")
    with torch.no_grad():
        counted = is_action(batch.targets) & (batch.weight > 0)
        predicted, true = logits.argmax(-1)[counted], batch.targets[counted]
        l1 = F.l1_loss(decoded(predicted), decoded(true)).to(loss.device)
    return Losses((loss * batch.weight).sum() / len(loss), (predicted == true).float().mean(), l1)


def decoded(ids: Tensor) -> Tensor:
    """Return the normalised actions of token ids, on the CPU."""
    return torch.from_numpy(action_values(ids.cpu().numpy()))


def regression(predicted: Tensor, batch: Batch) -> Losses:
    """Return the L1 losses of predicted actions (B, H, 7)."""
    error = (predicted.float() - batch.actions).abs().flatten(1)
    loss = (error * batch.weight).sum() / len(error)
    return Losses(loss, torch.full_like(loss, torch.nan).detach(), loss.detach())


ADVICE = (
    "lower batch and raise accumulation by as much, turn gradient checkpointing on, lower shuffle_buffer (main "
    "memory), or shard the model over several GPUs (config/accelerate/fsdp.yaml)"
)
FREE = {"steps", "save_every"}
"""Options that may change when a training is resumed."""


def finetune(
    dataset: Path,
    out: Path,
    config: OpenVLATrainConfig,
    *,
    base: Path | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
    camera: str | None = None,
) -> OpenVLATrainResult:
    """Fine-tune the checkpoint `base` on an RLDS dataset `<root>/<name>/<version>`.

    `out` is a valid checkpoint from the first save on. resume: continue from the last save in `out` with the same
    dataset, base, configuration and seed; the result is that of an uninterrupted run, on a CPU bit for bit. camera: see
    `open_training_set`. Under `accelerate launch` every process calls this. Raises UserError on invalid input, on a
    loss that is not finite, and when memory runs out.
    """
    check_out(out, "openvla", base, resume=resume)
    base = check_base(base, "openvla")
    with explain_out_of_memory(ADVICE):
        training = Training(open_training_set(dataset, camera), base, out, config, seed)
        if resume:
            training.resume()
        return training.run(progress)


class Training:
    """Training in one process: model, optimiser, data and progress."""

    def __init__(self, data: TrainingSet, base: Path, out: Path, config: OpenVLATrainConfig, seed: int) -> None:
        self.out, self.config = out, config
        self.accelerator = Accelerator(
            # Autocast is applied in this module, so that adapters stay float32 under FSDP as well.
            mixed_precision="no",
            # SigLIP's pooling and the last vision blocks have adapters, as upstream, but are never executed.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.device = self.accelerator.device
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bfloat16(config, self.device))
        start = load_initial_model(base, config, seed, self.device)
        for instruction in data.instructions:
            start.tokenizer(instruction)
        self.context = SaveContext(data, start, config, seed)
        self.model = start.model
        self.identity = training_identity(
            data, config, seed, free=FREE, base=start.weights, processes=self.accelerator.num_processes
        )
        optimiser = torch.optim.AdamW(
            trainable(self.model).values(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.objective, self.optimiser = self.accelerator.prepare(Objective(self.model), optimiser)
        self.collate = Collator(start.tokenizer, data.actions, config, seed)
        self.measures: list[list[float]] = []
        self.step = 0
        self.saved = False

    def resume(self) -> None:
        """Restore the state in `out`. Raises UserError when it is of another training."""
        folder = self.out / TRAINING_FOLDER
        state = read_state(folder)
        if self.accelerator.is_main_process:
            remove_leftovers(self.out)
        check_same_training(folder, state.meta.get("identity", {}), self.identity)
        if state.step >= self.config.steps:
            raise UserError(f"steps: {self.config.steps}, but {folder} is already at step {state.step}")
        restore(state, self.model, self.optimiser.optimizer, folder)
        self.measures = state.meta["measures"]
        self.step = state.step
        self.saved = True

    def run(self, progress: Progress | None) -> OpenVLATrainResult:
        """Train to the last step, with saves in between."""
        config = self.config
        first, spent_s = self.step, 0.0
        per_step = config.batch * config.accumulation
        stream = self.batches(skip=first * per_step)
        while True:
            started = time.perf_counter()
            self.measures.append(self.optimise(list(islice(stream, config.accumulation))))
            self.step += 1
            spent_s += time.perf_counter() - started
            if self.step == config.steps or self.step % config.save_every == 0:
                result = self.result((self.step - first) * per_step / spent_s)
                self.save(result)
            if progress and self.accelerator.is_main_process:
                progress(self.step, config.steps)
            if self.step == config.steps:
                return result

    def batches(self, skip: int) -> Iterator[Batch]:
        """Yield the batches of this process, without the first `skip` samples."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        samples = stream_samples(
            self.context.data.dataset,
            horizon=self.config.horizon,
            buffer=self.config.shuffle_buffer,
            seed=derive_seed(self.context.seed, "samples"),
            skip=skip,
            rank=rank,
            world=world,
        )
        numbers = count(skip * world + rank, world)
        for group in batches(samples, self.config.batch):
            yield self.collate(group, list(islice(numbers, len(group)))).to(self.device)

    def optimise(self, micro_batches: list[Batch]) -> list[float]:
        """Make one optimiser step; return loss, L1 and, for tokens, accuracy: means over all processes.

        Raises UserError when loss or gradient is not finite; the weights are then unchanged.
        """
        total = torch.zeros(3, device=self.device)
        for number, batch in enumerate(micro_batches, start=1):
            last = number == len(micro_batches)
            with nullcontext() if last else self.accelerator.no_sync(self.objective):
                with self.autocast:
                    losses = self.objective(batch)
                self.accelerator.backward(losses.loss / len(micro_batches))
            total += torch.stack([losses.loss.detach(), losses.l1, losses.accuracy]) / len(micro_batches)
        measured: list[float] = self.accelerator.reduce(total, "mean").tolist()
        # The gradient can be non-finite although the loss of this step is finite.
        finite = math.isfinite(self.clip())
        check_loss(self.step + 1, measured[0] if finite else math.nan, self.out if self.saved else None)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return measured[:2] if self.model.action_head is not None else measured

    def clip(self) -> float:
        """Clip the gradient to config.clip_norm; return its norm before."""
        parameters = [p for p in trainable(self.model).values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.clip_norm, norm)
        return float(full_tensor(norm))

    def result(self, samples_per_s: float) -> OpenVLATrainResult:
        """Return the result so far. samples_per_s: of this process."""
        world = self.accelerator.num_processes
        losses, l1s, *accuracies = map(curve, zip(*self.measures, strict=True))
        return OpenVLATrainResult(
            checkpoint=self.out,
            steps=self.step,
            samples=self.step * self.config.batch * self.config.accumulation * world,
            episodes=self.context.data.episodes,
            trained=sum(parameter.numel() for parameter in trainable(self.model).values()),
            processes=world,
            losses=losses,
            l1s=l1s,
            accuracies=accuracies[0] if accuracies else (),
            samples_per_s=samples_per_s * world,
        )

    def save(self, result: OpenVLATrainResult) -> None:
        """Save the training; the first process writes, all gather."""
        finished = self.step == self.config.steps
        adapter = adapter_tensors(self.model)
        state, optimiser = ({}, {}) if finished else gather(self.model, self.optimiser.optimizer)
        merged = merged_tensors(self.model, self.config.alpha / self.config.rank)
        if self.accelerator.is_main_process:
            meta = {"identity": self.identity, "optimiser": optimiser, "measures": self.measures}
            write_save(self.out, self.context, result, merged, adapter, None if finished else state, meta)
        else:
            deque(merged, maxlen=0)
        self.accelerator.wait_for_everyone()
        self.saved = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, whose options are the fields of OpenVLATrainConfig; the first process reports."""
    parser = argparse.ArgumentParser(prog="rldg_policy.openvla.train", allow_abbrev=False)
    parser.add_argument("dataset", type=Path, help="dataset folder <root>/<name>/<version>")
    parser.add_argument("--base", type=Path, required=True, help="checkpoint to fine-tune")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--camera", help="camera that took the images; required where the dataset does not say it")
    parser.add_argument("--resume", action="store_true", help="continue the unfinished training in --out")
    for name in OpenVLATrainConfig.model_fields:
        parser.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS)
    given = vars(parser.parse_args(arguments))
    places = {name: given.pop(name) for name in ("dataset", "base", "out", "seed", "resume", "camera")}
    try:
        result = finetune(config=validated(OpenVLATrainConfig, given, "options"), **places)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    state = PartialState()
    if state.is_main_process:
        print(json.dumps({**asdict(result), "checkpoint": str(result.checkpoint)}))
    state.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
