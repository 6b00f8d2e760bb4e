"""From prompt and image to normalised actions: `ar`, token after token, or `parallel`, all slots in one pass.

Greedy `ar` takes the likeliest token of the whole vocabulary, as upstream: a model that answers with a word gets the
nearest end of the range. Sampling, and every parallel decision, is among the 256 action tokens alone.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from rldg_policy.openvla.config import ACTION_DIM
from rldg_policy.openvla.model import OpenVLA
from rldg_policy.openvla.tokens import ACTION_BEGIN, VOCABULARY, action_values

Float32 = NDArray[np.float32]


@torch.inference_mode()
def decode_ar(
    model: OpenVLA, input_ids: Tensor, pixel_values: Tensor, generator: torch.Generator | None = None
) -> Float32:
    """One action (1, 7), normalised. input_ids (1, T): <s>, prompt, 29871; generator: sample with it (None: greedy)."""
    return action_values(ar_tokens(model, input_ids, pixel_values, generator).cpu().numpy())


@torch.inference_mode()
def decode_parallel(
    model: OpenVLA,
    input_ids: Tensor,
    pixel_values: Tensor,
    slot_mask: Tensor,
    horizon: int,
    generator: torch.Generator | None = None,
) -> Float32:
    """Actions (H, 7), normalised, of a sequence that ends in H * 7 slots (`tokens.with_slots`); all (1, T).

    A model with an L1 head answers with one value: `generator` is then not used.
    """
    answer = parallel_answer(model, input_ids, pixel_values, slot_mask, horizon, generator)[0].cpu().numpy()
    if model.action_head is None:
        return action_values(answer)
    return answer.astype(np.float32)


def ar_tokens(
    model: OpenVLA, input_ids: Tensor, pixel_values: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Action tokens (B, 7), on the model's device: no step waits for the processor, so a CUDA graph can hold it."""
    llama, head = model.language_model.model, model.language_model.lm_head
    cache = DynamicCache(config=llama.config)
    embeddings = model.embed(input_ids, pixel_values)
    ids: list[Tensor] = []
    for _ in range(ACTION_DIM):
        hidden = llama(inputs_embeds=embeddings, past_key_values=cache, use_cache=True).last_hidden_state
        ids.append(_choose(head(hidden[:, -1]), generator))
        embeddings = llama.embed_tokens(ids[-1][:, None])
    return torch.stack(ids, dim=1)


def parallel_answer(
    model: OpenVLA,
    input_ids: Tensor,
    pixel_values: Tensor,
    slot_mask: Tensor,
    horizon: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Action tokens (B, H, 7), or with an L1 head float32 actions (B, H, 7); on the model's device, as `ar_tokens`."""
    slots = slot_hidden(model, input_ids, pixel_values, slot_mask, horizon)
    if model.action_head is not None:
        actions: Tensor = model.action_head(slots)
        return actions.float().clamp(-1, 1)
    bins = _sample(slot_logits(model, slots).flatten(0, 1), generator)
    return (ACTION_BEGIN + bins).reshape(-1, horizon, ACTION_DIM)


def slot_hidden(model: OpenVLA, input_ids: Tensor, pixel_values: Tensor, slot_mask: Tensor, horizon: int) -> Tensor:
    """Hidden states at the slots (B, H * 7, width); every sequence must end in equally many."""
    hidden = model.hidden(input_ids, pixel_values, slot_mask=slot_mask)
    return hidden[:, -horizon * ACTION_DIM :]


def slot_logits(model: OpenVLA, slots: Tensor) -> Tensor:
    """Logits of the 256 action tokens, in order of id, at hidden states (B, N, width) -> (B, N, 256).

    For serving: an adapter on lm_head, while fine-tuning, would not take part.
    """
    return F.linear(slots, model.language_model.lm_head.weight[ACTION_BEGIN:VOCABULARY])


def _choose(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Logits (B, vocabulary) -> ids (B,)."""
    if generator is None:
        return logits.argmax(-1)
    return ACTION_BEGIN + _sample(logits[:, ACTION_BEGIN:VOCABULARY], generator)


def _sample(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Logits (N, 256) -> bins (N,): the likeliest, or drawn at temperature 1."""
    if generator is None:
        return logits.argmax(-1)
    return torch.multinomial(logits.float().softmax(-1), 1, generator=generator)[:, 0]
