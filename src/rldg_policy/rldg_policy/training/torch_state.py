"""Training state of a torch model on disk: `state.safetensors` and `state.json`, in a folder written atomically."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rldg_core.errors import UserError
from rldg_core.files import check_regular, read_json, write_json, writing_aside

TENSORS_FILE = "state.safetensors"
META_FILE = "state.json"
_PREFIX = "optimizer"


@dataclass(frozen=True)
class TrainingState:
    """step: optimiser steps done; tensors: parameters, optimiser and generators; meta: JSON values."""

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def write_state(folder: Path, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Replace the folder with this state, atomically. Raises UserError when the disk is full."""
    with writing_aside(folder) as aside:
        aside.mkdir()
        save_file({name: value.detach().contiguous() for name, value in tensors.items()}, aside / TENSORS_FILE)
        write_json(aside / META_FILE, {"step": step, "meta": dict(meta)})


def read_state(folder: Path) -> TrainingState:
    """Read what `write_state` wrote. Raises UserError naming the file that is missing or damaged."""
    data = read_json(folder / META_FILE)
    if not isinstance(data, dict) or not isinstance(data.get("step"), int) or not isinstance(data.get("meta"), dict):
        raise UserError(f"{folder / META_FILE}: not a training state")
    tensors = load_tensors(folder / TENSORS_FILE)
    check_finite(folder / TENSORS_FILE, tensors.items())
    return TrainingState(data["step"], tensors, data["meta"])


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors onto the CPU. Raises UserError naming the file."""
    check_regular(path)
    try:
        tensors: dict[str, Tensor] = load_file(path)  # bounded: checked above
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file: {' '.join(str(error).split())[:200]}") from error
    return tensors


def check_finite(where: object, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raise UserError `where: tensor: ...` on the first floating-point tensor that holds NaN or Inf."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{where}: {name} holds a value that is not finite: the weights are invalid")


def generator_tensors() -> dict[str, Tensor]:
    """Return the state of torch's global random generators: of the CPU and of every CUDA device."""
    found = {"generator.cpu": torch.get_rng_state()}
    for index in range(torch.cuda.device_count()):
        found[f"generator.cuda.{index}"] = torch.cuda.get_rng_state(index)
    return found


def restore_generators(tensors: Mapping[str, Tensor]) -> None:
    """Restore what `generator_tensors` returned; devices that are not in it are unchanged."""
    torch.set_rng_state(tensors["generator.cpu"])
    for index in range(torch.cuda.device_count()):
        if f"generator.cuda.{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"generator.cuda.{index}"], index)


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors named optimizer.<parameter>.<member>, everything else as JSON)."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for index, members in state["state"].items():
        for name, value in members.items():
            if isinstance(value, Tensor):
                tensors[f"{_PREFIX}.{index}.{name}"] = value
            else:
                values.setdefault(str(index), {})[name] = value
    return tensors, {"values": values, "groups": state["param_groups"]}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Restore what `flatten_optimizer` returned. Raises UserError when the parameters differ."""
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in meta["values"].items()}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == _PREFIX:
            index, _, member = rest.partition(".")
            # Cloned, because the optimiser updates its state in place.
            state.setdefault(int(index), {})[member] = value.clone()
    try:
        optimizer.load_state_dict({"state": state, "param_groups": meta["groups"]})
    except (KeyError, ValueError) as error:
        raise UserError(f"the training state belongs to another model: {' '.join(str(error).split())}") from error
    for parameter, members in optimizer.state.items():
        if "exp_avg" in members and members["exp_avg"].shape != parameter.shape:
            raise UserError("the training state belongs to another model: the shapes of the optimiser's moments differ")
