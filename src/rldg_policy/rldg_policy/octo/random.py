"""Parts of checkpoints with random weights of any size, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from rldg_core.configuration import FrozenModel
from rldg_core.seeding import derive_seed
from rldg_policy.octo.config import COMPONENTS, T5_BASE, T5Config
from rldg_policy.octo.model import Params

TINY_T5 = T5Config(vocab_size=256, d_model=32, d_ff=64, d_kv=8, num_heads=4, num_layers=2)
WORDS = "insert the usb a ethernet vga hdmi connector into port pick up object and place it in bowl peg board"


class OctoSize(FrozenModel):
    """Sizes of a network; the defaults are tiny. wrist: with a wrist tokenizer for 128 px images."""

    image_size: int = 128
    window: int = 1
    horizon: int = 4
    action_dim: int = 7
    width: int = 64
    layers: int = 2
    heads: int = 4
    mlp: int = 128
    stem: tuple[int, ...] = (32, 32, 64, 64)
    stem_features: int = 64
    t5: T5Config = TINY_T5
    wrist: bool = False


OCTO_BASE = OctoSize(
    image_size=256,
    window=2,
    width=768,
    layers=12,
    heads=12,
    mlp=3072,
    stem=(32, 96, 192, 384),
    stem_features=512,
    t5=T5_BASE,
    wrist=True,
)
OCTO_SMALL = OCTO_BASE.model_copy(update={"width": 384, "heads": 6, "mlp": 1536})


def draw_params(shapes: Mapping[str, jax.ShapeDtypeStruct], seed: int) -> Params:
    """Draw weights with numpy; compiling flax's initialisers takes longer."""
    flat = {name: _draw(name, value.shape, derive_seed(seed, "octo", name)) for name, value in shapes.items()}
    params: Params = unflatten_dict(flat, sep="/")
    return params


def upstream_config(config: OctoSize) -> dict[str, Any]:
    """Return config.json as upstream writes it."""

    def image_tokenizer(name: str) -> dict[str, Any]:
        stem = {"features": list(config.stem), "num_features": config.stem_features}
        image = f"image_{name}"
        return _spec(
            f"{COMPONENTS}.tokenizers",
            "ImageTokenizer",
            obs_stack_keys=[image],
            task_stack_keys=[image],
            encoder=_spec(f"{COMPONENTS}.vit_encoders", "SmallStem16", **stem),
        )

    encoder = "t5-base" if config.t5 == T5_BASE else "tiny-t5"
    head = {"action_horizon": config.horizon, "action_dim": config.action_dim, "n_diffusion_samples": 1}
    language = _spec(f"{COMPONENTS}.tokenizers", "LanguageTokenizer", encoder=encoder, finetune_encoder=False)
    padding = {"max_length": 16, "padding": "max_length", "truncation": True, "return_tensors": "np"}
    return {
        "model": {
            "observation_tokenizers": {
                name: image_tokenizer(name) for name in ("primary", *(["wrist"] if config.wrist else []))
            },
            "task_tokenizers": {"language": language},
            "heads": {
                "action": _spec(
                    f"{COMPONENTS}.action_heads", "DiffusionActionHead", readout_key="readout_action", **head
                )
            },
            "readouts": {"action": 1},
            "token_embedding_size": config.width,
            "transformer_kwargs": {
                "num_layers": config.layers,
                "mlp_dim": config.mlp,
                "num_attention_heads": config.heads,
                "dropout_rate": 0.0,
                "attention_dropout_rate": 0.0,
                "add_position_embedding": False,
            },
            "max_horizon": 10,
            "repeat_task_tokens": True,
            "use_correct_attention": True,
        },
        "text_processor": _spec(
            "octo.data.utils.text_processing",
            "HFTokenizer",
            tokenizer_name=encoder,
            encode_with_model=False,
            tokenizer_kwargs=padding,
        ),
        "window_size": config.window,
    }


def _spec(module: str, name: str, **kwargs: Any) -> dict[str, Any]:
    return {"module": module, "name": name, "args": [], "kwargs": kwargs}


def _draw(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    kind = name.rpartition("/")[2]
    if kind in ("scale", "weight"):
        return np.ones(shape, np.float32)
    if kind == "bias":
        return np.zeros(shape, np.float32)
    fan_in = max(1, int(np.prod(shape[:-1]))) if kind == "kernel" else 2500  # embeddings: deviation 0.02
    if "MultiHeadDotProductAttention" in name and not name.endswith("out/kernel"):
        fan_in = shape[0]
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return values / np.float32(fan_in**0.5)


def small_actions() -> dict[str, list[float] | list[bool]]:
    """Return action statistics within the action scale of every task."""
    unit = np.array([0.01] * 3 + [0.05] * 3 + [0.5])
    middle = np.array([0.0] * 6 + [0.5])
    return {
        "mean": middle.tolist(),
        "std": (unit / 2).tolist(),
        "min": (middle - unit).tolist(),
        "max": (middle + unit).tolist(),
        "p01": (middle - unit).tolist(),
        "p99": (middle + unit).tolist(),
        "mask": [True] * 6 + [False],
    }


def word_tokenizer() -> bytes:
    """Return a tokenizer of the words in our tasks' instructions; other words are <unk>."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    text: str = tokenizer.to_str()
    return text.encode()
