"""Low-rank adapters (LoRA, with peft) on every linear layer of OpenVLA, and their merged weights.

peft's `all-linear` omits the output layer and the convolutions, so the layers are named here. The model in training is
never merged: merged tensors are computed when they are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from rldg_core.seeding import derive_seed

RANK = 32
ALPHA = 16
TARGETS = (
    r"language_model\.lm_head"
    r"|language_model\.model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    r"|projector\.fc[123]"
    r"|vision_backbone\.(fused_)?featurizer\."
    r"(patch_embed\.proj|blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])|attn_pool\.(q|kv|proj|mlp\.fc[12]))"
)
"""Modules with an adapter, as in upstream's published fine-tunes (vla-scripts/finetune.py, peft 0.11)."""
PARAMETERS_7B = 110_828_288
"""Parameters of the adapters of rank 32 on OpenVLA-7B."""

_ADAPTER = "default"
_WRAPPED = ".base_layer"
_FILE_PREFIX = "base_model.model."
"""Prefix of the names in adapter_model.safetensors, which peft expects."""


def add_adapters(model: nn.Module, rank: int = RANK, alpha: int = ALPHA, seed: int = 0, base: str = "") -> LoraConfig:
    """Add adapters to `model` in place and freeze all other parameters; return the content of adapter_config.json.

    base: folder of the model, for loading the adapters alone. A is Gaussian with deviation 1 / rank and B is zero, so
    that the model is unchanged at first. Adapters are float32 even on a bfloat16 model, because the steps of AdamW are
    rounded away in bfloat16.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        init_lora_weights="gaussian",
        target_modules=TARGETS,
        base_model_name_or_path=base,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "lora"))
        inject_adapter_in_model(config, model)
    for parameter in trainable(model).values():
        parameter.data = parameter.data.float()
    return config


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return name -> parameter of the trained parameters."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of all adapters by their names in peft's files."""
    return {
        _FILE_PREFIX + name.replace(f".{_ADAPTER}.", "."): full_tensor(parameter)
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }


def write_adapter(folder: Path, config: LoraConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write adapter_config.json and adapter_model.safetensors, as peft reads them, into an existing folder."""
    config.save_pretrained(folder)
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a tensor that FSDP has sharded; every process must call this. Other tensors are returned unchanged."""
    from torch.distributed.tensor import DTensor

    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def merged_tensors(model: nn.Module, scaling: float) -> Iterator[tuple[str, Tensor]]:
    """Yield (name without adapters, merged tensor W + scaling * B A on the CPU).

    The sum is computed in float32 and converted to the dtype of W. Under FSDP every process must consume the iterator.
    """
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if ".lora_" in name:
            continue
        weight = full_tensor(value)
        module, _, member = name.rpartition(".")
        if module.endswith(_WRAPPED) and member == "weight":
            module = module.removesuffix(_WRAPPED)
            a, b = (full_tensor(state[f"{module}.lora_{side}.{_ADAPTER}.weight"]) for side in "AB")
            # The B of a convolution is 1 x 1, so this is a matrix product as well.
            delta = (b.flatten(1).float() @ a.flatten(1).float()).reshape(weight.shape)
            weight = (weight.float() + scaling * delta).to(weight.dtype)
        yield name.replace(_WRAPPED + ".", "."), weight.cpu()
