"""`rldg classifier`: collect frames, train a reward classifier and evaluate it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from rldg_bringup.cli_common import MANY, Json, Namespace, Seed, TaskArgument, emit, expand_options, progress_maker
from rldg_core.errors import UserError

app = typer.Typer(help="Reward classifier: collect frames, train, evaluate.", no_args_is_help=True)

Sources = Annotated[list[Path], typer.Argument(help="Folders of bags, or of frames (positive/, negative/).")]
Out = Annotated[Path, typer.Option(help="Folder of the classifier, e.g. runs/insertion/a/classifier.")]
IgnoredBefore = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=MANY,
        help="Steps left out just before the success of a bag; default: 0 for ground truth, 5 for labels.",
    ),
]


def _ignored(task: Any, given: int | None) -> int:
    """People label an episode some frames after it has succeeded; ground truth does not."""
    return given if given is not None else 0 if task.reward.source == "ground_truth" else 5


@dataclass(frozen=True)
class LiveOptions:
    """How frames of a running stack are collected."""

    seconds: Annotated[float, typer.Option(min=1.0, max=1e9, help="Stop after this time; Ctrl-C stops earlier.")] = (
        600.0
    )
    positives: Annotated[int, typer.Option(min=1, max=MANY, help="Stop at this number of positive frames.")] = 200
    button: Annotated[
        int, typer.Option(min=0, max=1000, help="Index of the Joy button that marks success while it is held.")
    ] = 0
    joy_topic: Annotated[str, typer.Option(help="Joy topic, relative to the namespace.")] = "spacenav/joy"
    margin: Annotated[
        int, typer.Option(min=0, max=MANY, help="Frames left out before a press and after a release.")
    ] = 5
    namespace: Namespace = ""


@app.command()
@expand_options
def collect(
    task: TaskArgument,
    out: Annotated[Path, typer.Option(help="Folder of frames; new frames are added to those that it holds.")],
    options: LiveOptions,
    bags: Annotated[list[Path] | None, typer.Option(help="Take the frames from these bags instead.")] = None,
    ignored_before_success: IgnoredBefore = None,
    as_json: Json = False,
) -> None:
    """Save labelled frames of a running stack: positive while the success button is held, negative otherwise."""
    from rldg_bringup.pipeline import resolve_task
    from rldg_rl.classifier.frames import read_frames, write_frame
    from rldg_rl.views import describe_frames

    resolved = resolve_task(task)
    camera = next(iter(resolved.cameras))
    describe_frames(out, resolved, camera)
    if bags:
        frames = read_frames(bags, resolved, camera, _ignored(resolved, ignored_before_success))
        for frame in frames:
            write_frame(out, frame)
        positive = sum(f.success for f in frames)
        negative = len(frames) - positive
    else:
        positive, negative = _collect_live(out, camera, options)
    emit({"folder": str(out), "positive": positive, "negative": negative}, as_json, "frames")


def _collect_live(out: Path, camera: str, options: LiveOptions) -> tuple[int, int]:
    """Return the numbers of positive and negative frames. Raises UserError when no observation arrives."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected
    from rldg_bringup.frame_collection import FrameCollection
    from rldg_rl.classifier.collecting import Collector

    collector = Collector(out, time.strftime("%Y%m%d-%H%M%S"), options.margin)
    deadline_s = time.monotonic() + options.seconds
    try:
        with connected(options.namespace) as client, progress_maker() as make:
            show = make("positive frames")
            FrameCollection(client, collector, camera, options.joy_topic, options.button)

            def done() -> bool:
                show(collector.positive, options.positives)
                return collector.positive >= options.positives or time.monotonic() > deadline_s

            client.wait_for_node("observer", RUNNING_TIMEOUT_S, "topic observation")
            client.wait(done, float("inf"), "topic observation", "observer")
    except KeyboardInterrupt:
        pass  # the usual way to end collecting
    finally:
        collector.close()
    if not collector.positive + collector.negative:
        raise UserError("topic observation: no message arrived; is the stack running?")
    return collector.positive, collector.negative


@dataclass(frozen=True)
class TrainingOptions:
    """Configuration of the training."""

    encoder: Annotated[str, typer.Option(help="random_conv, embedded or resnet10.")] = "random_conv"
    encoder_weights: Annotated[Path | None, typer.Option(help="Weights of resnet10.")] = None
    epochs: Annotated[int, typer.Option(min=1, max=MANY, help="Number of epochs.")] = 150
    precision: Annotated[float, typer.Option(min=0.51, max=1.0, help="Precision to reach on held-out frames.")] = 0.99
    ignored_before_success: IgnoredBefore = None
    seed: Seed = 0


@app.command()
@expand_options
def train(task: TaskArgument, sources: Sources, out: Out, options: TrainingOptions, as_json: Json = False) -> None:
    """Train on some episodes; calibrate, choose the threshold and evaluate on the others."""
    if options.encoder not in ("embedded", "random_conv", "resnet10"):
        raise UserError(f"unknown encoder {options.encoder!r}, expected embedded, random_conv or resnet10")
    from rldg_bringup.pipeline import resolve_task
    from rldg_rl.runtime import use_one_core

    use_one_core()
    from rldg_rl.classifier.checkpoint import camera_of, write_classifier
    from rldg_rl.classifier.frames import read_frames
    from rldg_rl.classifier.model import ClassifierConfig
    from rldg_rl.classifier.train import train as train_classifier

    resolved = resolve_task(task)
    config = ClassifierConfig(
        encoder=cast("Any", options.encoder),
        encoder_weights=str(options.encoder_weights.resolve()) if options.encoder_weights else None,
        epochs=options.epochs,
        precision=options.precision,
    )
    ignored = _ignored(resolved, options.ignored_before_success)
    frames = read_frames(sources, resolved, camera_of(config, resolved), ignored)
    with progress_maker() as make:
        saved, sheet = train_classifier(frames, resolved, config, options.seed, make("classifier"))
    write_classifier(out, saved, sheet)
    report = saved.report
    value = {
        "classifier": str(out),
        **{f"held_out_{name}": item for name, item in report["held_out_metrics"].items()},
        "threshold": saved.threshold,
        "temperature": saved.temperature,
        "precision_reached": report["precision_reached"],
        "train": report["train"],
        "held_out": report["held_out"],
        "train_cpu_s": report["train_cpu_s"],
        "errors": str(out / "errors.png"),
    }
    emit(value, as_json, "classifier")


@app.command()
def evaluate(
    task: TaskArgument,
    classifier: Annotated[Path, typer.Argument(help="Folder of the classifier.")],
    sources: Sources,
    out: Annotated[Path | None, typer.Option(help="Write report.json and errors.png here.")] = None,
    ignored_before_success: IgnoredBefore = None,
    as_json: Json = False,
) -> None:
    """Evaluate on episodes that the classifier was not trained on, frame by frame and with its hysteresis."""
    from rldg_bringup.pipeline import resolve_task
    from rldg_rl.runtime import use_one_core

    use_one_core()
    from rldg_core.files import write_bytes, write_json
    from rldg_rl.classifier.contact_sheet import contact_sheet
    from rldg_rl.classifier.evaluate import evaluate_frames
    from rldg_rl.classifier.frames import read_frames
    from rldg_rl.classifier.reward import RewardClassifier
    from rldg_rl.classifier.train import predict

    resolved = resolve_task(task)
    loaded = RewardClassifier.load(classifier, resolved)
    frames = read_frames(sources, resolved, loaded.camera, _ignored(resolved, ignored_before_success))
    probabilities = predict(loaded.saved, frames)
    result = evaluate_frames(
        frames, probabilities, loaded.threshold, resolved, resolved.reward.success_box or loaded.saved.success_box
    )
    value = json.loads(json.dumps(asdict(result)))  # bounded: our own text
    if out:
        write_json(out / "report.json", value)
        write_bytes(out / "errors.png", contact_sheet(frames, probabilities, loaded.threshold))
    emit({**value.pop("frames"), **value}, as_json, "classifier")
