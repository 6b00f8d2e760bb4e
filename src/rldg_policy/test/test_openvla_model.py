"""The port equals upstream: names, shapes, vision features, logits, actions; properties of the decoding."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from golden_references import OPENVLA_7B_TENSORS, tensor_shapes
from golden_references import reference as golden_reference
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rldg_policy.checkpoint.statistics import choose_statistics
from rldg_policy.openvla.config import OpenVLAConfig
from rldg_policy.openvla.model import (
    OpenVLA,
    ar_tokens,
    decode_ar,
    decode_parallel,
    empty_model,
    parallel_prediction,
    parameter_count,
    place_buffers,
    slot_attention,
    slot_hidden,
    slot_logits,
)
from rldg_policy.openvla.processing import PAD, SPACE, action_values, inference_ids, with_slots

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def reference():
    return golden_reference("openvla")


@pytest.fixture
def golden(openvla_golden) -> OpenVLA:
    tensors = load_file(openvla_golden / "model.safetensors")
    values = json.loads((openvla_golden / "config.json").read_text())
    config = OpenVLAConfig.read(values, {k: tuple(v.shape) for k, v in tensors.items()}, "golden")
    model = empty_model(config)
    model.load_state_dict(tensors, assign=True)
    place_buffers(model, "cpu")
    return model


@pytest.fixture(scope="module")
def model() -> OpenVLA:
    """Return a tiny model with an L1 head; its weights are large enough for positions and ids to matter."""
    model = empty_model(OpenVLAConfig.tiny(), l1_head=True, device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.0, 0.1, generator=generator)
    return model


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(1, 6, 224, 224, generator=torch.Generator().manual_seed(1))


def test_7b_model_has_exactly_the_tensors_of_upstream():
    model = empty_model(OpenVLAConfig.seven_b())
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == tensor_shapes(OPENVLA_7B_TENSORS)
    assert len(model.state_dict()) == 982
    assert parameter_count(model) == 7_541_237_184


def test_golden_configuration_is_the_tiny_one(golden):
    assert golden.config == OpenVLAConfig.tiny()


@torch.inference_mode()
def test_vision_features_and_logits_equal_the_reference(golden, reference):
    pixels, ids = torch.from_numpy(reference["pixel_values"]), torch.from_numpy(reference["input_ids"])
    features = golden.vision_backbone(pixels)
    # float32 sums depend on the processor: between two of them, values of 12 differed by 1.05e-5.
    np.testing.assert_allclose(features.numpy(), reference["vision_features"], rtol=1e-6, atol=1e-5)
    logits = golden(ids, pixels).logits
    assert logits.shape == (1, 276, 32064)
    last = logits[:, -24:].numpy()
    np.testing.assert_allclose(last[..., ::16], reference["logits"], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(last[..., 31744:32000], reference["action_logits"], rtol=1e-6, atol=1e-5)


def test_action_equals_the_reference(golden, reference, openvla_golden):
    """The reference's ids lack the id 29871 that upstream's predict_action appends."""
    assert reference["input_ids"][0, -1] != SPACE
    ids = torch.from_numpy(inference_ids(reference["input_ids"][0].tolist())[None])
    # Random weights answer with words: upstream takes the nearest action, and decode_ar refuses them.
    normalised = action_values(ar_tokens(golden, ids, torch.from_numpy(reference["pixel_values"])).numpy())
    with pytest.raises(ValueError, match=r"the model predicts token \d+, which is not an action token"):
        decode_ar(golden, ids, torch.from_numpy(reference["pixel_values"]), None)
    key, statistics = choose_statistics(openvla_golden, None)
    assert key == "rldg_demo"
    np.testing.assert_allclose(statistics.bounds_denormalise(normalised)[0], reference["action"], rtol=0, atol=1e-6)


def test_action_of_a_model_that_answers_with_action_tokens_equals_the_reference(golden, reference, openvla_golden):
    """As in the reference, the rows of all other ids in lm_head are zero."""
    with torch.no_grad():
        golden.language_model.lm_head.weight[:31744] = 0.0
        golden.language_model.lm_head.weight[32000:] = 0.0
    ids = torch.from_numpy(inference_ids(reference["input_ids"][0].tolist())[None])
    pixels = torch.from_numpy(reference["pixel_values"])
    assert ar_tokens(golden, ids, pixels)[0].tolist() == reference["action_ids"].tolist()
    _, statistics = choose_statistics(openvla_golden, None)
    denormalised = statistics.bounds_denormalise(decode_ar(golden, ids, pixels, None))
    np.testing.assert_allclose(denormalised[0], reference["action_of_ids"], rtol=0, atol=1e-6)


def ids_of(count: int) -> np.ndarray:
    return inference_ids([1, *range(300, 300 + count)])


def test_cached_decoding_equals_full_passes(model, image):
    """Each token is the arg-max after the previous ones, computed without a cache."""
    ids = torch.from_numpy(ids_of(5)[None])
    decoded = ar_tokens(model, ids, image)
    for component in range(7):
        with torch.inference_mode():
            token = model(ids, image).logits[:, -1].argmax(-1)
        assert token[0] == decoded[0, component]
        ids = torch.cat([ids, token[:, None]], dim=1)


def test_sampling_repeats_with_its_seed_and_returns_action_tokens(model, image):
    ids = torch.from_numpy(ids_of(5)[None])
    drawn = [decode_ar(model, ids, image, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert len(np.unique(drawn[0])) > 1


def test_padding_does_not_change_the_output(model, image):
    ids = torch.from_numpy(ids_of(6)[None])
    padded = torch.cat([ids, torch.full((1, 4), PAD)], dim=1)
    with torch.inference_mode():
        alone = model(ids, image).logits
        with_padding = model(padded, image, padded != PAD).logits[:, : alone.shape[1]]
    torch.testing.assert_close(alone, with_padding, rtol=0, atol=1e-4)


def test_slots_attend_to_the_prompt_and_each_other_and_the_prompt_not_to_slots():
    valid = torch.tensor([[True, True, True, True, False]])
    slots = torch.tensor([[False, False, True, True, False]])
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]
    assert slot_attention(valid, slots)[0, 0].int().tolist() == expected


def test_slots_depend_on_slot_positions_but_not_on_their_ids(model, image):
    plain, slots = with_slots(ids_of(4), 2)
    other = np.where(slots, 500, plain)
    mask = torch.from_numpy(slots[None])
    with torch.inference_mode():
        states = [slot_hidden(model, torch.from_numpy(ids[None]), image, mask, 2) for ids in (plain, other)]
    assert states[0].shape == (1, 14, 96)
    assert torch.equal(*states)
    assert not torch.allclose(
        states[0][:, 0], states[0][:, 1], rtol=0, atol=2e-5
    )  # only their positions distinguish them


def test_earlier_slots_attend_to_later_ones(model, image):
    """A longer chunk changes the state of the first slot, which a causal mask would prevent."""
    first = []
    for horizon in (1, 2):
        ids, slots = with_slots(ids_of(4), horizon)
        with torch.inference_mode():
            state = slot_hidden(model, torch.from_numpy(ids[None]), image, torch.from_numpy(slots[None]), horizon)
        first.append(state[:, 0])
    assert not torch.allclose(*first, atol=1e-4)


def test_parallel_decoding_with_bins_and_with_the_head(model, image):
    ids, slots = (torch.from_numpy(x[None]) for x in with_slots(ids_of(4), 2))
    continuous = decode_parallel(model, ids, image, slots, 2)
    assert continuous.shape == (2, 7)
    head, model.action_head = model.action_head, None
    try:
        greedy = decode_parallel(model, ids, image, slots, 2)
        drawn = [decode_parallel(model, ids, image, slots, 2, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
        with torch.inference_mode():
            states = slot_hidden(model, ids, image, slots, 2)
            logits = slot_logits(model, states)[0]
            whole = model(ids, image, slot_mask=slots).logits[0, -14:, 31744:32000]
    finally:
        model.action_head = head
    torch.testing.assert_close(logits, whole)
    centres = (np.linspace(-1, 1, 256)[1:] + np.linspace(-1, 1, 256)[:-1]) / 2
    np.testing.assert_allclose(greedy.ravel(), centres[np.clip(255 - logits.argmax(-1).numpy(), 0, 254)], atol=1e-7)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert not np.allclose(continuous, greedy)


class NoTensorOnTheCpu(TorchDispatchMode):
    """Fails on an operation that reads or creates a tensor on the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        assert all(t.device.type == "meta" for t in tensors), func
        return out


def test_decoding_neither_waits_for_values_nor_copies_between_devices():
    """A CUDA graph can capture it: tensors without values pass, and nothing is copied from or to the CPU."""
    model = empty_model(OpenVLAConfig.tiny(), True, torch.bfloat16)
    ids = torch.ones(1, 40, dtype=torch.int64, device="meta")
    pixels = torch.zeros(1, 6, 224, 224, dtype=torch.bfloat16, device="meta")
    with NoTensorOnTheCpu(), torch.no_grad():
        assert ar_tokens(model, ids, pixels).shape == (1, 7)
        assert parallel_prediction(model, ids, pixels, ids.bool(), 2).shape == (1, 2, 7)
        model.action_head = None
        assert parallel_prediction(model, ids, pixels, ids.bool(), 2).shape == (1, 2, 7)
