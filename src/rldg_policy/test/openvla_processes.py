"""Processes that train together over gloo, forked because importing torch again takes longer than the training.

Accelerate offers FSDP on accelerators only, while torch shards on any device: `Sharding` sets what Accelerate would set
on GPUs, from the shipped configuration.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from generalist_samples import Stopped
from torch.distributed.tensor import DTensor

from rldg_policy.openvla import train

CONFIGURATIONS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "accelerate"


class Sharding(Accelerator):
    """Sharding as on GPUs with fsdp.yaml."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        values = yaml.safe_load((CONFIGURATIONS / "fsdp.yaml").read_text())["fsdp_config"]
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=values["fsdp_version"],
            auto_wrap_policy=values["fsdp_auto_wrap_policy"],
            transformer_cls_names_to_wrap=values["fsdp_transformer_layer_cls_to_wrap"].split(","),
            reshard_after_forward=values["fsdp_reshard_after_forward"],
            cpu_ram_efficient_loading=values["fsdp_cpu_ram_efficient_loading"],
        )
        self.state.distributed_type = DistributedType.FSDP


class ShardedTraining(train.Training):
    """Checks that weights are sharded layer by layer; ends after the save at `last_step`."""

    last_step = 1

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        layer = self.model.language_model.model.layers[0]
        assert type(layer).__name__.startswith("FSDP")
        assert all(isinstance(parameter, DTensor) for parameter in self.model.parameters())

    def save(self, result) -> None:
        super().save(result)
        if self.step == self.last_step:
            raise Stopped


def ddp_then_fsdp(dataset: Path, base: Path, ddp: Path, fsdp: Path, config) -> None:
    """Train with DDP, then with FSDP, interrupted after step 1 and resumed."""
    train.finetune(dataset, ddp, config, base=base, seed=1)
    train.Accelerator, train.Training = Sharding, ShardedTraining
    for resume in (False, True):
        with suppress(Stopped):
            train.finetune(dataset, fsdp, config, base=base, seed=1, resume=resume)
        ShardedTraining.last_step = 0
    torch.distributed.destroy_process_group()


def start(work: Callable[[], None], world: int) -> list[int]:
    """Fork `world` processes that do `work`, with the environment of `accelerate launch`; return their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [_fork(work, {"RANK": rank, "LOCAL_RANK": rank}, world, port) for rank in map(str, range(world))]


def _fork(work: Callable[[], None], rank: dict[str, str], world: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ |= rank | {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "ACCELERATE_USE_CPU": "true"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
