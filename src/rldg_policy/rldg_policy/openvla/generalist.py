"""OpenVLA as `rldg finetune openvla` and `rldg checkpoint adopt --backend openvla` find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rldg_core.errors import UserError
from rldg_core.files import read_json
from rldg_policy.checkpoint.manifest import read_object
from rldg_policy.generalist import Generalist
from rldg_policy.openvla.config import DECODING_FILE, INFERENCE_HZ, OpenVLATrainConfig


def describe(folder: Path) -> dict[str, Any]:
    """Return what an upstream checkpoint's own files say, as members of Manifest. Raises UserError naming the file."""
    path = folder / "config.json"
    config = read_object(path)
    if config.get("model_type") != "openvla":
        raise UserError(f"{path}: model_type: found {config.get('model_type')!r}, expected 'openvla'")
    sizes = config.get("image_sizes")
    if not isinstance(sizes, list) or not sizes:
        raise UserError(f"{path}: image_sizes: expected a list of sizes")
    decoding = folder / DECODING_FILE  # written by our fine-tuning: parallel decoding has chunks
    values = read_json(decoding) if decoding.is_file() else None
    horizon = values.get("horizon", 1) if isinstance(values, dict) else 1
    return {"image_size": sizes[0], "window": 1, "horizon": horizon, "version": 0, "inference_hz": INFERENCE_HZ}


OPENVLA = Generalist(
    title="OpenVLA",
    help="""Fine-tune OpenVLA with LoRA adapters, which are merged at the end.

    Several GPUs: `accelerate launch --config_file ddp.yaml -m rldg_policy.openvla.train DATASET --base BASE --out OUT`.
    """,
    config=OpenVLATrainConfig,
    finetune="rldg_policy.openvla.train:finetune",
    training_state=("state.json", "state.safetensors"),
    base="Checkpoint to fine-tune: a Hugging Face folder of OpenVLA.",
    recognises=lambda config: config.get("model_type") == "openvla",
    describe=describe,
)
