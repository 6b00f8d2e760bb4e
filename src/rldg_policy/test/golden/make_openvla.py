"""Generates golden/openvla again with the original OpenVLA classes; README.md names their versions.

    PYTHONPATH=OPENVLA/prismatic/extern python make_openvla.py

OPENVLA is a checkout of openvla/openvla. Replaces the files in the folder openvla beside this script.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from accelerate import init_empty_weights
from drawn import noise, weight
from hf.configuration_prismatic import OpenVLAConfig
from hf.modeling_prismatic import OpenVLAForActionPrediction

OUT = Path(__file__).parent / "openvla"
TOWERS = {
    "vit_large_patch14_reg4_dinov2.lvd142m": {"embed_dim": 64, "depth": 4, "num_heads": 4},
    "vit_so400m_patch14_siglip_224": {"embed_dim": 48, "depth": 5, "num_heads": 4},
}
LANGUAGE = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 32064,
    "pad_token_id": 32000,
    "torch_dtype": "float32",
}
ACTION = {
    "q01": [-1.0, -0.5, -0.25, -1.0, -2.0, -1.0, 0.0],
    "q99": [1.0, 0.75, 0.5, 1.0, 2.0, 1.5, 1.0],
    "mask": [True] * 6 + [False],
}
INPUT_IDS = [1, 512, 29901, 1724, 3158, 881, 278, 19964, 2125, 304]
INPUT_IDS += [4635, 278, 502, 29890, 29973, 13, 3744, 29901, 25, 30739]
"""Twenty ids of the vocabulary, the last one not the 29871 that predict_action appends."""
LAST_POSITIONS, EVERY_LOGIT, FIRST_ACTION_ID, IDS = 24, 16, 31744, 32000


def names_and_shapes(model: torch.nn.Module) -> str:
    return "".join(f"{name} {tuple(tensor.shape)}\n" for name, tensor in model.state_dict().items())


def configuration(**text: object) -> OpenVLAConfig:
    return OpenVLAConfig(
        norm_stats={"rldg_demo": {"action": ACTION}},
        vision_backbone_id="dinosiglip-vit-so-224px",
        llm_backbone_id="llama2-7b-pure",
        arch_specifier="no-align+gelu-mlp",
        image_resize_strategy="resize-naive",
        text_config={"vocab_size": 32064, "pad_token_id": 32000, **text},
        torch_dtype="float32",
    )


def seven_b() -> str:
    """Return the names and shapes of openvla-7b, built without values."""
    with init_empty_weights():
        return names_and_shapes(OpenVLAForActionPrediction(configuration()))


def tiny() -> OpenVLAForActionPrediction:
    """Return the tiny model with the weights of the rule."""
    original = timm.create_model
    timm.create_model = lambda name, **options: original(name, **options, **TOWERS[name])
    try:
        model = OpenVLAForActionPrediction(configuration(**LANGUAGE)).eval()
    finally:
        timm.create_model = original
    drawn = {name: torch.from_numpy(weight(name, tuple(t.shape), "torch")) for name, t in model.state_dict().items()}
    model.load_state_dict(drawn)
    return model


@torch.inference_mode()
def reference(model: OpenVLAForActionPrediction) -> dict[str, np.ndarray]:
    pixels, ids = torch.from_numpy(noise("pixel_values", (1, 6, 224, 224))), torch.tensor([INPUT_IDS])
    logits = model(ids, pixel_values=pixels).logits[:, -LAST_POSITIONS:].numpy()
    words = model.predict_action(ids, pixel_values=pixels, do_sample=False)
    model.language_model.lm_head.weight[:FIRST_ACTION_ID] = 0.0
    model.language_model.lm_head.weight[IDS:] = 0.0
    space = torch.tensor([[29871]])
    answer = model.generate(torch.cat([ids, space], 1), max_new_tokens=7, pixel_values=pixels, do_sample=False)[0, -7:]
    return {
        "input_ids": ids.numpy(),
        "vision_features": model.vision_backbone(pixels).numpy(),
        "logits": logits[..., ::EVERY_LOGIT].copy(),
        "action_logits": logits[..., FIRST_ACTION_ID:IDS].copy(),
        "action": words,
        "action_ids": answer.numpy(),
        "action_of_ids": model.predict_action(ids, pixel_values=pixels, do_sample=False),
    }


def main() -> None:
    torch.set_num_threads(1)
    model = tiny()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        for name in ("config.json", "generation_config.json"):
            shutil.copy(Path(folder) / name, OUT / name)
        digest = hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()
    (OUT / "checksums.txt").write_text(f"{digest}  model.safetensors\n")
    (OUT / "tensors.txt").write_text(names_and_shapes(model))
    (OUT / "openvla_7b_state_dict.txt").write_text(seven_b())
    np.savez_compressed(OUT / "reference.npz", **reference(model))


if __name__ == "__main__":
    main()
