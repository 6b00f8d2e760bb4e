"""OpenVLA: two vision towers, a projector, and transformers' Llama, under upstream's parameter names.

`state_dict()` of a model without action head has exactly the tensors of an upstream checkpoint (982 for the 7B).
Positions: <s>, 256 image tokens, the rest of the prompt, and then either what was decoded so far (`ar`) or the
action slots (`parallel`): empty embeddings, one per action component, that see the prompt and each other. Slot i
answers with component i itself, so no position before the slots takes part in the answer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from rldg_policy.openvla.config import PATCHES, LanguageConfig, OpenVLAConfig
from rldg_policy.openvla.heads import L1Head
from rldg_policy.openvla.vision import Projector, VisionBackbone


class Output(NamedTuple):
    """logits (B, 256 + T, vocabulary); hidden (B, 256 + T, width): the last norm's output, before lm_head."""

    logits: Tensor
    hidden: Tensor


class OpenVLA(nn.Module):
    """The model; `action_head` is OpenVLA-OFT's (None: bins of the vocabulary)."""

    def __init__(self, config: OpenVLAConfig, l1_head: bool = False) -> None:
        super().__init__()
        self.config = config
        self.vision_backbone = VisionBackbone(config.dino, config.siglip)
        self.projector = Projector(config.vision_width, config.language.hidden_size)
        self.language_model = LlamaForCausalLM(llama_config(config.language))
        self.action_head = L1Head(config.language.hidden_size) if l1_head else None

    def embed(self, input_ids: Tensor, pixel_values: Tensor, slot_mask: Tensor | None = None) -> Tensor:
        """Ids (B, T) that begin with <s>, images (B, 6, 224, 224) -> embeddings (B, 256 + T, width).

        slot_mask (B, T) bool: positions that are action slots, whatever id stands there; their embedding is zero.
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
        """Output of the last norm (B, 256 + T, width); arguments as for `forward`."""
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
        """One pass over whole sequences.

        input_ids, attention_mask (False: padding on the right; None: there is none), slot_mask (None: there are no
        slots): (B, T); pixel_values (B, 6, 224, 224). The token at t > 0 stands at position 256 + t of the output, so
        logits[:, 256:-1] predict input_ids[:, 1:]; at a slot, the logits of its own position count.
        """
        hidden = self.hidden(input_ids, pixel_values, attention_mask, slot_mask)
        return Output(self.language_model.lm_head(hidden), hidden)


def with_image(mask: Tensor, value: bool) -> Tensor:
    """Insert the 256 image positions after <s>: (B, T) bool -> (B, 256 + T) bool."""
    image = torch.full((len(mask), PATCHES), value, dtype=torch.bool, device=mask.device)
    return torch.cat([mask[:, :1], image, mask[:, 1:]], dim=1)


def slot_attention(valid: Tensor, slots: Tensor) -> Tensor:
    """Which position (row) sees which (column): (B, 1, S, S) bool.

    Causal, and slots see every other slot of their sequence; nothing sees padding, but padding sees itself, so that
    no row is empty. valid, slots: (B, S) bool.
    """
    count = valid.shape[1]
    causal = torch.ones(count, count, dtype=torch.bool, device=valid.device).tril()
    both_slots = slots[:, :, None] & slots[:, None, :]
    itself = torch.eye(count, dtype=torch.bool, device=valid.device)
    return (((causal | both_slots) & valid[:, None, :]) | itself)[:, None]


def llama_config(language: LanguageConfig) -> Any:
    """transformers' configuration of the language model, attention by torch's fused kernels."""
    return LlamaConfig(
        **language.model_dump(exclude={"rope_theta", "rope_scaling"}),
        rope_parameters={"rope_type": "default", "rope_theta": language.rope_theta},
        pad_token_id=32000,
        attn_implementation="sdpa",
    )


def empty_model(
    config: OpenVLAConfig, l1_head: bool = False, dtype: torch.dtype = torch.float32, device: str = "meta"
) -> OpenVLA:
    """A model whose tensors are not initialised; on "meta" (default) they take no memory.

    A meta model becomes a real one by `load_state_dict(..., assign=True)` and `place_buffers`.
    """
    with torch.device("meta"):
        model = OpenVLA(config, l1_head)
    model = model.to(dtype).eval()
    if device != "meta":
        model = model.to_empty(device=device)
        place_buffers(model, device)
    return model


def place_buffers(model: OpenVLA, device: str) -> None:
    """Compute what no checkpoint holds, the rotary frequencies (float32 whatever the weights are), on `device`."""
    language = model.language_model.model
    with torch.device(device):
        language.rotary_emb = LlamaRotaryEmbedding(config=language.config)


def parameter_count(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())
