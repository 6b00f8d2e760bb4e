"""Generates golden/octo again with the original Octo classes; README.md names their versions.

    PYTHONPATH=OCTO python make_octo.py

OCTO is a checkout of octo-models/octo. Replaces the files in the folder octo beside this script.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
from drawn import image, weight
from octo.data.utils.text_processing import HFTokenizer
from octo.model.octo_model import OctoModel
from octo.model.octo_module import OctoModule
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, T5Config

OUT = Path(__file__).parent / "octo"
STEP, WINDOW, SIZE, BATCH = 6, 2, 128, 4
TEXTS = ["insert the usb", "insert", "the usb", "insert the vga usb"]
VOCABULARY = {"<pad>": 0, "</s>": 1, "<unk>": 2, "insert": 3, "the": 4, "usb": 5}
TOKENS = {"max_length": 16, "padding": "max_length", "truncation": True, "return_tensors": "np"}
TINY_T5 = {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
T5_BASE = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
TINY_STEM = {"features": [32, 32, 64, 64], "num_features": 64}


def spec(module: str, name: str, **kwargs: object) -> dict[str, object]:
    return {"module": f"octo.{module}", "name": name, "args": [], "kwargs": kwargs}


def image_tokenizer(name: str, **stem: object) -> dict[str, object]:
    encoder = spec("model.components.vit_encoders", "SmallStem16", **stem)
    keys = [f"image_{name}"]
    return spec(
        "model.components.tokenizers", "ImageTokenizer", obs_stack_keys=keys, task_stack_keys=keys, encoder=encoder
    )


def network(
    encoder: str, images: dict[str, object], width: int, layers: int, mlp: int, heads: int
) -> dict[str, object]:
    """Return the configuration's entry `model` in the form of Octo 1.5, with the given sizes."""
    language = spec("model.components.tokenizers", "LanguageTokenizer", encoder=encoder, finetune_encoder=False)
    action = spec(
        "model.components.action_heads",
        "DiffusionActionHead",
        readout_key="readout_action",
        use_map=False,
        action_horizon=4,
        action_dim=7,
        n_diffusion_samples=1,
        dropout_rate=0.0,
    )
    return {
        "observation_tokenizers": images,
        "task_tokenizers": {"language": language},
        "heads": {"action": action},
        "readouts": {"action": 1},
        "token_embedding_size": width,
        "transformer_kwargs": {
            "num_layers": layers,
            "mlp_dim": mlp,
            "num_attention_heads": heads,
            "dropout_rate": 0.0,
            "attention_dropout_rate": 0.0,
            "add_position_embedding": False,
        },
        "max_horizon": 10,
        "repeat_task_tokens": True,
        "use_correct_attention": True,
    }


def write_t5(folder: str, sizes: dict[str, int]) -> None:
    """Write a configuration and a tokenizer of three words."""
    T5Config(**sizes, num_decoder_layers=sizes["num_layers"], feed_forward_proj="relu").save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    names = ["input_ids", "attention_mask"]  # those of T5; by default the class adds token_type_ids
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=names, **special).save_pretrained(folder)


def observations(batch: int, images: dict[str, int]) -> dict[str, object]:
    """Return images drawn by the rule, without padding steps. images: name -> height and width."""
    seen = np.ones((batch, WINDOW), bool)
    return {
        **{name: image(name, (batch, WINDOW, size, size, 3)) for name, size in images.items()},
        "pad_mask_dict": dict.fromkeys(images, seen),
        "timestep_pad_mask": seen,
    }


def octo_base() -> str:
    """Return the names and shapes of Octo-Base's parameters."""
    write_t5("t5-base", T5_BASE)
    images = {name: image_tokenizer(name) for name in ("primary", "wrist")}
    module = OctoModule.create(**network("t5-base", images, 768, 12, 3072, 12))
    seen = observations(1, {"image_primary": 256, "image_wrist": 128})
    ids = np.ones((1, 16), np.int64)
    task = {
        "language_instruction": {"input_ids": ids, "attention_mask": ids},
        "pad_mask_dict": {"language_instruction": np.ones(1, bool)},
    }
    shapes = jax.eval_shape(
        partial(module.init, train=False), jax.random.PRNGKey(0), seen, task, seen["timestep_pad_mask"]
    )
    return names_and_shapes(shapes["params"])


def names_and_shapes(params: object) -> str:
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return "".join(f"{name} {tuple(value.shape)}\n" for name, value in sorted(flat.items()))


def tiny() -> OctoModel:
    """Return the tiny model with the weights of the rule."""
    write_t5("tiny-t5", TINY_T5)
    processor = spec(
        "data.utils.text_processing",
        "HFTokenizer",
        tokenizer_name="tiny-t5",
        encode_with_model=False,
        tokenizer_kwargs=TOKENS,
    )
    config = {
        "model": network("tiny-t5", {"primary": image_tokenizer("primary", **TINY_STEM)}, 64, 2, 128, 4),
        "text_processor": processor,
        "optimizer": {"frozen_keys": ["*hf_model*"]},
        "window_size": WINDOW,
    }
    tokenizer, blank = HFTokenizer("tiny-t5", TOKENS), np.zeros((1, SIZE, SIZE, 3), np.uint8)
    example = {
        "observation": observations(1, {"image_primary": SIZE}) | {"image_primary": blank[:, None].repeat(WINDOW, 1)},
        "task": {
            "language_instruction": tokenizer.encode(TEXTS[:1]),
            "image_primary": blank,
            "pad_mask_dict": {"language_instruction": np.ones(1, bool), "image_primary": np.zeros(1, bool)},
        },
        "action": np.zeros((1, WINDOW, 4, 7), np.float32),
    }
    seven = {"mean": 0.1, "std": 0.5, "min": -1.0, "max": 1.0, "p01": -1.0, "p99": 1.0}
    statistics = {
        "action": {name: np.full(7, value, np.float32) for name, value in seven.items()},
        "num_transitions": np.array(100),
        "num_trajectories": np.array(2),
    }
    model = OctoModel.from_config(config, example, tokenizer, dataset_statistics=statistics)
    flat = flax.traverse_util.flatten_dict(model.params, sep="/")
    drawn = {name: jnp.asarray(weight(name, tuple(value.shape), "flax")) for name, value in flat.items()}
    return model.replace(params=flax.traverse_util.unflatten_dict(drawn, sep="/"))


def reference(model: OctoModel) -> dict[str, np.ndarray]:
    """Return the model's outputs for four samples; the second begins with a padding step."""
    seen = observations(BATCH, {"image_primary": SIZE})
    seen["timestep_pad_mask"] = np.ones((BATCH, WINDOW), bool)
    seen["timestep_pad_mask"][1, 0] = False
    task = model.create_tasks(texts=TEXTS)
    outputs = model.run_transformer(seen, task, seen["timestep_pad_mask"])
    action = model.sample_actions(
        seen, task, unnormalization_statistics=model.dataset_statistics["action"], rng=jax.random.PRNGKey(1)
    )
    return {
        "ids": task["language_instruction"]["input_ids"],
        "attention_mask": task["language_instruction"]["attention_mask"],
        "timestep_pad_mask": seen["timestep_pad_mask"],
        "readout": np.asarray(outputs["readout_action"].tokens),
        "task_tokens": np.asarray(outputs["task_language"].tokens),
        "action": np.asarray(action),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)  # the configuration names the encoder by a relative path
        model = tiny()
        model.save_pretrained(STEP, str(Path(work) / "saved"))
        loaded = OctoModel.load_pretrained(str(Path(work) / "saved"))
        np.savez_compressed(OUT / "reference.npz", **reference(loaded))
        weights = Path(work) / "saved" / str(STEP) / "default"
        digest = hashlib.sha256((weights / "checkpoint").read_bytes()).hexdigest()
        (OUT / "checksums.txt").write_text(f"{digest}  {STEP}/default/checkpoint\n")
        (OUT / "tensors.txt").write_text(names_and_shapes(model.params))
        (OUT / "octo_base_params.txt").write_text(octo_base())
        shutil.copy(weights / "_METADATA", OUT / "_METADATA")
        for name in ("config.json", "dataset_statistics.json", "example_batch.msgpack"):
            shutil.copy(Path(work) / "saved" / name, OUT / name)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            (OUT / "tiny-t5").mkdir(exist_ok=True)
            shutil.copy(Path(work) / "tiny-t5" / name, OUT / "tiny-t5" / name)


if __name__ == "__main__":
    main()
