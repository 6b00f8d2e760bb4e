"""Adapters of OpenVLA: layers, number of parameters, merged weights, files for peft."""

from __future__ import annotations

import pytest
import torch
from openvla_train_samples import SMALLEST
from peft import PeftModel
from torch import nn

from rldg_policy.openvla.config import OpenVLAConfig
from rldg_policy.openvla.lora import (
    ALPHA,
    PARAMETERS_7B,
    RANK,
    adapter_tensors,
    add_adapters,
    merged_tensors,
    trainable,
    write_adapter,
)
from rldg_policy.openvla.model import OpenVLA, empty_model

torch.set_num_threads(1)
IDS = torch.tensor([[1, 512, 29871], [1, 700, 29871]])
PIXELS = torch.linspace(-1, 1, 2 * 6 * 224 * 224).reshape(2, 6, 224, 224)


def test_7b_model_has_the_published_number_of_trained_parameters():
    model = empty_model(OpenVLAConfig.seven_b(), dtype=torch.bfloat16)
    layers = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    config = add_adapters(model)
    adapted = {name.partition(".lora_")[0] for name in trainable(model)}
    assert sum(parameter.numel() for parameter in trainable(model).values()) == PARAMETERS_7B == 110_828_288
    assert adapted == layers and len(layers) == 439
    assert (config.r, config.lora_alpha, config.lora_dropout) == (RANK, ALPHA, 0.0) == (32, 16, 0.0)
    assert {parameter.dtype for parameter in trainable(model).values()} == {torch.float32}


@pytest.fixture
def adapted() -> tuple[OpenVLA, object]:
    """Return a small model with adapters that change its outputs."""
    torch.manual_seed(0)
    model = OpenVLA(SMALLEST).eval()
    config = add_adapters(model, rank=4, alpha=2, seed=3, base="somewhere")
    for parameter in trainable(model).values():
        nn.init.normal_(parameter, std=0.3)
    return model, config


def test_merged_tensors_equal_the_adapted_model(adapted):
    model, _ = adapted
    before = {name: value.clone() for name, value in model.state_dict().items()}
    merged = dict(merged_tensors(model, 0.5))
    plain = OpenVLA(SMALLEST).eval()
    base_logits = plain(IDS, PIXELS).logits
    plain.load_state_dict(merged)
    with torch.no_grad():
        logits, expected = plain(IDS, PIXELS).logits, model(IDS, PIXELS).logits
    assert torch.allclose(logits, expected, atol=2e-5) and not torch.allclose(logits, base_logits, atol=0.01)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_adapter_files_are_those_of_peft(adapted, tmp_path):
    model, config = adapted
    write_adapter(tmp_path, config, adapter_tensors(model))
    torch.manual_seed(0)
    fresh = PeftModel.from_pretrained(OpenVLA(SMALLEST).eval(), tmp_path)
    with torch.no_grad():
        assert torch.equal(fresh.get_base_model()(IDS, PIXELS).logits, model(IDS, PIXELS).logits)
    assert fresh.peft_config["default"].base_model_name_or_path == "somewhere"


def test_new_adapters_change_no_output_and_depend_on_the_seed():
    torch.manual_seed(0)
    model = OpenVLA(SMALLEST).eval()
    with torch.no_grad():
        logits = model(IDS, PIXELS).logits
        generator = torch.get_rng_state()
        add_adapters(model, seed=1)
        assert torch.equal(torch.get_rng_state(), generator)
        assert torch.equal(model(IDS, PIXELS).logits, logits)

    def first(seed: int) -> torch.Tensor:
        other = OpenVLA(SMALLEST)
        add_adapters(other, seed=seed)
        return trainable(other)["projector.fc1.lora_A.default.weight"]

    assert torch.equal(first(1), trainable(model)["projector.fc1.lora_A.default.weight"])
    assert not torch.equal(first(1), first(2))
    assert float(first(1).detach().std()) == pytest.approx(1 / RANK, rel=0.1)


def test_bfloat16_model_is_merged_in_bfloat16():
    model = OpenVLA(SMALLEST).to(torch.bfloat16)
    weight = model.projector.fc1.weight.clone()
    add_adapters(model, rank=4)
    merged = dict(merged_tensors(model, 0.5))
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    assert torch.equal(merged["projector.fc1.weight"], weight)
