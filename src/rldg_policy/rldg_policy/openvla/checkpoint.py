"""An OpenVLA's folder: read upstream's and our own, write one that both read.

config.json, generation_config.json, model.safetensors (or shards and index), dataset_statistics.json,
tokenizer files, preprocessor_config.json      upstream's, by upstream's names
rldg.json                                      Manifest of every generalist
rldg_openvla.json                              DecodingConfig
action_head.safetensors                        of head `l1`
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rldg_core.configuration import validated
from rldg_core.errors import UserError
from rldg_core.files import check_regular, read_json, sha256_hex, write_json, writing_aside
from rldg_core.seeding import derive_seed
from rldg_policy.checkpoint.manifest import MANIFEST_FILE, Manifest, check_backend, read_manifest, write_manifest
from rldg_policy.checkpoint.statistics import STATISTICS_FILE, ActionStatistics, choose_statistics
from rldg_policy.openvla import images
from rldg_policy.openvla.config import (
    ACTION_DIM,
    DECODING_FILE,
    IMAGE_SIZE,
    INFERENCE_HZ,
    DecodingConfig,
    OpenVLAConfig,
)
from rldg_policy.openvla.model import OpenVLA, empty_model, place_buffers
from rldg_policy.openvla.tokens import ACTION_BEGIN, TOKENIZER_FILE, VOCABULARY, PromptTokenizer, write_byte_tokenizer
from rldg_policy.openvla.weight_files import SHARD_BYTES, check_shapes, read_shapes, read_tensors, write_tensors
from rldg_policy.training.torch_state import check_finite

CONFIG_FILE = "config.json"
HEAD_FILE = "action_head.safetensors"
HEAD_PREFIX = "action_head."
TOKENIZER_FILES = (
    TOKENIZER_FILE,
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, ready to act. manifest: None for an upstream one that was not adopted."""

    model: OpenVLA
    tokenizer: PromptTokenizer
    decoding: DecodingConfig
    manifest: Manifest | None
    statistics_key: str
    statistics: ActionStatistics


def read_checkpoint(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Read and check a folder, the weights last. Raises UserError `file: reason` on the first thing that is wrong."""
    manifest = read_manifest(folder)
    check_backend(folder, manifest, "openvla")
    if manifest and (manifest.image_size != IMAGE_SIZE or manifest.window != 1):
        raise UserError(
            f"{folder / MANIFEST_FILE}: image_size {manifest.image_size}, window {manifest.window}: "
            f"an OpenVLA sees one image of {IMAGE_SIZE} px"
        )
    key, statistics = choose_statistics(folder, manifest)
    decoding = read_decoding(folder, key)
    if manifest and manifest.horizon != decoding.horizon:
        raise UserError(
            f"{folder / DECODING_FILE}: horizon {decoding.horizon} differs from {manifest.horizon} in {MANIFEST_FILE}"
        )
    tokenizer = PromptTokenizer(folder)
    model = read_model(folder, device, dtype)
    if (model.action_head is None) != (decoding.head != "l1"):
        raise UserError(f"{folder / HEAD_FILE}: {DECODING_FILE} says head {decoding.head!r}")
    return Checkpoint(model, tokenizer, decoding, manifest, key, statistics)


def read_decoding(folder: Path, statistics_key: str) -> DecodingConfig:
    """rldg_openvla.json; where there is none, as upstream's models were trained.

    Upstream's fine-tuning augments by default, its pre-training did not: weights whose statistics are those of
    pre-training (`norm_stats` in config.json) see the whole image.
    """
    path = folder / DECODING_FILE
    if path.is_file():
        return validated(DecodingConfig, read_json(path), str(path))
    pretrained = _config(folder).get("norm_stats")
    return DecodingConfig(centre_crop=not (isinstance(pretrained, dict) and statistics_key in pretrained))


def read_model(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> OpenVLA:
    """The model alone, in eval mode, with action head where the folder has one; for serving and as a base.

    Tensors go to `device` one after another. Raises UserError `file: reason`; names and shapes must match exactly.
    """
    values = _config(folder)
    shapes = read_shapes(folder)
    config = OpenVLAConfig.read(values, shapes, str(folder / CONFIG_FILE))
    head_path = folder / HEAD_FILE
    head = _read_head(head_path) if head_path.is_file() else {}
    model = empty_model(config, l1_head=bool(head), dtype=dtype)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    body = {name: shape for name, shape in expected.items() if not name.startswith(HEAD_PREFIX)}
    check_shapes(f"{folder}: weights", shapes, body)
    if head:
        check_head = {name: shape for name, shape in expected.items() if name not in body}
        check_shapes(head_path, {name: tuple(t.shape) for name, t in head.items()}, check_head)
    state = {name: tensor.to(device, dtype) for name, tensor in read_tensors(folder)}
    state |= {name: tensor.to(device, dtype) for name, tensor in head.items()}
    check_finite(folder, state.items())
    model.load_state_dict(state, assign=True)
    place_buffers(model, device)
    return model


def write_files(
    folder: Path,
    config: OpenVLAConfig,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    statistics_json: bytes,
    manifest: Manifest,
    decoding: DecodingConfig,
    tokenizer_from: Path,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a whole checkpoint into a folder that exists (inside `writing_aside`).

    tensors: by the names of OpenVLA.state_dict(), one after another, `action_head.*` among them where there is one;
    statistics_json: content of dataset_statistics.json, which the manifest's sha256 names; tokenizer_from: folder.
    """
    head: dict[str, Tensor] = {}
    dtype = write_tensors(folder, _without_head(tensors, head), shard_bytes)
    if head:
        save_file(head, folder / HEAD_FILE)
    (folder / STATISTICS_FILE).write_bytes(statistics_json)
    write_json(folder / CONFIG_FILE, config.to_json(json.loads(statistics_json), dtype))  # bounded: our own text
    write_json(folder / "generation_config.json", _GENERATION)
    write_json(folder / "preprocessor_config.json", _PREPROCESSOR)
    for name in TOKENIZER_FILES:
        source = tokenizer_from / name
        if source.is_file() and source != folder / name:
            shutil.copyfile(source, folder / name)
    write_json(folder / DECODING_FILE, decoding.model_dump(mode="json"))
    write_manifest(folder, manifest)


def write_random(
    folder: Path,
    config: OpenVLAConfig,
    seed: int,
    decoding: DecodingConfig | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """A valid checkpoint with random float32 weights and a tokenizer of bytes: for tests, benchmarks and try-outs."""
    decoding = decoding or DecodingConfig()
    model = empty_model(config, l1_head=decoding.head == "l1")
    statistics_json = json.dumps({"random": _RANDOM_STATISTICS}, indent=2).encode()
    manifest = Manifest(
        backend="openvla",
        image_size=IMAGE_SIZE,
        window=1,
        horizon=decoding.horizon,
        rate_hz=10.0,
        allowed_rates_hz=(INFERENCE_HZ,),
        inference_hz=INFERENCE_HZ,
        statistics_key="random",
        statistics_sha256=sha256_hex(statistics_json),
        version=0,
    )
    with writing_aside(folder) as aside:
        aside.mkdir()
        write_byte_tokenizer(aside)
        write_files(
            aside,
            config,
            random_tensors(model, seed),
            statistics_json=statistics_json,
            manifest=manifest,
            decoding=decoding,
            tokenizer_from=aside,
            shard_bytes=shard_bytes,
        )


def random_tensors(model: OpenVLA, seed: int) -> Iterator[tuple[str, Tensor]]:
    """(name, float32 values) for a model on "meta": weights of deviation 0.02, gains one, biases zero."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "openvla"))
    for name, tensor in model.state_dict().items():
        if name.endswith("bias"):
            yield name, torch.zeros(tensor.shape)
        elif tensor.ndim == 1:
            yield name, torch.ones(tensor.shape)
        else:
            values = 0.02 * torch.randn(tensor.shape, generator=generator)
            if name == "language_model.lm_head.weight":
                values[ACTION_BEGIN:VOCABULARY] *= 20.0  # so that its likeliest tokens are actions
            yield name, values


def _without_head(tensors: Iterable[tuple[str, Tensor]], head: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """What is not of the action head; that goes into `head`."""
    for name, tensor in tensors:
        if name.startswith(HEAD_PREFIX):
            head[name] = tensor.detach().cpu().contiguous()
        else:
            yield name, tensor


def _read_head(path: Path) -> dict[str, Tensor]:
    check_regular(path)
    try:
        head: dict[str, Tensor] = load_file(path)  # bounded: checked above
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged: {' '.join(str(error).split())}") from error
    return head


def _config(folder: Path) -> dict[str, Any]:
    values = read_json(folder / CONFIG_FILE)
    if not isinstance(values, dict) or values.get("model_type") != "openvla":
        raise UserError(f"{folder / CONFIG_FILE}: model_type: not an OpenVLA")
    return values


_GENERATION = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 32000}
_PREPROCESSOR = {
    "image_processor_type": "PrismaticImageProcessor",
    "processor_class": "PrismaticProcessor",
    "use_fused_vision_backbone": True,
    "image_resize_strategy": "resize-naive",
    "input_sizes": [[3, IMAGE_SIZE, IMAGE_SIZE]] * 2,
    "interpolations": ["bicubic", "bicubic"],
    "means": [list(images.DINO_MEAN), list(images.SIGLIP_MEAN)],
    "stds": [list(images.DINO_STD), list(images.SIGLIP_STD)],
}
_RANDOM_STATISTICS = {
    "action": {
        "mean": [0.0] * 6 + [0.5],
        "std": [0.004] * 3 + [0.02] * 3 + [0.5],
        "min": [-0.01] * 3 + [-0.05] * 3 + [0.0],
        "max": [0.01] * 3 + [0.05] * 3 + [1.0],
        "q01": [-0.01] * 3 + [-0.05] * 3 + [0.0],
        "q99": [0.01] * 3 + [0.05] * 3 + [1.0],
        "mask": [True] * (ACTION_DIM - 1) + [False],
    },
    "num_transitions": 0,
    "num_trajectories": 0,
}
