"""`rldg classifier`: collect frames, train a reward classifier, measure it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from rldg_bringup.cli_common import MANY, Json, Namespace, Seed, TaskArgument, emit, progress_maker
from rldg_core.errors import UserError

app = typer.Typer(help="Reward classifier: collect frames, train, evaluate.", no_args_is_help=True)

Sources = Annotated[list[Path], typer.Argument(help="Folders of bags, or of frames (positive/, negative/).")]
Out = Annotated[Path, typer.Option(help="Folder of the classifier, e.g. runs/insertion/a/classifier.")]
IgnoredBefore = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=MANY,
        help="Steps of a bag just before its success that are left out; default 0 for ground truth, 5 for labels.",
    ),
]


def _ignored(task: Any, given: int | None) -> int:
    """People label an episode some frames after it has succeeded; ground truth does not."""
    return given if given is not None else 0 if task.reward.source == "ground_truth" else 5


@app.command()
def collect(
    task: TaskArgument,
    out: Annotated[Path, typer.Option(help="Folder of frames; more is added to what it holds.")],
    bags: Annotated[list[Path] | None, typer.Option(help="Take the frames out of these bags instead.")] = None,
    seconds: Annotated[float, typer.Option(min=1.0, max=1e9, help="Stop after so long; Ctrl-C stops earlier.")] = 600.0,
    positives: Annotated[int, typer.Option(min=1, max=MANY, help="Stop at so many positive frames.")] = 200,
    button: Annotated[int, typer.Option(min=0, max=1000, help="Joy button that marks success while it is held.")] = 0,
    joy_topic: Annotated[str, typer.Option(help="Buttons; relative to the namespace.")] = "spacenav/joy",
    margin: Annotated[
        int, typer.Option(min=0, max=MANY, help="Frames left out before a press and after a release.")
    ] = 5,
    ignored_before_success: IgnoredBefore = None,
    namespace: Namespace = "",
    as_json: Json = False,
) -> None:
    """Save labelled frames of a running stack: positive while the success button is held, negative otherwise."""
    from rldg_bringup.pipeline import resolve_task
    from rldg_rl.classifier.collecting import Collector
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
        emit({"folder": str(out), "positive": positive, "negative": len(frames) - positive}, as_json, "frames")
        return

    from sensor_msgs.msg import Joy

    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected
    from rldg_control.teleop_logic import HELD_S
    from rldg_core import from_msg
    from rldg_msgs.msg import EpisodeEvent, Observation

    collector = Collector(out, time.strftime("%Y%m%d-%H%M%S"), margin)
    pressed, heard_s, episode = False, 0.0, EpisodeEvent(kind=EpisodeEvent.END)

    def on_joy(message: Joy) -> None:
        nonlocal pressed
        pressed = button < len(message.buttons) and bool(message.buttons[button])
        on_same_joy()

    def on_same_joy() -> None:
        nonlocal heard_s
        heard_s = time.monotonic()

    def on_event(message: EpisodeEvent) -> None:
        nonlocal episode
        episode = message

    def on_observation(message: Any) -> None:
        seen = from_msg.observation(message)
        if camera not in seen.images:
            raise UserError(f"topic observation: no image of camera {camera!r}")
        running = episode.kind == EpisodeEvent.START
        # A driver that ended with the button pressed would mark every further frame as a success.
        marked = pressed and time.monotonic() - heard_s <= HELD_S
        collector.take(
            seen.stamp_ns, seen.images[camera], marked, episode.episode_id if running else "", episode.object
        )

    deadline_s = time.monotonic() + seconds
    try:
        with connected(namespace) as client, progress_maker() as make:
            show = make("positive frames")
            client.listen_to_driver(Joy, joy_topic, on_joy, on_same_joy)
            client.node.create_subscription(EpisodeEvent, "episode_event", on_event, 10)
            client.node.create_subscription(Observation, "observation", on_observation, 10)

            def done() -> bool:
                show(collector.positive, positives)
                return collector.positive >= positives or time.monotonic() > deadline_s

            client.meet("observer", RUNNING_TIMEOUT_S, "topic observation")
            client.wait(done, float("inf"), "topic observation", "observer")
    except KeyboardInterrupt:
        pass  # the usual way to end collecting
    finally:
        collector.close()
    if not collector.positive + collector.negative:
        raise UserError("topic observation: nothing arrived; is the stack running?")
    emit({"folder": str(out), "positive": collector.positive, "negative": collector.negative}, as_json, "frames")


@app.command()
def train(
    task: TaskArgument,
    sources: Sources,
    out: Out,
    encoder: Annotated[str, typer.Option(help="random_conv, embedded or resnet10.")] = "random_conv",
    encoder_weights: Annotated[Path | None, typer.Option(help="Weights of resnet10.")] = None,
    epochs: Annotated[int, typer.Option(min=1, max=MANY)] = 150,
    precision: Annotated[float, typer.Option(min=0.51, max=1.0, help="Wanted on held-out frames.")] = 0.99,
    ignored_before_success: IgnoredBefore = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train on some episodes; calibrate, choose the threshold and measure on the others."""
    if encoder not in ("embedded", "random_conv", "resnet10"):
        raise UserError(f"unknown encoder {encoder!r}, expected embedded, random_conv or resnet10")
    from rldg_bringup.pipeline import resolve_task
    from rldg_rl.runtime import use_one_core

    use_one_core()
    from rldg_rl.classifier.checkpoint import camera_of, write_classifier
    from rldg_rl.classifier.frames import read_frames
    from rldg_rl.classifier.model import ClassifierConfig
    from rldg_rl.classifier.train import train as train_classifier

    resolved = resolve_task(task)
    weights = str(encoder_weights.resolve()) if encoder_weights else None
    config = ClassifierConfig(encoder=cast("Any", encoder), encoder_weights=weights, epochs=epochs, precision=precision)
    frames = read_frames(sources, resolved, camera_of(config, resolved), _ignored(resolved, ignored_before_success))
    with progress_maker() as make:
        saved, sheet = train_classifier(frames, resolved, config, seed, make("classifier"))
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
    """Measure on other episodes than those it was trained on: frames, and episodes with its hysteresis."""
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
