"""Evaluate the reward classifier against ground truth: python benchmarks/classifier.py [--task insertion:vga].

Trains on scripted episodes (two thirds demonstrations, the rest near misses: pressed beside the port, and stopped
half inserted), then judges fresh episodes of the same kinds, frame by frame and episode by episode. Every episode
continues for some frames after success, so that an episode that the classifier misses is seen as missed. The encoders
are compared in the same run. Writes out/bench/classifier.json, the errors of the best one beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rldg_rl.runtime import use_one_core

use_one_core()

import numpy as np  # noqa: E402
from _report import OUT, report  # noqa: E402

from rldg_core.seeding import derive_seed  # noqa: E402
from rldg_core.task import BoxConfig, Task, find_task  # noqa: E402
from rldg_core.types import Observation  # noqa: E402
from rldg_rl.classifier.calibration import judge_episode, measure  # noqa: E402
from rldg_rl.classifier.checkpoint import SavedClassifier, write_classifier  # noqa: E402
from rldg_rl.classifier.frames import Frame  # noqa: E402
from rldg_rl.classifier.model import ClassifierConfig  # noqa: E402
from rldg_rl.classifier.reward import RewardClassifier  # noqa: E402
from rldg_rl.classifier.success import in_box  # noqa: E402
from rldg_rl.classifier.train import predict, train  # noqa: E402
from rldg_sim.cell import Cell  # noqa: E402
from rldg_sim.env import CellEnv  # noqa: E402
from rldg_sim.episodes import ask  # noqa: E402
from rldg_sim.operators.config import OperatorConfig  # noqa: E402
from rldg_sim.scene import make_operator  # noqa: E402

TASKS = [Path(__file__).parents[1] / "src/rldg_bringup/config/tasks"]
AFTER_SUCCESS = 8
"""Number of frames after success: a person who collects frames keeps pressing the plug into the port."""
STOPPED = 15
"""Number of frames with a half-inserted plug."""
KINDS = ("demonstration", "beside", "half", "demonstration", "demonstration", "demonstration")


@dataclass(frozen=True)
class Episode:
    """One episode: observations, the ground truth of each, distance to full insertion [m]."""

    name: str
    kind: str
    observations: list[Observation]
    truth: list[bool]
    missing_m: list[float]


def play(env: CellEnv, seed: int, kind: str, name: str, full_m: float) -> Episode:
    """Run one scripted episode of at most the length of the task.

    beside: the operator aims at a spot up to 3 mm off; half: it stops for a while on the way in, as often as not in
    the last 4 mm. full_m: object_to_goal's z when the task succeeds.
    """
    rng = np.random.default_rng(derive_seed(seed, "play"))
    operator = make_operator(OperatorConfig(speed=0.8, near_speed=0.35), env.task)
    env.reset(seed=seed)
    frame = env.frame
    operator.reset(seed)
    angle, radius_m = rng.uniform(0, 2 * np.pi), rng.uniform(0.0008, 0.003)
    bias = radius_m * np.array([np.cos(angle), np.sin(angle)]) * (kind == "beside")
    stop_m = rng.choice([rng.uniform(0.0, full_m), full_m - rng.uniform(0.0002, 0.004)])
    stopped = 0 if kind == "half" else STOPPED
    after = AFTER_SUCCESS
    episode = Episode(name, kind, [], [], [])
    for _ in range(env.task.episode.max_steps + 1):
        episode.observations.append(env.observation)
        episode.truth.append(frame.success)
        episode.missing_m.append(round(full_m - float(frame.object_to_goal[2]), 5))
        after -= any(episode.truth)
        if after < 0:
            break
        seen = np.array(frame.object_to_goal)
        seen[:2] += bias
        action, _ = operator.act(
            frame.pose_base_tcp, frame.wrench_tcp, seen, frame.object_to_tcp, frame.gripper_width_m, frame.time_s
        )
        if stopped < STOPPED and frame.object_to_goal[2] >= stop_m:
            action, stopped = np.zeros(env.task.action.dim), stopped + 1
        env.step(np.asarray(action, np.float32))
        frame = env.frame
    return episode


def play_all(task: Task, object_name: str, seed: int, count: int) -> list[Episode]:
    """Run `count` episodes of all kinds."""
    env, blind = CellEnv(task, object_name), Cell(task, object_name, render=False)
    full_m = 0.0
    operator = make_operator(OperatorConfig(), task)
    for attempt in range(20):
        frame = blind.reset(attempt)
        operator.reset(attempt)
        for _ in range(200):
            action, _ = ask(operator, frame)
            frame = blind.step(action)
            if frame.success:
                break
        if frame.success:
            full_m = float(frame.object_to_goal[2])
            break
    assert full_m, "the scripted operator never succeeded"
    episodes = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        name = f"{object_name}/{seed}/{number:04d}/{kind}"
        episodes.append(play(env, derive_seed(seed, "classifier", number), kind, name, full_m))
    env.close()
    blind.close()
    return episodes


def frames_of(episodes: Sequence[Episode], camera: str, object_name: str) -> list[Frame]:
    """Return every observation with its ground truth."""
    return [
        Frame(e.name, o.stamp_ns, o.images[camera], label, object_name, e.name, o.pose_base_tcp)
        for e in episodes
        for o, label in zip(e.observations, e.truth, strict=True)
    ]


def judge(
    saved: SavedClassifier, episodes: Sequence[Episode], frames: Sequence[Frame], task: Task, box: BoxConfig | None
) -> dict[str, Any]:
    """Compare frames and episodes with ground truth; episodes with 1 (no hysteresis) to 3 consecutive frames."""
    probabilities = predict(saved, frames)
    inside = np.array([in_box(box, task, o.pose_base_tcp) for e in episodes for o in e.observations])
    truth = np.array([f.success for f in frames])
    result: dict[str, Any] = {"frames": asdict(measure(np.where(inside, probabilities, 0.0), truth, saved.threshold))}
    for wanted in (1, 2, 3):
        false_positive, missed, short_mm, delays, place = 0, 0, [], [], 0
        for episode in episodes:
            part = slice(place, place := place + len(episode.truth))
            over = (probabilities[part] > saved.threshold) & inside[part]
            stamps = [o.stamp_ns for o in episode.observations]
            verdict = judge_episode(over.tolist(), episode.truth, stamps, wanted, task.period_ns)
            false_positive += verdict.false_positive
            missed += verdict.false_negative
            if verdict.fired is not None and verdict.false_positive:
                short_mm.append(round(1e3 * episode.missing_m[verdict.fired], 2))
            elif verdict.fired is not None:
                delays.append(verdict.fired - episode.truth.index(True))
        result[f"consecutive_{wanted}"] = {
            "false_positive_episodes": false_positive,
            "false_negative_episodes": missed,
            "false_positive_short_of_success_mm": sorted(short_mm),
            "mean_delay_frames": round(float(np.mean(delays)), 2) if delays else None,
        }
    return result


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="insertion:vga")
    parser.add_argument("--encoders", nargs="+", default=["random_conv", "embedded"], help="the first one is reported")
    parser.add_argument("--train-episodes", type=int, default=60)
    parser.add_argument("--episodes", type=int, default=60, help="fresh ones, to measure on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT / "classifier")
    arguments = parser.parse_args()
    task = find_task(arguments.task, TASKS)
    camera = next(iter(task.cameras))
    began_s = time.process_time()
    episodes = play_all(task, task.default_object, arguments.seed, arguments.train_episodes)
    fresh = play_all(task, task.default_object, arguments.seed + 1, arguments.episodes)
    draw_s = time.process_time() - began_s
    frames, fresh_frames = (frames_of(e, camera, task.default_object) for e in (episodes, fresh))
    compared: dict[str, Any] = {}
    for name in arguments.encoders:
        config = ClassifierConfig(encoder=name)
        saved, sheet = train(frames, task, config, arguments.seed)
        folder = arguments.out / name
        write_classifier(folder, saved, sheet)
        classifier = RewardClassifier.load(folder, task)
        seconds = []
        for observation in fresh[0].observations[:50] * 4:
            start_s = time.perf_counter()
            classifier.probability(observation)
            seconds.append(time.perf_counter() - start_s)
        held_out = saved.report["held_out_metrics"]
        compared[name] = {
            "threshold": round(saved.threshold, 4),
            "temperature": round(saved.temperature, 3),
            "best_epoch": saved.report["best_epoch"],
            "held_out": held_out,
            "image_only": judge(saved, fresh, fresh_frames, task, None),
            "with_success_box": judge(saved, fresh, fresh_frames, task, saved.success_box),
            "train_cpu_s": saved.report["train_cpu_s"],
            "predict_p50_ms": round(1e3 * float(np.median(seconds)), 2),
        }
    first = compared[arguments.encoders[0]]
    wanted = task.reward.consecutive_frames
    # As the node uses it: with success box and hysteresis; precision, recall and AUC of the frames by image alone.
    best, judged = first["image_only"]["frames"], first["with_success_box"][f"consecutive_{wanted}"]
    report(
        "classifier",
        {
            "task": arguments.task,
            "encoder": arguments.encoders[0],
            "precision": best["precision"],
            "recall": best["recall"],
            "auc": best["auc"],
            "false_positive_episodes": judged["false_positive_episodes"],
            "false_negative_episodes": judged["false_negative_episodes"],
            "episodes": len(fresh),
            "episodes_that_succeed": sum(any(e.truth) for e in fresh),
            "consecutive_frames": wanted,
            "without_success_box": first["image_only"][f"consecutive_{wanted}"],
            "train_cpu_s": first["train_cpu_s"],
            "predict_p50_ms": first["predict_p50_ms"],
            "training_frames": {"positive": sum(f.success for f in frames), "all": len(frames)},
            "fresh_frames": {"positive": sum(f.success for f in fresh_frames), "all": len(fresh_frames)},
            "draw_cpu_s": round(draw_s, 1),
            "seed": arguments.seed,
            "encoders": compared,
        },
    )


if __name__ == "__main__":
    main()
