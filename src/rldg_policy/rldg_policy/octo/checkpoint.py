"""Checkpoint folders of Octo, as upstream lays them out, read strictly and written whole.

    config.json  example_batch.msgpack  dataset_statistics.json  <step>/default/ (weights.py)
    <tokenizer's name>/ (tokenizer.json, config.json of the T5)  ours: rldg.json (manifest), <step>/weights.sha256
Source: octo-models/octo, octo/model/octo_model.py (load_pretrained, save_pretrained).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.errors import FlaxError
from flax.serialization import msgpack_restore, msgpack_serialize
from flax.traverse_util import flatten_dict

from rldg_core.configuration import validated
from rldg_core.errors import UserError
from rldg_core.files import read_bytes, read_json, sha256_hex, writing_aside
from rldg_core.policy_checks import check_finite
from rldg_policy.checkpoint.manifest import Manifest, check_backend, read_manifest, write_manifest
from rldg_policy.checkpoint.statistics import STATISTICS_FILE
from rldg_policy.octo.config import OctoConfig
from rldg_policy.octo.example import image_sizes, make_example_batch, parameter_shapes
from rldg_policy.octo.model import OctoModule, Params
from rldg_policy.octo.random import OctoSize, draw_params, small_actions, upstream_config, word_tokenizer
from rldg_policy.octo.sums import check_sums, write_sums
from rldg_policy.octo.text import T5_FILE, TOKENIZER_FILE, InstructionTokenizer, find_t5, find_tokenizer, t5_json
from rldg_policy.octo.transformer import LANGUAGE
from rldg_policy.octo.weights import read_params, write_params

CONFIG_FILE, EXAMPLE_FILE, ITEM = "config.json", "example_batch.msgpack", "default"
RANDOM_KEY = "random"


@dataclass(frozen=True)
class OctoCheckpoint:
    """config: config.json as it is; params: arrays; example_batch: upstream's, one sample; manifest: None for a
    checkpoint of upstream; step: optimiser steps."""

    config: Mapping[str, Any]
    module: OctoModule
    params: Params
    example_batch: Mapping[str, Any]
    tokenizer: InstructionTokenizer
    manifest: Manifest | None
    step: int

    @property
    def window(self) -> int:
        """Observations that it was trained with."""
        return int(self.example_batch["observation"]["timestep_pad_mask"].shape[1])

    @property
    def image_sizes(self) -> dict[str, int]:
        """Image (image_primary ...) -> its side [px]."""
        return image_sizes(self.example_batch["observation"])


def read_checkpoint(folder: Path) -> OctoCheckpoint:
    """Read a folder: the weights of the manifest's step, or of the last one.

    Raises UserError `file: reason` on the first thing that is wrong.
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
    check_sums(folder / str(step))
    params = read_params(folder / str(step) / ITEM, shapes)
    return OctoCheckpoint(raw, module, params, example, tokenizer, manifest, step)


def write_checkpoint(
    folder: Path, checkpoint: OctoCheckpoint, statistics_json: bytes, manifest: Manifest | None
) -> None:
    """Write the folder; it appears when it is complete.

    statistics_json: bytes of dataset_statistics.json, whose SHA-256 the manifest holds; manifest: None writes none.
    The weights' step is the manifest's version, without a manifest that of `checkpoint`. Raises UserError when a weight
    is not finite.
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
        write_sums(aside / str(step))
        if manifest:
            write_manifest(aside, manifest)


def write_random(folder: Path, config: OctoSize, seed: int) -> None:
    """Write a checkpoint whose weights depend on `seed` alone, with statistics of key "random" for small actions."""
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
    """The same in memory, without manifest."""
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
            raise ValueError(f"timestep_pad_mask or {LANGUAGE} of another form")
        sizes = image_sizes(observations)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"{path}: no example batch of Octo: {' '.join(str(error).split())[:200]}") from error
    if not sizes:
        raise UserError(f"{path}: no image among the observations")
    result: dict[str, Any] = example
    return result


def _step(folder: Path, manifest: Manifest | None) -> int:
    """The step that the manifest names, so that its weights may be replaced under a reader; else the last one."""
    if manifest and (folder / str(manifest.version) / ITEM).is_dir():
        return manifest.version
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdecimal() and (path / ITEM).is_dir()]
    if not steps:
        raise UserError(f"{folder}: no weights: expected a folder <step>/{ITEM}")
    return max(steps)
