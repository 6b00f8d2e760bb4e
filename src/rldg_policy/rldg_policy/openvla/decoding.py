"""From prompt and image to normalised actions: `ar`, token after token, or `parallel`, all slots in one pass.

Greedy `ar` takes the likeliest token of the whole vocabulary, as upstream. Upstream then moves the arm at full scale
when the model answers with a word, or when its logits are NaN; here neither is an action. Sampling, and every parallel
decision, is among the 256 action tokens alone.
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
from rldg_policy.openvla.tokens import ACTION_BEGIN, VOCABULARY, action_values, is_action

Float32 = NDArray[np.float32]

BROKEN = -1
"""In the place of a token that was chosen from logits which are not finite."""


@torch.inference_mode()
def decode_ar(
    model: OpenVLA, input_ids: Tensor, pixel_values: Tensor, generator: torch.Generator | None = None
) -> Float32:
    """One action (1, 7), normalised. input_ids (1, T): <s>, prompt, 29871; generator: sample with it (None: greedy).

    Raises ValueError when the model answers with anything but seven action tokens.
    """
    return _values(ar_tokens(model, input_ids, pixel_values, generator))


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

    A model with an L1 head answers with one value: `generator` is then not used. Raises ValueError when the answer is
    not finite.
    """
    answer = parallel_answer(model, input_ids, pixel_values, slot_mask, horizon, generator)[0]
    if model.action_head is None:
        return _values(answer)
    values: Float32 = answer.cpu().numpy().astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("the action head's output is not finite")
    return values


def ar_tokens(
    model: OpenVLA, input_ids: Tensor, pixel_values: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Tokens (B, 7), BROKEN where the logits were not finite, on the model's device: no step waits for the processor,
    so a CUDA graph can hold it."""
    llama, head = model.language_model.model, model.language_model.lm_head
    cache = DynamicCache(config=llama.config)
    embeddings = model.embed(input_ids, pixel_values)
    ids: list[Tensor] = []
    for _ in range(ACTION_DIM):
        hidden = llama(inputs_embeds=embeddings, past_key_values=cache, use_cache=True).last_hidden_state
        ids.append(_choose(head(hidden[:, -1]), generator))
        embeddings = llama.embed_tokens(ids[-1][:, None].clamp(min=0))
    return torch.stack(ids, dim=1)


def parallel_answer(
    model: OpenVLA,
    input_ids: Tensor,
    pixel_values: Tensor,
    slot_mask: Tensor,
    horizon: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Tokens (B, H, 7), or with an L1 head float32 actions (B, H, 7), NaN where they are not finite; on the model's
    device, as `ar_tokens`."""
    slots = slot_hidden(model, input_ids, pixel_values, slot_mask, horizon)
    if model.action_head is not None:
        actions: Tensor = model.action_head(slots)
        actions = actions.float()
        return torch.where(actions.isfinite(), actions.clamp(-1, 1), torch.nan)
    return _sample(slot_logits(model, slots).flatten(0, 1), generator).reshape(-1, horizon, ACTION_DIM)


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
        return _marked(logits.argmax(-1), logits)
    return _sample(logits[:, ACTION_BEGIN:VOCABULARY], generator)


def _sample(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Logits (N, 256) of the action tokens -> ids (N,): the likeliest, or drawn at temperature 1."""
    if generator is None:
        return _marked(ACTION_BEGIN + logits.argmax(-1), logits)
    shares = logits.float().nan_to_num(0.0, 0.0, 0.0).softmax(-1)
    return _marked(ACTION_BEGIN + torch.multinomial(shares, 1, generator=generator)[:, 0], logits)


def _marked(ids: Tensor, logits: Tensor) -> Tensor:
    """BROKEN in the place of ids (N,) whose logits (N, K) are not all finite: their arg-max is token 0, or any."""
    return torch.where(logits.isfinite().all(-1), ids, BROKEN)


def _values(ids: Tensor) -> Float32:
    """Tokens (...) -> normalised actions. Raises ValueError where one is none."""
    found = ids.cpu().numpy()
    if (found == BROKEN).any():
        raise ValueError("the logits of the action tokens are not finite")
    if not is_action(found).all():
        raise ValueError(f"the model answers with token {found[~is_action(found)][0]}, which is no action token")
    return action_values(found)
