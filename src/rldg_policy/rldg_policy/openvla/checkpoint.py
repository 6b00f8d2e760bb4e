"""Checkpoint folders of OpenVLA: upstream's and our own are read, and what is written can be read by both.

config.json, generation_config.json, model.safetensors (or shards and index), dataset_statistics.json,
tokenizer files, preprocessor_config.json      upstream's, with upstream's names
rldg.json                                      Manifest of every generalist
rldg_openvla.json                              DecodingConfig
action_head.safetensors                        with head `l1`

Weights have the layout of the Hugging Face hub. Reading and writing hold one tensor, or one shard, in memory besides
the model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rldg_core.configuration import validated
from rldg_core.errors import UserError
from rldg_core.files import check_regular, read_json, sha256_hex, write_json, writing_aside
from rldg_core.seeding import derive_seed
from rldg_policy.checkpoint.manifest import MANIFEST_FILE, Manifest, check_backend, read_manifest, write_manifest
from rldg_policy.checkpoint.statistics import STATISTICS_FILE, ActionStatistics, choose_statistics
from rldg_policy.openvla.config import (
    ACTION_DIM,
    DECODING_FILE,
    IMAGE_SIZE,
    INFERENCE_HZ,
    DecodingConfig,
    OpenVLAConfig,
)
from rldg_policy.openvla.model import OpenVLA, empty_model, place_buffers
from rldg_policy.openvla.processing import (
    ACTION_BEGIN,
    DINO_MEAN,
    DINO_STD,
    SIGLIP_MEAN,
    SIGLIP_STD,
    TOKENIZER_FILE,
    VOCABULARY,
    PromptTokenizer,
    write_byte_tokenizer,
)
from rldg_policy.training.torch_state import check_finite

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9

Shapes = dict[str, tuple[int, ...]]


def locate(folder: Path) -> dict[Path, list[str] | None]:
    """Return file -> names of its tensors by the index (None: no index, all tensors).

    Raises UserError when there are no weights.
    """
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.is_file():
        return {single: None}
    if index.is_file():
        values = read_json(index)
        weight_map = values.get("weight_map") if isinstance(values, dict) else None
        if not isinstance(weight_map, dict) or not all(_plain(name) for name in weight_map.values()):
            raise UserError(f"{index}: weight_map: expected tensor names and names of files in the same folder")
        files: dict[Path, list[str] | None] = {}
        for name, file in weight_map.items():
            names = files.setdefault(folder / file, [])
            assert names is not None
            names.append(name)
        return files
    if (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"{folder}: holds only LoRA adapters: merge them into their base model first")
    if list(folder.glob("pytorch_model*.bin")):
        raise UserError(f"{folder}: weights in pickle format are not supported: convert them to safetensors first")
    raise UserError(f"{single}: missing, and no {INDEX_FILE} either")


def read_shapes(folder: Path) -> Shapes:
    """Return name -> shape of all tensors without reading them. Raises UserError on a missing or damaged file."""
    shapes: Shapes = {}
    for path, listed in locate(folder).items():
        with _opened(path) as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        if listed is not None and set(listed) != set(found):
            name = min(set(listed) ^ set(found))
            raise UserError(f"{path}: its tensors differ from those in {INDEX_FILE}, first {name}")
        shapes |= found
    return shapes


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor on the CPU). Raises UserError when a file is missing or damaged."""
    for path in locate(folder):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)


def check_shapes(where: object, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UserError with number and first name of tensors that are missing, unexpected, or of another shape."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshapen = [name for name in expected if name in found and found[name] != expected[name]]
    if missing:
        raise UserError(f"{where}: {len(missing)} of {len(expected)} tensors missing, first {missing[0]}")
    if unexpected:
        raise UserError(f"{where}: {len(unexpected)} tensors unexpected, first {unexpected[0]}")
    if misshapen:
        name = misshapen[0]
        shapes = f"{name} {found[name]}, expected {expected[name]}"
        raise UserError(f"{where}: {len(misshapen)} of {len(expected)} tensors of another shape, first {shapes}")


def write_tensors(folder: Path, tensors: Iterable[tuple[str, Tensor]], shard_bytes: int = SHARD_BYTES) -> str:
    """Write tensors into an existing folder, in one file or in shards of at most `shard_bytes` with an index.

    Returns the dtype of the first tensor, such as "bfloat16".
    """
    shards: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    size = total = 0
    dtype = ""
    for name, tensor in tensors:
        dtype = dtype or str(tensor.dtype).removeprefix("torch.")
        bytes_ = tensor.numel() * tensor.element_size()
        if pending and size + bytes_ > shard_bytes:
            shards.append(_write_shard(folder, len(shards), pending))
            pending, size = {}, 0
        pending[name] = tensor.detach().cpu().contiguous()
        size, total = size + bytes_, total + bytes_
    shards.append(_write_shard(folder, len(shards), pending))
    if len(shards) == 1:
        (folder / _part(0)).rename(folder / SINGLE_FILE)
        return dtype
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / _part(number)).rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
    return dtype


def _write_shard(folder: Path, number: int, tensors: dict[str, Tensor]) -> list[str]:
    save_file(tensors, folder / _part(number), metadata={"format": "pt"})
    return list(tensors)


def _part(number: int) -> str:
    return f".part-{number:05d}.safetensors"


def _plain(name: object) -> bool:
    """Return whether a name is that of a file in the same folder."""
    return isinstance(name, str) and name == Path(name).name and name not in ("", ".", "..")


def _opened(path: Path) -> safe_open:
    check_regular(path)
    try:
        return safe_open(path, framework="pt", device="cpu")  # bounded: checked above
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UserError(f"{path}: damaged: {' '.join(str(error).split())}") from error


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
    """A checkpoint in memory. manifest: None for an upstream checkpoint that was not adopted."""

    model: OpenVLA
    tokenizer: PromptTokenizer
    decoding: DecodingConfig
    manifest: Manifest | None
    statistics_key: str
    statistics: ActionStatistics


def read_checkpoint(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Read and validate a checkpoint folder, weights last. Raises UserError `file: reason` on the first error."""
    manifest = read_manifest(folder)
    check_backend(folder, manifest, "openvla")
    if manifest and (manifest.image_size != IMAGE_SIZE or manifest.window != 1):
        raise UserError(
            f"{folder / MANIFEST_FILE}: image_size {manifest.image_size}, window {manifest.window}: "
            f"OpenVLA expects one image of {IMAGE_SIZE} px"
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
    """Read rldg_openvla.json; without one, return the configuration of upstream's training.

    Upstream's fine-tuning augments by default, its pre-training did not: for weights with statistics of pre-training
    (`norm_stats` in config.json), the image is not cropped.
    """
    path = folder / DECODING_FILE
    if path.is_file():
        return validated(DecodingConfig, read_json(path), str(path))
    pretrained = _config(folder).get("norm_stats")
    return DecodingConfig(centre_crop=not (isinstance(pretrained, dict) and statistics_key in pretrained))


def read_model(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> OpenVLA:
    """Read the model in eval mode, with the action head if there is one.

    Tensors are moved to `device` one by one. Raises UserError `file: reason`; names and shapes must match exactly.
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
    """Write a complete checkpoint into an existing folder (inside `writing_aside`).

    tensors: named as in OpenVLA.state_dict(), with `action_head.*` if there is one; statistics_json: content of
    dataset_statistics.json, whose SHA-256 is in the manifest; tokenizer_from: folder with the tokenizer files.
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
    """Write a valid checkpoint with random float32 weights and a byte tokenizer, for tests and benchmarks."""
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
    """Yield (name, float32 values) for a model on "meta": weights with deviation 0.02, gains 1, biases 0."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "openvla"))
    for name, tensor in model.state_dict().items():
        if name.endswith("bias"):
            yield name, torch.zeros(tensor.shape)
        elif tensor.ndim == 1:
            yield name, torch.ones(tensor.shape)
        else:
            values = 0.02 * torch.randn(tensor.shape, generator=generator)
            if name == "language_model.lm_head.weight":
                values[ACTION_BEGIN:VOCABULARY] *= 20.0  # so that the most likely tokens are action tokens
            yield name, values


def _without_head(tensors: Iterable[tuple[str, Tensor]], head: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors outside the action head; those of the head are put into `head`."""
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
        raise UserError(f"{folder / CONFIG_FILE}: model_type: expected 'openvla'")
    return values


_GENERATION = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 32000}
_PREPROCESSOR = {
    "image_processor_type": "PrismaticImageProcessor",
    "processor_class": "PrismaticProcessor",
    "use_fused_vision_backbone": True,
    "image_resize_strategy": "resize-naive",
    "input_sizes": [[3, IMAGE_SIZE, IMAGE_SIZE]] * 2,
    "interpolations": ["bicubic", "bicubic"],
    "means": [list(DINO_MEAN), list(SIGLIP_MEAN)],
    "stds": [list(DINO_STD), list(SIGLIP_STD)],
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
