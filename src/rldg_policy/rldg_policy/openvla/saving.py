"""One save of a training: the merged checkpoint, its adapters, and what the training goes on from, in one folder.

One rename publishes all of it, so weights, statistics and training state always belong together, and those of the
save before stay until then.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rldg_core.files import write_json, writing_aside
from rldg_policy.checkpoint.manifest import Manifest
from rldg_policy.openvla.checkpoint import write_files
from rldg_policy.openvla.config import IMAGE_SIZE, INFERENCE_HZ, DecodingConfig, OpenVLATrainConfig
from rldg_policy.openvla.lora import write_adapter
from rldg_policy.openvla.report import OpenVLATrainResult
from rldg_policy.openvla.starting import Start
from rldg_policy.training.dataset import TrainingSet
from rldg_policy.training.folders import TRAINING_FILE, TRAINING_FOLDER
from rldg_policy.training.report import account
from rldg_policy.training.torch_state import check_finite, write_state

ADAPTER_FOLDER = "adapter"
"""Not beside the merged weights: transformers would load the base named there instead of them."""


@dataclass(frozen=True)
class Contents:
    """What does not change from save to save, and is told of the training."""

    data: TrainingSet
    start: Start
    config: OpenVLATrainConfig
    seed: int


def write_save(
    out: Path,
    contents: Contents,
    result: OpenVLATrainResult,
    merged: Iterable[tuple[str, Tensor]],
    adapter: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None,
    meta: Mapping[str, Any],
) -> None:
    """Put a save in the place of the one before. state, meta: to resume from (None: the training is finished).

    Raises UserError when the disk is full; what was there before stays.
    """
    with writing_aside(out) as aside:
        aside.mkdir()
        write_files(
            aside,
            contents.start.model.config,
            _finite(merged, f"step {result.steps}: the training has diverged, this save is not written"),
            statistics_json=contents.data.statistics_json,
            manifest=manifest(contents, result.steps),
            decoding=DecodingConfig(
                decoding=contents.config.decoding,
                head=contents.config.head,
                horizon=contents.config.horizon,
                centre_crop=contents.config.augment,
            ),
            tokenizer_from=contents.start.base,
        )
        (aside / ADAPTER_FOLDER).mkdir()
        write_adapter(aside / ADAPTER_FOLDER, contents.start.adapter, adapter)
        data = contents.data
        story = account(
            asdict(result), data.dataset.path, data.sha256, contents.start.base, contents.seed, contents.config
        )
        write_json(aside / TRAINING_FILE, story)
        if state is not None:
            write_state(aside / TRAINING_FOLDER, result.steps, state, meta)


def _finite(tensors: Iterable[tuple[str, Tensor]], where: str) -> Iterator[tuple[str, Tensor]]:
    """The same tensors. Raises UserError on the first that is not finite: merging can overflow what adapters hold."""
    for name, tensor in tensors:
        check_finite(where, [(name, tensor)])
        yield name, tensor


def manifest(contents: Contents, step: int) -> Manifest:
    """rldg.json of a save."""
    return contents.data.manifest(
        "openvla",
        step,
        image_size=IMAGE_SIZE,
        window=1,
        horizon=contents.config.horizon,
        inference_hz=min(INFERENCE_HZ, contents.data.rate_hz),
    )


def remove_leftovers(out: Path) -> None:
    """Remove what a run that was killed while it saved has left beside `out`; a 7B model is 15 GB."""
    for folder in out.parent.glob(f".{out.name}.????????.partial"):
        shutil.rmtree(folder, ignore_errors=True)
