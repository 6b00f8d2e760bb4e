"""Fine-tuning of Octo as RLDG does it: wrist image and instruction; all parameters learn but the language encoder's.

Source: paper, appendix; octo-models/octo, scripts/finetune.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from rldg_core.configuration import validated
from rldg_core.errors import UserError
from rldg_core.seeding import derive_seed
from rldg_data.rlds import ACTION_DIM
from rldg_policy.checkpoint.manifest import Manifest
from rldg_policy.generalist import Progress
from rldg_policy.octo.batch import PRIMARY, BatchSource
from rldg_policy.octo.checkpoint import OctoCheckpoint, read_checkpoint
from rldg_policy.octo.config import OctoConfig, OctoTrainConfig
from rldg_policy.octo.example import make_example_batch
from rldg_policy.octo.fit import Record, fit
from rldg_policy.octo.freezing import Flat, count, optimiser, partition, unflatten
from rldg_policy.octo.model import OctoModule, diffusion_loss
from rldg_policy.octo.output import Output
from rldg_policy.octo.step import Steps, TrainState
from rldg_policy.octo.variant import rldg_variant
from rldg_policy.training.dataset import TrainingSet, open_training_set
from rldg_policy.training.folders import check_base, check_out
from rldg_policy.training.guards import check_same_training, explain_out_of_memory, training_identity
from rldg_policy.training.report import account, curve

ENCODER = ".hf_model."
"""In the path of every parameter of the language encoder."""
FREE = {"save_every", "validation_batches", "workers"}
"""Options that may change when a training is resumed, because the parameters do not depend on them."""


@dataclass(frozen=True)
class OctoTrainResult:
    """samples: drawn in all; parameters: all, trained: those that learn; losses: mean of every 50 steps;
    validation_losses: at every save, empty without a split `val`; samples_per_s: 0 when this process made one step."""

    checkpoint: Path
    steps: int
    samples: int
    episodes: int
    parameters: int
    trained: int
    devices: int
    losses: tuple[float, ...]
    validation_losses: tuple[float, ...]
    samples_per_s: float


def finetune(
    dataset: Path,
    out: Path,
    config: OctoTrainConfig,
    *,
    base: Path | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
    camera: str | None = None,
) -> OctoTrainResult:
    """Fine-tune the checkpoint `base` on an RLDS dataset `<root>/<name>/<version>`; `out` can be served afterwards.

    resume: go on from the last save in `out`, with the same dataset, base, configuration and seed; the result is that
    of an uninterrupted run. camera: see `open_training_set`. Raises UserError on what cannot be used, on a loss that is
    not finite, and when memory does not suffice.
    """
    check_out(out, "octo", base, resume=resume)
    base = check_base(base, "octo")
    output = Output(out, resume)
    data = open_training_set(dataset, camera)
    start = starting_point(base, config)
    start.tokenizer(data.instructions)
    learning, frozen = partition(start.params, config.patterns)
    identity = training_identity(data, config, seed, free=FREE, base=_checksum(learning | frozen))
    memory = f"lower batch ({config.batch}) or window ({config.window}), or choose mode head_only"
    with explain_out_of_memory(memory), ThreadPoolExecutor(config.workers) as pool:
        loss = partial(diffusion_loss, start.module)
        steps = Steps(loss, optimiser(learning, config), config.batch, derive_seed(seed, "steps"))
        state, record = steps.start(learning), Record()
        if output.has_state:
            state, record = _resumed(output, steps, state, identity)
        still = steps.replicate({path: value for path, value in frozen.items() if ENCODER not in path})
        head = start.module.config.heads.action
        source = BatchSource(
            data, config, start.image_sizes[PRIMARY], head.action_horizon, _language(start, frozen), pool, seed
        )

        def publish(step: int, params: Flat) -> None:
            trained = replace(start, params=unflatten({**jax.device_get(params), **frozen}))
            output.publish(trained, data.statistics_json, _manifest(data, start, config, step))
            record.last_checkpoint = out

        def save(step: int, state: TrainState) -> None:
            held_out = [steps.validate(state.params, still, b, n) for n, b in enumerate(source.validation())]
            if held_out:
                record.validation_losses.append(float(np.mean(held_out)))
            curves = {"losses": record.losses, "validation_losses": record.validation_losses}
            output.write_state(state, {"identity": identity, **curves})
            publish(step, state.params)

        if output.has_state:
            publish(len(record.losses), state.params)
        samples_per_s = fit(steps, state, still, source.training(len(record.losses)), config, record, save, progress)
    result = OctoTrainResult(
        checkpoint=out,
        steps=config.steps,
        samples=config.steps * config.batch,
        episodes=data.episodes,
        parameters=count(learning) + count(frozen),
        trained=count(learning),
        devices=jax.local_device_count(),
        losses=curve(record.losses),
        validation_losses=tuple(record.validation_losses),
        samples_per_s=samples_per_s,
    )
    output.finish(account(asdict(result), dataset, data.sha256, base, seed, config))
    return result


def starting_point(base: Path, config: OctoTrainConfig) -> OctoCheckpoint:
    """RLDG's variant of a checkpoint: one image, no wrist tokenizer, this training's window.

    Raises UserError when the checkpoint cannot be read or cannot be trained so.
    """
    checkpoint = read_checkpoint(base)
    raw, params = rldg_variant(checkpoint.config, checkpoint.params)
    raw["window_size"] = config.window
    parsed = validated(OctoConfig, raw, str(base / "config.json"))
    model, head = parsed.model, parsed.model.heads.action
    if head.action_dim != ACTION_DIM:
        raise UserError(f"{base}: predicts actions of {head.action_dim} components, the datasets have {ACTION_DIM}")
    if config.window > model.max_horizon:
        raise UserError(
            f"window: {config.window}, but {base} has positions for at most {model.max_horizon} observations"
        )
    if PRIMARY not in checkpoint.image_sizes:
        raise UserError(f"{base}: no {PRIMARY} in its example batch")
    size = {PRIMARY: checkpoint.image_sizes[PRIMARY]}
    text_length = parsed.text_processor.tokenizer_kwargs.max_length
    return OctoCheckpoint(
        config=raw,
        module=OctoModule(model, checkpoint.module.t5),
        params=params,
        example_batch=make_example_batch(size, config.window, head, text_length),
        tokenizer=checkpoint.tokenizer,
        manifest=None,
        step=0,
    )


def _language(start: OctoCheckpoint, frozen: Flat) -> Callable[[str], NDArray[np.float32]]:
    """Instruction -> its embeddings (L, D). The encoder never learns, so each instruction runs through it once."""
    encoder = {"params": unflatten({path: value for path, value in frozen.items() if ENCODER in path})}
    encode = jax.jit(partial(start.module.apply, method="encode_language"))

    @cache
    def embeddings(instruction: str) -> NDArray[np.float32]:
        found: NDArray[np.float32] = np.asarray(encode(encoder, **start.tokenizer([instruction])))[0]
        return found

    return embeddings


def _manifest(data: TrainingSet, start: OctoCheckpoint, config: OctoTrainConfig, step: int) -> Manifest:
    return data.manifest(
        "octo",
        step,
        image_size=start.image_sizes[PRIMARY],
        window=config.window,
        horizon=start.module.config.heads.action.action_horizon,
    )


def _resumed(output: Output, steps: Steps, template: TrainState, identity: dict[str, Any]) -> tuple[TrainState, Record]:
    state, meta = output.read_state(template)
    check_same_training(output.path, meta["identity"], identity)
    return steps.replicate(state), Record(meta["losses"], meta["validation_losses"], output.path)


def _checksum(params: Flat) -> str:
    total = 0
    for path, value in params.items():
        total = zlib.crc32(np.ascontiguousarray(value).data, zlib.crc32(path.encode(), total))
    return f"{total:08x}"
