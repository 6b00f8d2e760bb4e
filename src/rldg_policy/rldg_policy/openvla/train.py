"""Fine-tuning of OpenVLA with LoRA, in one process or several (Accelerate: DDP, FSDP).

Source of the procedure: openvla vla-scripts/finetune.py. This one saves after optimiser steps, never inside one, and
goes on after an interruption as if there had been none. Several GPUs:

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

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs

from rldg_core.configuration import validated
from rldg_core.errors import UserError
from rldg_core.seeding import derive_seed
from rldg_policy.generalist import Progress
from rldg_policy.openvla.batch import Batch, Collator
from rldg_policy.openvla.config import OpenVLATrainConfig
from rldg_policy.openvla.lora import adapter_tensors, merged_tensors, trainable, whole
from rldg_policy.openvla.objective import Objective
from rldg_policy.openvla.report import OpenVLATrainResult
from rldg_policy.openvla.resume import gather, restore
from rldg_policy.openvla.saving import Contents, remove_leftovers, write_save
from rldg_policy.openvla.starting import read_start, uses_bfloat16
from rldg_policy.training.dataset import TrainingSet, open_training_set
from rldg_policy.training.folders import TRAINING_FOLDER, check_base, check_out
from rldg_policy.training.guards import check_loss, check_same_training, explain_out_of_memory, training_identity
from rldg_policy.training.report import curve
from rldg_policy.training.samples import batches, stream_samples
from rldg_policy.training.torch_state import read_state

ADVICE = (
    "lower batch and raise accumulation by as much, turn gradient checkpointing on, lower shuffle_buffer (main "
    "memory), or shard the model over several GPUs (config/accelerate/fsdp.yaml)"
)
FREE = {"steps", "save_every"}
"""What may change when a training is resumed."""


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
    """Fine-tune the checkpoint `base` on an RLDS dataset `<root>/<name>/<version>`; `out` is a checkpoint afterwards,
    and from the first save on.

    resume: go on from the last save in `out`, with the same dataset, base, configuration and seed; the result is that
    of an uninterrupted run, on a CPU bit for bit. camera: see `open_training_set`. Under `accelerate launch` every
    process calls this. Raises UserError on what cannot be used, on a loss that is not finite, and when memory does not
    suffice.
    """
    check_out(out, "openvla", base, resume=resume)
    base = check_base(base, "openvla")
    with explain_out_of_memory(ADVICE):
        training = Training(open_training_set(dataset, camera), base, out, config, seed)
        if resume:
            training.resume()
        return training.run(progress)


class Training:
    """Everything that one process needs: model, optimiser, data, and where it stands."""

    def __init__(self, data: TrainingSet, base: Path, out: Path, config: OpenVLATrainConfig, seed: int) -> None:
        self.out, self.config = out, config
        self.accelerator = Accelerator(
            # Autocast is this module's own, so that adapters stay float32 under FSDP, too.
            mixed_precision="no",
            # SigLIP's pooling and the last vision blocks have adapters, as upstream's, and are never run.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.device = self.accelerator.device
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bfloat16(config, self.device))
        start = read_start(base, config, seed, self.device)
        for instruction in data.instructions:
            start.tokenizer(instruction)
        self.contents = Contents(data, start, config, seed)
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
        """Go to where the state in `out` stands. Raises UserError when it is of another training."""
        folder = self.out / TRAINING_FOLDER
        state = read_state(folder)
        if self.accelerator.is_main_process:
            remove_leftovers(self.out)
        check_same_training(folder, state.meta.get("identity", {}), self.identity)
        if state.step >= self.config.steps:
            raise UserError(f"steps: {self.config.steps}, but {folder} has done {state.step} already")
        restore(state, self.model, self.optimiser.optimizer, folder)
        self.measures = state.meta["measures"]
        self.step = state.step
        self.saved = True

    def run(self, progress: Progress | None) -> OpenVLATrainResult:
        """Train to the end, saving on the way."""
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
        """This process's share of the shuffled data, without the `skip` samples that it has had."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        samples = stream_samples(
            self.contents.data.dataset,
            horizon=self.config.horizon,
            buffer=self.config.shuffle_buffer,
            seed=derive_seed(self.contents.seed, "samples"),
            skip=skip,
            rank=rank,
            world=world,
        )
        numbers = count(skip * world + rank, world)
        for group in batches(samples, self.config.batch):
            yield self.collate(group, list(islice(numbers, len(group)))).to(self.device)

    def optimise(self, micro_batches: list[Batch]) -> list[float]:
        """One optimiser step. Returns loss, L1 and, for tokens, accuracy: means over all processes.

        Raises UserError when loss or gradient is not finite; the weights are then those of the step before.
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
        # A gradient that is not finite would spoil the weights while this step's loss still looks well.
        finite = math.isfinite(self.clip())
        check_loss(self.step + 1, measured[0] if finite else math.nan, self.out if self.saved else None)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return measured[:2] if self.model.action_head is not None else measured

    def clip(self) -> float:
        """Norm of the gradient, before it is clipped to config.clip_norm."""
        parameters = [p for p in trainable(self.model).values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.clip_norm, norm)
        return float(whole(norm))

    def result(self, samples_per_s: float) -> OpenVLATrainResult:
        """What there is to say now; samples_per_s: of this process."""
        world = self.accelerator.num_processes
        losses, l1s, *accuracies = map(curve, zip(*self.measures, strict=True))
        return OpenVLATrainResult(
            checkpoint=self.out,
            steps=self.step,
            samples=self.step * self.config.batch * self.config.accumulation * world,
            episodes=self.contents.data.episodes,
            trained=sum(parameter.numel() for parameter in trainable(self.model).values()),
            processes=world,
            losses=losses,
            l1s=l1s,
            accuracies=accuracies[0] if accuracies else (),
            samples_per_s=samples_per_s * world,
        )

    def save(self, result: OpenVLATrainResult) -> None:
        """Write everything that there is at this step; the first process writes, all gather."""
        finished = self.step == self.config.steps
        adapter = adapter_tensors(self.model)
        state, optimiser = ({}, {}) if finished else gather(self.model, self.optimiser.optimizer)
        merged = merged_tensors(self.model, self.config.alpha / self.config.rank)
        if self.accelerator.is_main_process:
            meta = {"identity": self.identity, "optimiser": optimiser, "measures": self.measures}
            write_save(self.out, self.contents, result, merged, adapter, None if finished else state, meta)
        else:
            deque(merged, maxlen=0)
        self.accelerator.wait_for_everyone()
        self.saved = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; its options are the members of OpenVLATrainConfig. Of several processes the first one reports."""
    parser = argparse.ArgumentParser(prog="rldg_policy.openvla.train", allow_abbrev=False)
    parser.add_argument("dataset", type=Path, help="dataset folder <root>/<name>/<version>")
    parser.add_argument("--base", type=Path, required=True, help="checkpoint that is fine-tuned")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--camera", help="camera that took the images, where the dataset does not say it")
    parser.add_argument("--resume", action="store_true", help="go on with the unfinished training in --out")
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
