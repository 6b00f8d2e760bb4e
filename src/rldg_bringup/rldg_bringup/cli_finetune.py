"""`rldg finetune`: one command per kind of generalist. Defaults are those of its training configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rldg_bringup.cli_common import MANY, Json, Seed, emit, existing, progress_maker, sub_app
from rldg_core.configuration import validated
from rldg_policy.checkpoint.manifest import Backend
from rldg_policy.compact.config import TrainConfig as CompactTrainConfig
from rldg_policy.octo.train_config import Mode, OctoTrainConfig
from rldg_policy.openvla.train_config import OpenVLATrainConfig
from rldg_policy.training.folders import check_base, check_out

app = sub_app()

COMPACT, OPENVLA, OCTO = CompactTrainConfig(), OpenVLATrainConfig(), OctoTrainConfig()

Dataset = Annotated[Path, typer.Argument(help="Dataset folder <root>/<name>/<version>.")]
Out = Annotated[Path, typer.Option(help="Checkpoint folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the unfinished training in --out.")]
Steps = Annotated[int, typer.Option(min=1, max=MANY, help="Optimiser steps.")]
Batch = Annotated[int, typer.Option(min=1, max=MANY, help="Samples per step.")]
LearningRate = Annotated[
    float, typer.Option(min=1e-12, max=10, help="Of AdamW; its highest where there is a schedule.")
]
SaveEvery = Annotated[
    int, typer.Option(min=1, max=MANY, help="Steps between checkpoints; --resume goes on from the last.")
]
ShuffleBuffer = Annotated[
    int, typer.Option(min=1, max=MANY, help="Samples held for shuffling (JPEG, about 10 kB each).")
]

Camera = Annotated[
    str | None, typer.Option(help="Camera that took the images; needed where the dataset does not say it.")
]

Finetune = Callable[..., Any]


@app.callback()
def _group() -> None:
    """Fine-tune a generalist on an RLDS dataset."""


@app.command()
def compact(
    dataset: Dataset,
    out: Out,
    head: Annotated[
        Literal["bins", "diffusion"], typer.Option(help="How actions come out: as OpenVLA's or as Octo's.")
    ] = COMPACT.model.head,
    decode: Annotated[
        Literal["sample", "mean", "mode"], typer.Option(help="How actions are taken from it; mode: with bins alone.")
    ] = COMPACT.model.decode,
    horizon: Annotated[int, typer.Option(min=1, max=1000, help="Actions per chunk.")] = COMPACT.model.horizon,
    window: Annotated[int, typer.Option(min=1, max=2, help="Observations it sees: 1 or 2.")] = COMPACT.model.window,
    steps: Steps = COMPACT.steps,
    batch: Batch = COMPACT.batch,
    learning_rate: LearningRate = COMPACT.learning_rate,
    mirror: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of samples seen in a mirror: for a camera in the hand's plane of symmetry."
        ),
    ] = COMPACT.mirror,
    shuffle_buffer: ShuffleBuffer = COMPACT.shuffle_buffer,
    camera: Camera = None,
    save_every: SaveEvery = COMPACT.save_every,
    resume: Resume = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The compact generalist: 1-3 M parameters, minutes on one core."""
    options = {
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "mirror": mirror,
        "shuffle_buffer": shuffle_buffer,
        "save_every": save_every,
        "model": {"head": head, "decode": decode, "horizon": horizon, "window": window},
    }
    config = validated(CompactTrainConfig, options, "finetune compact")
    check_folders("compact", dataset, out, resume=resume)
    from rldg_policy.compact.train import finetune

    run(finetune, dataset, out, config, as_json, seed=seed, resume=resume, camera=camera)


@app.command()
def openvla(
    dataset: Dataset,
    base: Annotated[Path, typer.Option(help="Checkpoint that is fine-tuned: a Hugging Face OpenVLA folder.")],
    out: Out,
    steps: Steps = OPENVLA.steps,
    batch: Annotated[int, typer.Option(min=1, max=MANY, help="Samples per process and micro-batch.")] = OPENVLA.batch,
    accumulation: Annotated[int, typer.Option(min=1, max=MANY, help="Micro-batches per step.")] = OPENVLA.accumulation,
    learning_rate: LearningRate = OPENVLA.learning_rate,
    rank: Annotated[int, typer.Option(min=1, max=10_000, help="Of the LoRA adapters.")] = OPENVLA.rank,
    alpha: Annotated[int, typer.Option(min=1, max=1_000_000, help="Scale of the LoRA adapters.")] = OPENVLA.alpha,
    decoding: Annotated[
        Literal["ar", "parallel"], typer.Option(help="One token after another, or chunks in one pass (OpenVLA-OFT).")
    ] = OPENVLA.decoding,
    head: Annotated[
        Literal["bins", "l1"], typer.Option(help="Of parallel decoding: 256 bins, or continuous by L1 regression.")
    ] = OPENVLA.head,
    horizon: Annotated[
        int, typer.Option(min=1, max=1000, help="Actions per chunk of parallel decoding.")
    ] = OPENVLA.horizon,
    precision: Annotated[Literal["auto", "bf16", "fp32"], typer.Option()] = OPENVLA.precision,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option(help="Trade time for memory; default: on a GPU.")
    ] = OPENVLA.gradient_checkpointing,
    augment: Annotated[bool, typer.Option(help="Crop and vary colours as upstream does.")] = OPENVLA.augment,
    shuffle_buffer: ShuffleBuffer = OPENVLA.shuffle_buffer,
    camera: Camera = None,
    save_every: SaveEvery = OPENVLA.save_every,
    resume: Resume = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """OpenVLA with LoRA adapters, merged in the end.

    Several GPUs: `accelerate launch --config_file ddp.yaml -m rldg_policy.openvla.train DATASET --base BASE --out OUT`.
    """
    options = {
        "steps": steps,
        "batch": batch,
        "accumulation": accumulation,
        "learning_rate": learning_rate,
        "rank": rank,
        "alpha": alpha,
        "decoding": decoding,
        "head": head,
        "horizon": horizon,
        "precision": precision,
        "gradient_checkpointing": gradient_checkpointing,
        "augment": augment,
        "shuffle_buffer": shuffle_buffer,
        "save_every": save_every,
    }
    config = validated(OpenVLATrainConfig, options, "finetune openvla")
    check_folders("openvla", dataset, out, base, resume)
    from rldg_policy.openvla.train import finetune

    run(finetune, dataset, out, config, as_json, base=base, seed=seed, resume=resume, camera=camera)


@app.command()
def octo(
    dataset: Dataset,
    base: Annotated[Path, typer.Option(help="Checkpoint that is fine-tuned: a folder of Octo 1.5.")],
    out: Out,
    steps: Steps = OCTO.steps,
    batch: Batch = OCTO.batch,
    learning_rate: LearningRate = OCTO.learning_rate,
    warmup_steps: Annotated[
        int, typer.Option(min=0, max=MANY, help="Steps until the highest learning rate.")
    ] = OCTO.warmup_steps,
    mode: Annotated[Mode, typer.Option(help="Which parameters learn.")] = OCTO.mode,
    freeze: Annotated[
        list[str] | None, typer.Option(help="Further parameters that stand still: a pattern over dotted paths; repeat.")
    ] = None,
    window: Annotated[int, typer.Option(min=1, max=1000, help="Observations per sample.")] = OCTO.window,
    shuffle_buffer: ShuffleBuffer = OCTO.shuffle_buffer,
    camera: Camera = None,
    save_every: SaveEvery = OCTO.save_every,
    resume: Resume = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Octo as RLDG does: wrist image into the primary tokenizer, language, everything but the text encoder learns."""
    options = {
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
        "mode": mode,
        "frozen": tuple(freeze or ()),
        "window": window,
        "shuffle_buffer": shuffle_buffer,
        "save_every": save_every,
    }
    config = validated(OctoTrainConfig, options, "finetune octo")
    check_folders("octo", dataset, out, base, resume)
    from rldg_policy.octo.train import finetune

    run(finetune, dataset, out, config, as_json, base=base, seed=seed, resume=resume, camera=camera)


def check_folders(backend: Backend, dataset: Path, out: Path, base: Path | None = None, resume: bool = False) -> None:
    """Before torch or jax is imported: inputs are there and fit, and --out may be written. Raises UserError."""
    existing(dataset)
    if base is not None:
        existing(base)
    check_out(out, backend, base, resume=resume)
    if backend != "compact":
        check_base(base, backend)


def run(finetune: Finetune, dataset: Path, out: Path, config: Any, as_json: bool, **more: Any) -> None:
    """Train with a progress bar, then print the result."""
    with progress_maker() as make:
        result = asdict(finetune(dataset, out, config, progress=make("fine-tune"), **more))
    shown = {**result, "checkpoint": str(out)}
    if not as_json:
        curves = {key: value for key, value in result.items() if isinstance(value, tuple)}
        shown |= {key: " -> ".join(f"{v:.4g}" for v in (value[0], value[-1])) for key, value in curves.items() if value}
    emit(shown, as_json, "generalist")
