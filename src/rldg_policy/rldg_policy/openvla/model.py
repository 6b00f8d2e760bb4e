"""OpenVLA: two vision towers, a projector and transformers' Llama, with upstream's parameter names; and its decoding.

`state_dict()` of a model without action head has exactly the tensors of an upstream checkpoint (982 for the 7B).
Sequence: <s>, 256 image tokens, the rest of the prompt, then either the tokens decoded so far (`ar`) or the action
slots (`parallel`): zero embeddings, one per action component, that attend to the prompt and to each other. Slot i
predicts component i itself, so predictions are read at the slots only.

Greedy `ar` decoding takes the most likely token of the whole vocabulary, as upstream. Upstream executes a full-scale
action when this is not an action token or when the logits are NaN; here both raise an error. Sampling and parallel
decoding choose among the 256 action tokens only. The L1 regression head is that of OpenVLA-OFT (moojink/openvla-oft,
action_heads: MLPResNet with two blocks; Kim, Finn, Liang 2025).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from rldg_policy.openvla.config import ACTION_DIM, PATCHES, LanguageConfig, OpenVLAConfig
from rldg_policy.openvla.processing import ACTION_BEGIN, VOCABULARY, action_values, is_action
from rldg_policy.openvla.vision import Projector, VisionBackbone


class ResidualBlock(nn.Module):
    """x + relu(linear(norm(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to (..., width)."""
        return x + F.relu(self.linear(self.norm(x)))


class L1Head(nn.Module):
    """Predicts a normalised action from the hidden states of its seven slots."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(ACTION_DIM * width)
        self.fc_in = nn.Linear(ACTION_DIM * width, width)
        self.blocks = nn.ModuleList([ResidualBlock(width), ResidualBlock(width)])
        self.norm_out = nn.LayerNorm(width)
        self.fc_out = nn.Linear(width, ACTION_DIM)

    def forward(self, hidden: Tensor) -> Tensor:
        """Predict actions (B, H, 7) in [-1, 1] from hidden states (B, H * 7, width)."""
        x = hidden.reshape(len(hidden), -1, self.fc_in.in_features)
        x = F.relu(self.fc_in(self.norm_in(x)))
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.fc_out(self.norm_out(x))
        return out


class Output(NamedTuple):
    """logits (B, 256 + T, vocabulary); hidden (B, 256 + T, width): output of the last norm, before lm_head."""

    logits: Tensor
    hidden: Tensor


class OpenVLA(nn.Module):
    """The model. action_head: L1 head of OpenVLA-OFT (None: action tokens)."""

    def __init__(self, config: OpenVLAConfig, l1_head: bool = False) -> None:
        super().__init__()
        self.config = config
        self.vision_backbone = VisionBackbone(config.dino, config.siglip)
        self.projector = Projector(config.vision_width, config.language.hidden_size)
        self.language_model = LlamaForCausalLM(llama_config(config.language))
        self.action_head = L1Head(config.language.hidden_size) if l1_head else None

    def embed(self, input_ids: Tensor, pixel_values: Tensor, slot_mask: Tensor | None = None) -> Tensor:
        """Embed ids (B, T), starting with <s>, and images (B, 6, 224, 224) to (B, 256 + T, width).

        slot_mask (B, T) bool: action slots; their embedding is zero, whatever their id.
        """
        tokens = self.language_model.get_input_embeddings()(input_ids)
        if slot_mask is not None:
            tokens = tokens.masked_fill(slot_mask[..., None], 0.0)
        image = self.projector(self.vision_backbone(pixel_values))
        return torch.cat([tokens[:, :1], image, tokens[:, 1:]], dim=1)

    def hidden(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        slot_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the output of the last norm (B, 256 + T, width); arguments as in `forward`."""
        embeddings = self.embed(input_ids, pixel_values, slot_mask)
        if slot_mask is not None:
            valid = torch.ones_like(slot_mask) if attention_mask is None else attention_mask.bool()
            mask: Tensor | None = slot_attention(with_image(valid, True), with_image(slot_mask, False))
        else:
            mask = None if attention_mask is None else with_image(attention_mask.bool(), True)
        hidden: Tensor = self.language_model.model(
            inputs_embeds=embeddings, attention_mask=mask, use_cache=False
        ).last_hidden_state
        return hidden

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        slot_mask: Tensor | None = None,
    ) -> Output:
        """Run one pass over complete sequences.

        input_ids, attention_mask (False: padding on the right; None: there is none), slot_mask (None: there are no
        slots): (B, T); pixel_values (B, 6, 224, 224). Token t > 0 is at position 256 + t of the output, so
        logits[:, 256:-1] predict input_ids[:, 1:]; a slot is predicted by the logits at its own position.
        """
        hidden = self.hidden(input_ids, pixel_values, attention_mask, slot_mask)
        return Output(self.language_model.lm_head(hidden), hidden)


def with_image(mask: Tensor, value: bool) -> Tensor:
    """Insert the 256 image positions after <s>: (B, T) bool -> (B, 256 + T) bool."""
    image = torch.full((len(mask), PATCHES), value, dtype=torch.bool, device=mask.device)
    return torch.cat([mask[:, :1], image, mask[:, 1:]], dim=1)


def slot_attention(valid: Tensor, slots: Tensor) -> Tensor:
    """Return the attention mask (B, 1, S, S) bool: which position (row) attends to which (column).

    Causal, and slots attend to all slots of their sequence; nothing attends to padding except padding to itself, so
    that no row is empty. valid, slots: (B, S) bool.
    """
    count = valid.shape[1]
    causal = torch.ones(count, count, dtype=torch.bool, device=valid.device).tril()
    both_slots = slots[:, :, None] & slots[:, None, :]
    itself = torch.eye(count, dtype=torch.bool, device=valid.device)
    return (((causal | both_slots) & valid[:, None, :]) | itself)[:, None]


def llama_config(language: LanguageConfig) -> Any:
    """Return transformers' configuration of the language model, with torch's fused attention."""
    return LlamaConfig(
        **language.model_dump(exclude={"rope_theta", "rope_scaling"}),
        rope_parameters={"rope_type": "default", "rope_theta": language.rope_theta},
        pad_token_id=32000,
        attn_implementation="sdpa",
    )


def empty_model(
    config: OpenVLAConfig, l1_head: bool = False, dtype: torch.dtype = torch.float32, device: str = "meta"
) -> OpenVLA:
    """Return a model with uninitialised tensors; on "meta" (default) they take no memory.

    `load_state_dict(..., assign=True)` and `place_buffers` turn a meta model into a real one.
    """
    with torch.device("meta"):
        model = OpenVLA(config, l1_head)
    model = model.to(dtype).eval()
    if device != "meta":
        model = model.to_empty(device=device)
        place_buffers(model, device)
    return model


def place_buffers(model: OpenVLA, device: str) -> None:
    """Compute the rotary frequencies, which are not in checkpoints, on `device` (float32 for all weight types)."""
    language = model.language_model.model
    with torch.device(device):
        language.rotary_emb = LlamaRotaryEmbedding(config=language.config)


def parameter_count(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters())


Float32 = NDArray[np.float32]

INVALID_TOKEN = -1
"""Stands for a token chosen from logits that are not finite."""


@torch.inference_mode()
def decode_ar(
    model: OpenVLA, input_ids: Tensor, pixel_values: Tensor, generator: torch.Generator | None = None
) -> Float32:
    """Decode one normalised action (1, 7). input_ids (1, T): <s>, prompt, 29871; generator: None for greedy decoding.

    Raises ValueError when the model predicts a token that is not an action token.
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
    """Decode normalised actions (H, 7) of a sequence that ends in H * 7 slots (`with_slots`); inputs are (1, T).

    With an L1 head, `generator` is not used. Raises ValueError when the prediction is not finite.
    """
    predicted = parallel_prediction(model, input_ids, pixel_values, slot_mask, horizon, generator)[0]
    if model.action_head is None:
        return _values(predicted)
    values: Float32 = predicted.cpu().numpy().astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("the action head's output is not finite")
    return values


def ar_tokens(
    model: OpenVLA, input_ids: Tensor, pixel_values: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Decode tokens (B, 7) on the model's device, INVALID_TOKEN where the logits are not finite.

    No step synchronises with the CPU, so a CUDA graph can capture it.
    """
    llama, head = model.language_model.model, model.language_model.lm_head
    cache = DynamicCache(config=llama.config)
    embeddings = model.embed(input_ids, pixel_values)
    ids: list[Tensor] = []
    for _ in range(ACTION_DIM):
        hidden = llama(inputs_embeds=embeddings, past_key_values=cache, use_cache=True).last_hidden_state
        ids.append(_choose(head(hidden[:, -1]), generator))
        embeddings = llama.embed_tokens(ids[-1][:, None].clamp(min=0))
    return torch.stack(ids, dim=1)


def parallel_prediction(
    model: OpenVLA,
    input_ids: Tensor,
    pixel_values: Tensor,
    slot_mask: Tensor,
    horizon: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Predict tokens (B, H, 7), or with an L1 head float32 actions (B, H, 7), NaN where they are not finite.

    The result is on the model's device, as in `ar_tokens`.
    """
    slots = slot_hidden(model, input_ids, pixel_values, slot_mask, horizon)
    if model.action_head is not None:
        actions: Tensor = model.action_head(slots)
        actions = actions.float()
        return torch.where(actions.isfinite(), actions.clamp(-1, 1), torch.nan)
    return _sample(slot_logits(model, slots).flatten(0, 1), generator).reshape(-1, horizon, ACTION_DIM)


def slot_hidden(model: OpenVLA, input_ids: Tensor, pixel_values: Tensor, slot_mask: Tensor, horizon: int) -> Tensor:
    """Return the hidden states at the slots (B, H * 7, width); all sequences must end in the same number of slots."""
    hidden = model.hidden(input_ids, pixel_values, slot_mask=slot_mask)
    return hidden[:, -horizon * ACTION_DIM :]


def slot_logits(model: OpenVLA, slots: Tensor) -> Tensor:
    """Return the logits (B, N, 256) of the action tokens, in order of id, for hidden states (B, N, width).

    For inference only: a LoRA adapter on lm_head is not applied.
    """
    return F.linear(slots, model.language_model.lm_head.weight[ACTION_BEGIN:VOCABULARY])


def _choose(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Choose token ids (B,) from logits (B, vocabulary)."""
    if generator is None:
        return _mark_invalid(logits.argmax(-1), logits)
    return _sample(logits[:, ACTION_BEGIN:VOCABULARY], generator)


def _sample(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Choose token ids (N,) from logits (N, 256) of action tokens: the most likely, or sampled at temperature 1."""
    if generator is None:
        return _mark_invalid(ACTION_BEGIN + logits.argmax(-1), logits)
    shares = logits.float().nan_to_num(0.0, 0.0, 0.0).softmax(-1)
    return _mark_invalid(ACTION_BEGIN + torch.multinomial(shares, 1, generator=generator)[:, 0], logits)


def _mark_invalid(ids: Tensor, logits: Tensor) -> Tensor:
    """Replace ids (N,) whose logits (N, K) are not all finite, because their arg-max is arbitrary."""
    return torch.where(logits.isfinite().all(-1), ids, INVALID_TOKEN)


def _values(ids: Tensor) -> Float32:
    """Convert tokens (...) to normalised actions. Raises ValueError when one is not an action token."""
    found = ids.cpu().numpy()
    if (found == INVALID_TOKEN).any():
        raise ValueError("the logits of the action tokens are not finite")
    if not is_action(found).all():
        raise ValueError(f"the model predicts token {found[~is_action(found)][0]}, which is not an action token")
    return action_values(found)
