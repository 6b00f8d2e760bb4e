"""Fine-tuning of Octo as in RLDG: wrist image and instruction; all parameters except the language encoder are trained.

The wrist image goes into the primary tokenizer, and the wrist tokenizer is removed. No goal image is given, so the
primary tokenizer uses zeros in its place. Source: paper, appendix; octo-models/octo, scripts/finetune.py.
"""

from __future__ import annotations

import copy
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
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
from rldg_policy.octo.batch import PRIMARY, Batch, BatchSource
from rldg_policy.octo.checkpoint import OctoCheckpoint, make_example_batch, read_checkpoint
from rldg_policy.octo.config import OctoConfig, OctoTrainConfig
from rldg_policy.octo.model import OctoModule, Params, diffusion_loss
from rldg_policy.octo.steps import Flat, Steps, TrainState, count, optimiser, partition, unflatten
from rldg_policy.octo.training_state import CheckpointFolder
from rldg_policy.training.dataset import TrainingSet, open_training_set
from rldg_policy.training.run import (
    check_base,
    check_loss,
    check_out,
    check_same_training,
    curve,
    explain_out_of_memory,
    training_identity,
    training_report,
)

PRIMARY_TOKENIZER = "primary"


def rldg_variant(config: Mapping[str, Any], params: Params) -> tuple[dict[str, Any], Params]:
    """Return (config.json, parameters) with the observation tokenizer `primary` only; arrays are not copied.

    Raises UserError when there is no primary tokenizer.
    """
    variant = copy.deepcopy(dict(config))
    tokenizers = variant["model"]["observation_tokenizers"]
    if PRIMARY_TOKENIZER not in tokenizers:
        raise UserError(f"config.json: model.observation_tokenizers: no {PRIMARY_TOKENIZER!r}: {', '.join(tokenizers)}")
    dropped = [name for name in tokenizers if name != PRIMARY_TOKENIZER]
    variant["model"]["observation_tokenizers"] = {PRIMARY_TOKENIZER: tokenizers[PRIMARY_TOKENIZER]}
    removed = {
        part
        for name in dropped
        for part in (f"observation_tokenizers_{name}", f"obs_{name}_projection", f"obs_{name}_pos_embedding")
    }
    transformer = {name: value for name, value in params["octo_transformer"].items() if name not in removed}
    return variant, {**params, "octo_transformer": transformer}


@dataclass
class History:
    """History of a training. losses: of every step; validation_losses: of every save; last_checkpoint: newest one."""

    losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    last_checkpoint: Path | None = None


def fit(
    steps: Steps,
    state: TrainState,
    frozen: Flat,
    batches: Iterator[Batch],
    config: OctoTrainConfig,
    history: History,
    save: Callable[[int, TrainState], None],
    progress: Progress | None = None,
) -> float:
    """Train from step len(history.losses) to the last one; call save(step, state) every `save_every` steps and at the
    end.

    Returns samples per second without the first step, which compiles, and without saving (0: no other step). Raises
    UserError when a loss is not finite; that step is not saved.
    """
    first = len(history.losses)
    running: deque[jax.Array] = deque()
    busy_s, started = 0.0, time.perf_counter()
    for number in range(first + 1, config.steps + 1):
        state, loss = steps.train(state, frozen, next(batches))
        running.append(loss)
        save_now = number % config.save_every == 0 or number == config.steps
        # Asynchronous: the device computes this step while the previous loss is read and the next batch is decoded.
        while len(running) > (0 if save_now or number == first + 1 else 1):
            value = float(running.popleft())
            check_loss(len(history.losses) + 1, value, history.last_checkpoint)
            history.losses.append(value)
            if progress:
                progress(len(history.losses), config.steps)
        if number == first + 1:
            started = time.perf_counter()
        if save_now:
            busy_s += time.perf_counter() - started
            save(number, state)
            started = time.perf_counter()
    timed = config.steps - first - 1
    return timed * config.batch / busy_s if timed > 0 else 0.0


ENCODER = ".hf_model."
"""Part of the path of every parameter of the language encoder."""
FREE = {"save_every", "validation_batches", "workers"}
"""Options that may change when a training is resumed: the parameters do not depend on them."""


@dataclass(frozen=True)
class OctoTrainResult:
    """Result of a training. samples: total drawn; parameters: all; trained: trainable ones; losses: mean of every 50
    steps; validation_losses: of every save, empty without a split `val`; samples_per_s: 0 if only one step was made."""

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
    """Fine-tune the checkpoint `base` on an RLDS dataset `<root>/<name>/<version>` and write a checkpoint to `out`.

    resume: continue from the last save in `out` with the same dataset, base, configuration and seed; the result is that
    of an uninterrupted run. camera: see `open_training_set`. Raises UserError on invalid input, on a loss that is not
    finite, and when memory runs out.
    """
    check_out(out, "octo", base, resume=resume)
    base = check_base(base, "octo")
    output = CheckpointFolder(out, resume)
    data = open_training_set(dataset, camera)
    initial = initial_checkpoint(base, config)
    initial.tokenizer(data.instructions)
    trainable, frozen = partition(initial.params, config.patterns)
    identity = training_identity(data, config, seed, free=FREE, base=_checksum(trainable | frozen))
    advice = f"lower batch ({config.batch}) or window ({config.window}), or choose mode head_only"
    with explain_out_of_memory(advice), ThreadPoolExecutor(config.workers) as pool:
        loss = partial(diffusion_loss, initial.module)
        steps = Steps(loss, optimiser(trainable, config), config.batch, derive_seed(seed, "steps"))
        state, history = steps.start(trainable), History()
        if output.has_state:
            state, history = _resumed(output, steps, state, identity)
        frozen_on_device = steps.replicate({path: value for path, value in frozen.items() if ENCODER not in path})
        head = initial.module.config.heads.action
        source = BatchSource(
            data, config, initial.image_sizes[PRIMARY], head.action_horizon, _language(initial, frozen), pool, seed
        )

        def publish(step: int, params: Flat) -> None:
            trained = replace(initial, params=unflatten({**jax.device_get(params), **frozen}))
            output.publish(trained, data.statistics_json, _manifest(data, initial, config, step))
            history.last_checkpoint = out

        def save(step: int, state: TrainState) -> None:
            validation = [
                steps.validate(state.params, frozen_on_device, b, n) for n, b in enumerate(source.validation())
            ]
            if validation:
                history.validation_losses.append(float(np.mean(validation)))
            curves = {"losses": history.losses, "validation_losses": history.validation_losses}
            output.write_state(state, {"identity": identity, **curves})
            publish(step, state.params)

        if output.has_state:
            publish(len(history.losses), state.params)
        samples_per_s = fit(
            steps, state, frozen_on_device, source.training(len(history.losses)), config, history, save, progress
        )
    result = OctoTrainResult(
        checkpoint=out,
        steps=config.steps,
        samples=config.steps * config.batch,
        episodes=data.episodes,
        parameters=count(trainable) + count(frozen),
        trained=count(trainable),
        devices=jax.local_device_count(),
        losses=curve(history.losses),
        validation_losses=tuple(history.validation_losses),
        samples_per_s=samples_per_s,
    )
    output.finish(training_report(asdict(result), dataset, data.sha256, base, seed, config))
    return result


def initial_checkpoint(base: Path, config: OctoTrainConfig) -> OctoCheckpoint:
    """Return RLDG's variant of a checkpoint: one image, no wrist tokenizer, the window of this training.

    Raises UserError when the checkpoint is invalid or cannot be trained with this configuration.
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
            f"window: {config.window}, but {base} has position embeddings for at most {model.max_horizon} observations"
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


def _language(initial: OctoCheckpoint, frozen: Flat) -> Callable[[str], NDArray[np.float32]]:
    """Return a cached function instruction -> embeddings (L, D); the encoder is frozen."""
    encoder = {"params": unflatten({path: value for path, value in frozen.items() if ENCODER in path})}
    encode = jax.jit(partial(initial.module.apply, method="encode_language"))

    @cache
    def embeddings(instruction: str) -> NDArray[np.float32]:
        found: NDArray[np.float32] = np.asarray(encode(encoder, **initial.tokenizer([instruction])))[0]
        return found

    return embeddings


def _manifest(data: TrainingSet, initial: OctoCheckpoint, config: OctoTrainConfig, step: int) -> Manifest:
    return data.manifest(
        "octo",
        step,
        image_size=initial.image_sizes[PRIMARY],
        window=config.window,
        horizon=initial.module.config.heads.action.action_horizon,
    )


def _resumed(
    output: CheckpointFolder, steps: Steps, template: TrainState, identity: dict[str, Any]
) -> tuple[TrainState, History]:
    state, meta = output.read_state(template)
    check_same_training(output.path, meta["identity"], identity)
    return steps.replicate(state), History(meta["losses"], meta["validation_losses"], output.path)


def _checksum(params: Flat) -> str:
    total = 0
    for path, value in params.items():
        total = zlib.crc32(np.ascontiguousarray(value).data, zlib.crc32(path.encode(), total))
    return f"{total:08x}"
