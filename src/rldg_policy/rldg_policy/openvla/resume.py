"""Training state of OpenVLA: adapters, head, optimiser, generators, position in the data; and what it belongs to."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from rldg_core.errors import UserError
from rldg_policy.openvla.lora import trainable, whole
from rldg_policy.training.torch_state import (
    TrainingState,
    flatten_optimizer,
    generator_tensors,
    restore_generators,
    restore_optimizer,
)

_PARAMETER = "parameter."


def gather(model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors on the CPU, JSON of the optimiser). Under FSDP every process must call it."""
    tensors = {_PARAMETER + name: parameter.detach() for name, parameter in trainable(model).items()}
    moments, values = flatten_optimizer(optimiser)
    gathered = {name: whole(tensor).cpu() for name, tensor in {**tensors, **moments}.items()}
    return {**gathered, **generator_tensors()}, values


def restore(state: TrainingState, model: nn.Module, optimiser: torch.optim.Optimizer, where: Path) -> None:
    """Inverse of `gather`. Raises UserError `where: reason` when the state belongs to another model."""
    parameters = trainable(model)
    found = {n.removeprefix(_PARAMETER): t for n, t in state.tensors.items() if n.startswith(_PARAMETER)}
    for name in {*parameters, *found}:
        if name not in parameters or name not in found or parameters[name].shape != found[name].shape:
            raise UserError(f"{where}: {name}: the state is of another model")
    with torch.no_grad():
        for name, trained in parameters.items():
            trained.copy_(spread(found[name], trained))
    restore_optimizer(optimiser, state.tensors, state.meta["optimiser"])
    for parameter, members in optimiser.state.items():
        for member, value in members.items():
            if value.shape == parameter.shape:
                members[member] = spread(value, parameter)
    restore_generators(state.tensors)


def spread(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` on the device of `like`, and, where FSDP holds only a part of `like`, that part of it."""
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


def fingerprint(model: nn.Module) -> str:
    """Names the weights that training starts from, by the first numbers of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.flatten()[:16].float().cpu().numpy().tobytes())
    return digest.hexdigest()
