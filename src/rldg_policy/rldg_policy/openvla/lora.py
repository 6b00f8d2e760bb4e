"""Low-rank adapters on every linear layer of OpenVLA, with peft, and what they come to when merged.

peft's `all-linear` leaves out the output layer and the convolutions, without a word; here the layers are named.
Nothing is merged into the model that trains: a merged tensor is computed when it is written.
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
"""Modules that get an adapter: those of upstream's published fine-tunes (vla-scripts/finetune.py, peft 0.11)."""
PARAMETERS_7B = 110_828_288
"""Of rank 32 on OpenVLA-7B."""

_ADAPTER = "default"
_WRAPPED = ".base_layer"
_FILE_PREFIX = "base_model.model."
"""Before the names in adapter_model.safetensors; peft expects it."""


def add_adapters(model: nn.Module, rank: int = RANK, alpha: int = ALPHA, seed: int = 0, base: str = "") -> LoraConfig:
    """Give `model` adapters in place and freeze all else; returns what adapter_config.json says.

    base: folder of the model, for whoever loads the adapters alone. A is Gaussian with deviation 1 / rank, B zero:
    at first the model is what it was. The adapters are float32 even on a bfloat16 model, since AdamW's steps vanish
    in bfloat16.
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
    """Name -> parameter of those that are trained."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Name as peft's files have it -> tensor, of all adapters."""
    return {
        _FILE_PREFIX + name.replace(f".{_ADAPTER}.", "."): whole(parameter)
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }


def write_adapter(folder: Path, config: LoraConfig, tensors: Mapping[str, Tensor]) -> None:
    """adapter_config.json and adapter_model.safetensors, as peft reads them, into a folder that exists."""
    config.save_pretrained(folder)
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP has spread over processes, gathered; every process must call it. Any other one as it is."""
    from torch.distributed.tensor import DTensor

    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def merged_tensors(model: nn.Module, scaling: float) -> Iterator[tuple[str, Tensor]]:
    """(name without adapters, tensor on the CPU) of a model with adapters, W + scaling * B A, one after another.

    The sum is taken in float32 and given the type of W. Under FSDP every process must go through all of it.
    """
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if ".lora_" in name:
            continue
        weight = whole(value)
        module, _, member = name.rpartition(".")
        if module.endswith(_WRAPPED) and member == "weight":
            module = module.removesuffix(_WRAPPED)
            a, b = (whole(state[f"{module}.lora_{side}.{_ADAPTER}.weight"]) for side in "AB")
            # A convolution's B is 1 x 1, so it is a product of matrices, too.
            delta = (b.flatten(1).float() @ a.flatten(1).float()).reshape(weight.shape)
            weight = (weight.float() + scaling * delta).to(weight.dtype)
        yield name.replace(_WRAPPED + ".", "."), weight.cpu()
