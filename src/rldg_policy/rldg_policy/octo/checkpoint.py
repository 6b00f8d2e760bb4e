"""Checkpoint folders of Octo in upstream's layout, read strictly and written atomically.

    config.json  example_batch.msgpack  dataset_statistics.json  <step>/default/ (weights)
    <tokenizer's name>/ (tokenizer.json, config.json of the T5)  ours: rldg.json (manifest), <step>/weights.sha256

The weights are written in the format that upstream's loader (orbax 0.4.4) needs: all arrays in one msgpack file
`checkpoint`, and their names in `_METADATA`. They are read from this format and from the one that orbax writes from
several hosts, or currently: a tensorstore database with one zarr array a.b.c per parameter. orbax itself is not used,
because its current version cannot write the former and leaves half a megabyte of files after reading the latter.
Sources: octo-models/octo, octo/model/octo_model.py (load_pretrained, save_pretrained); google/orbax 0.4.4,
PyTreeCheckpointHandler.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import jax
import msgpack
import numpy as np
import tensorstore as ts
from flax.errors import FlaxError
from flax.serialization import msgpack_restore, msgpack_serialize
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import DTypeLike

from rldg_core.configuration import validated
from rldg_core.errors import UserError
from rldg_core.files import check_tree, open_regular, read_bytes, read_json, read_text, sha256_hex, writing_aside
from rldg_core.policy_checks import check_finite
from rldg_policy.checkpoint.manifest import Manifest, check_backend, read_manifest, write_manifest
from rldg_policy.checkpoint.statistics import STATISTICS_FILE
from rldg_policy.octo.config import HeadConfig, OctoConfig
from rldg_policy.octo.model import OctoModule, Params
from rldg_policy.octo.random import OctoSize, draw_params, small_actions, upstream_config, word_tokenizer
from rldg_policy.octo.tokenizer import T5_FILE, TOKENIZER_FILE, InstructionTokenizer, find_t5, find_tokenizer, t5_json
from rldg_policy.octo.transformer import LANGUAGE


def parameter_shapes(module: OctoModule, example_batch: Mapping[str, Any]) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Return path a/b/c -> shape and dtype of every parameter, without computing anything."""
    observations, instruction = example_batch["observation"], example_batch["task"][LANGUAGE]
    sizes = tuple(image_sizes(observations).items())
    return _shapes(module, sizes, observations["timestep_pad_mask"].shape[1], instruction["input_ids"].shape[1])


@lru_cache(maxsize=8)
def _shapes(
    module: OctoModule, sizes: tuple[tuple[str, int], ...], window: int, length: int
) -> Mapping[str, jax.ShapeDtypeStruct]:
    images = {key: _like((1, window, size, size, 3), np.uint8) for key, size in sizes}
    ids = _like((1, length), np.int32)
    tasks = {LANGUAGE: {"input_ids": ids, "attention_mask": ids}}
    tree = jax.eval_shape(module.init, jax.random.PRNGKey(0), images, tasks, _like((1, window), np.bool_))
    return MappingProxyType(flatten_dict(tree["params"], sep="/"))


def _like(shape: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def make_example_batch(sizes: Mapping[str, int], window: int, head: HeadConfig, text_length: int) -> dict[str, Any]:
    """Return upstream's example_batch: one sample of zeros. sizes: image_primary ... -> side [px]."""
    timestep_pad_mask = np.ones((1, window), dtype=bool)
    chunk = (1, window, head.action_horizon, head.action_dim)
    images = {key: np.zeros((1, window, size, size, 3), np.uint8) for key, size in sizes.items()}
    goals = {key: image[:, 0] for key, image in images.items()}
    instruction = {name: np.zeros((1, text_length), np.int32) for name in ("input_ids", "attention_mask")}
    no_goal = {key: np.zeros(1, dtype=bool) for key in goals}
    return {
        "observation": images
        | {"timestep_pad_mask": timestep_pad_mask, "pad_mask_dict": dict.fromkeys(images, timestep_pad_mask)},
        "task": goals
        | {
            LANGUAGE: instruction,
            "pad_mask_dict": no_goal | {LANGUAGE: np.ones(1, dtype=bool)},
        },
        "action": np.zeros(chunk, np.float32),
        "action_pad_mask": np.ones(chunk, dtype=bool),
    }


def image_sizes(observations: Mapping[str, Any]) -> dict[str, int]:
    """Return image (image_primary ...) -> side [px]."""
    return {key: int(value.shape[2]) for key, value in observations.items() if key.startswith("image_")}


ARRAYS_FILE, NAMES_FILE = "checkpoint", "_METADATA"
STORE_FILE = "manifest.ocdbt"


def write_params(folder: Path, params: Params) -> None:
    """Write the arrays of `params` into a new folder."""
    folder.mkdir(parents=True)
    with (folder / ARRAYS_FILE).open("wb") as file:
        _write_tree(file, params)
    names = {str(path): _described(path) for path in flatten_dict(params)}
    (folder / NAMES_FILE).write_text(json.dumps({"tree_metadata": names}))


def read_params(folder: Path, expected: Mapping[str, jax.ShapeDtypeStruct]) -> Params:
    """Read the weights as numpy arrays. expected: path a/b/c -> shape and dtype.

    Raises UserError when files are damaged or hold other arrays.
    """
    try:
        found = _read_one_file(folder / ARRAYS_FILE)
        if found is None:
            found = _read_store(folder, expected)
    except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        raise UserError(f"{folder}: damaged weights: {' '.join(str(error).split())[:200]}") from error
    flat = flatten_dict(found, sep="/")
    _check_names(folder, flat, expected)
    for name, value in flat.items():
        spec = expected[name]
        if value.shape != spec.shape or value.dtype != spec.dtype:
            raise UserError(
                f"{folder}: {name}: {value.dtype} {value.shape}, config.json describes {spec.dtype} {spec.shape}"
            )
    check_finite(folder, flat.items())
    return found


def _write_tree(file: BinaryIO, tree: Any) -> None:
    """Write flax's msgpack array by array; serialising everything at once would need three times the memory."""
    if not isinstance(tree, Mapping):
        file.write(msgpack_serialize(np.asarray(tree)))
        return
    file.write(msgpack.Packer().pack_map_header(len(tree)))
    for name, value in tree.items():
        file.write(msgpack.packb(name))
        _write_tree(file, value)


def _described(path: tuple[str, ...]) -> dict[str, Any]:
    keys = [{"key": key, "key_type": 2} for key in path]  # 2: key of a dictionary
    return {"key_metadata": keys, "value_metadata": {"value_type": "jax.Array", "skip_deserialize": True}}


def _read_one_file(path: Path) -> Params | None:
    """Read the msgpack file; None when the arrays are in tensorstore files (no msgpack file, or names in it)."""
    if not path.is_file():
        if not (path.parent / STORE_FILE).is_file():
            raise ValueError(f"neither {ARRAYS_FILE} nor {STORE_FILE} found")
        return None
    with open_regular(path) as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        found: Params = msgpack_restore(data)  # bounded: by its length
    values = list(flatten_dict(found).values())
    if any(isinstance(value, str) for value in values):
        return None
    if not values or not all(isinstance(value, np.ndarray) for value in values):
        raise ValueError(f"{ARRAYS_FILE} holds values that are not arrays")
    return found


def _read_store(folder: Path, expected: Mapping[str, Any]) -> Params:
    """Read the tensorstore files; names are checked before any array is read."""
    check_tree(folder)
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    keys = ts.KvStore.open(store).result().list().result()
    names = {key.decode().partition("/")[0].replace(".", "/") for key in keys}
    _check_names(folder, names, expected)
    reading = {
        name: ts.open({"driver": "zarr", "kvstore": {**store, "path": name.replace("/", ".")}}).result().read()
        for name in names
    }
    found: Params = unflatten_dict({name: array.result() for name, array in reading.items()}, sep="/")
    return found


def _check_names(folder: Path, names: Iterable[str], expected: Mapping[str, Any]) -> None:
    found = set(names)
    missing, unknown = sorted(set(expected) - found), sorted(found - set(expected))
    if missing or unknown:
        first = f"first missing: {missing[0]}" if missing else f"first unknown: {unknown[0]}"
        raise UserError(f"{folder}: {len(found)} arrays, config.json describes {len(expected)}: {first}")


CHECKSUM_FILE = "weights.sha256"


def write_checksums(folder: Path) -> None:
    """Write folder/weights.sha256 with the checksums of all files in the folder, in the format of sha256sum."""
    (folder / CHECKSUM_FILE).write_text("".join(f"{value}  {name}\n" for name, value in _checksums(folder).items()))


def check_checksums(folder: Path) -> None:
    """Raise UserError naming the first file whose checksum differs. Without weights.sha256, nothing is checked."""
    path = folder / CHECKSUM_FILE
    if not path.is_file():
        return
    lines = [line.partition("  ") for line in read_text(path).splitlines()]
    written = {name: value for value, _, name in lines}
    found = _checksums(folder)
    for name in sorted({*written, *found}):
        if name not in found:
            raise UserError(f"{folder / name}: missing, {CHECKSUM_FILE} lists it")
        if written.get(name) != found[name]:
            raise UserError(
                f"{folder / name}: damaged or from another checkpoint: its sha256 is not in {CHECKSUM_FILE}"
            )


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUM_FILE)
    return {str(path.relative_to(folder)): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


CONFIG_FILE, EXAMPLE_FILE, ITEM = "config.json", "example_batch.msgpack", "default"
RANDOM_KEY = "random"


@dataclass(frozen=True)
class OctoCheckpoint:
    """A checkpoint in memory. config: content of config.json; params: arrays; example_batch: upstream's, one sample;
    manifest: None for a checkpoint of upstream; step: optimiser steps."""

    config: Mapping[str, Any]
    module: OctoModule
    params: Params
    example_batch: Mapping[str, Any]
    tokenizer: InstructionTokenizer
    manifest: Manifest | None
    step: int

    @property
    def window(self) -> int:
        """Window that the checkpoint was trained with."""
        return int(self.example_batch["observation"]["timestep_pad_mask"].shape[1])

    @property
    def image_sizes(self) -> dict[str, int]:
        """Return image (image_primary ...) -> side [px]."""
        return image_sizes(self.example_batch["observation"])


def read_checkpoint(folder: Path) -> OctoCheckpoint:
    """Read a folder with the weights of the manifest's step, else of the last step.

    Raises UserError `file: reason` on the first error.
    """
    manifest = read_manifest(folder)
    check_backend(folder, manifest, "octo")
    raw = read_json(folder / CONFIG_FILE)
    config = validated(OctoConfig, raw, str(folder / CONFIG_FILE))
    t5 = find_t5(folder, config.model.task_tokenizers.language.encoder)
    tokenizer = find_tokenizer(folder, config.text_processor)
    if tokenizer.vocabulary > t5.vocab_size:
        raise UserError(
            f"{folder / config.text_processor.tokenizer_name}: the tokenizer has ids up to {tokenizer.vocabulary - 1}, "
            f"the language encoder {t5.vocab_size} embeddings"
        )
    module = OctoModule(config.model, t5)
    example = _read_example(folder / EXAMPLE_FILE)
    try:
        shapes = parameter_shapes(module, example)
    except (FlaxError, ValueError, TypeError, LookupError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / EXAMPLE_FILE}: does not fit {CONFIG_FILE}: {reason}") from error
    step = _step(folder, manifest)
    check_checksums(folder / str(step))
    params = read_params(folder / str(step) / ITEM, shapes)
    return OctoCheckpoint(raw, module, params, example, tokenizer, manifest, step)


def write_checkpoint(
    folder: Path, checkpoint: OctoCheckpoint, statistics_json: bytes, manifest: Manifest | None
) -> None:
    """Write the folder atomically.

    statistics_json: content of dataset_statistics.json, whose SHA-256 is in the manifest; manifest: None for none. The
    step of the weights is the manifest's version, without a manifest that of `checkpoint`. Raises UserError when a
    weight is not finite.
    """
    weights = flatten_dict(checkpoint.params, sep="/")
    check_finite(f"{folder}: not written", ((name, np.asarray(value)) for name, value in weights.items()))
    encoder = checkpoint.module.config.task_tokenizers.language.encoder
    tokenizer = checkpoint.tokenizer.config.tokenizer_name
    step = manifest.version if manifest else checkpoint.step
    with writing_aside(folder) as aside:
        for name in {encoder, tokenizer}:
            (aside / name).mkdir(parents=True)
        (aside / encoder / T5_FILE).write_bytes(t5_json(checkpoint.module.t5))
        for file, content in checkpoint.tokenizer.files.items():
            (aside / tokenizer / file).write_bytes(content)
        (aside / CONFIG_FILE).write_text(json.dumps(checkpoint.config, indent=2))
        (aside / EXAMPLE_FILE).write_bytes(msgpack_serialize(checkpoint.example_batch))
        (aside / STATISTICS_FILE).write_bytes(statistics_json)
        write_params(aside / str(step) / ITEM, checkpoint.params)
        write_checksums(aside / str(step))
        if manifest:
            write_manifest(aside, manifest)


def write_random(folder: Path, config: OctoSize, seed: int) -> None:
    """Write a checkpoint with random weights from `seed`, and statistics with key "random" for small actions."""
    statistics = json.dumps({RANDOM_KEY: {"action": small_actions()}}).encode()
    manifest = Manifest(
        backend="octo",
        image_size=config.image_size,
        window=config.window,
        horizon=config.horizon,
        rate_hz=10.0,
        statistics_key=RANDOM_KEY,
        statistics_sha256=sha256_hex(statistics),
        version=0,
    )
    write_checkpoint(folder, random_checkpoint(config, seed), statistics, manifest)


def random_checkpoint(config: OctoSize, seed: int) -> OctoCheckpoint:
    """Return a checkpoint with random weights from `seed`, without manifest."""
    raw = upstream_config(config)
    parsed = validated(OctoConfig, raw, "OctoSize")
    module = OctoModule(parsed.model, config.t5)
    sizes = {"image_primary": config.image_size} | ({"image_wrist": 128} if config.wrist else {})
    length = parsed.text_processor.tokenizer_kwargs.max_length
    example = make_example_batch(sizes, config.window, parsed.model.heads.action, length)
    params = draw_params(parameter_shapes(module, example), seed)
    tokenizer = InstructionTokenizer({TOKENIZER_FILE: word_tokenizer()}, parsed.text_processor, "random")
    return OctoCheckpoint(raw, module, params, example, tokenizer, None, 0)


def _read_example(path: Path) -> dict[str, Any]:
    try:
        example = msgpack_restore(read_bytes(path))  # bounded: by its length
        observations = example["observation"]
        if observations["timestep_pad_mask"].ndim != 2 or example["task"][LANGUAGE]["input_ids"].ndim != 2:
            raise ValueError(f"timestep_pad_mask or {LANGUAGE} has another shape")
        sizes = image_sizes(observations)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"{path}: not an example batch of Octo: {' '.join(str(error).split())[:200]}") from error
    if not sizes:
        raise UserError(f"{path}: no image in the observation")
    result: dict[str, Any] = example
    return result


def _step(folder: Path, manifest: Manifest | None) -> int:
    """Return the manifest's step, so that weights can be replaced while they are read; else the last step."""
    if manifest and (folder / str(manifest.version) / ITEM).is_dir():
        return manifest.version
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdecimal() and (path / ITEM).is_dir()]
    if not steps:
        raise UserError(f"{folder}: no weights found, expected a folder <step>/{ITEM}")
    return max(steps)
