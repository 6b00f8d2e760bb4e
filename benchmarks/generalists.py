"""Generalists: time until ready, latency, memory; speed and memory of their training.

    python benchmarks/generalists.py [CASE ...] [--episodes 135] [--transitions 50]

Weights are random: speed does not depend on them. `openvla` and `octo` are tiny networks of the real layout, for the
harness; only `compact` has its real size. Each measurement runs in a process of its own on one core (pinned). ready_s:
from the import of the back-end to the end of its warm-up; latency: of act() on 256 px JPEG observations; cpu_ms: CPU
of one act(), which other processes on the machine do not inflate; rss_mb: resident when it has served. train_*: of
fine-tuning on a synthetic dataset of 3 x 45 episodes; train_samples_per_s leaves out the first half of the steps
(compilation), train_samples_per_cpu_s is the same per second of CPU; train_peak_mb: largest resident size. floor:
decoding the JPEG and resizing it, which every policy must do; ratio: CPU of act() over that. reader: the shuffled
stream of samples alone. Writes out/bench/generalists.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _report import report

from rldg_core.image_codec import decode_jpeg, encode_jpeg, resize
from rldg_core.task import load_task
from rldg_core.types import Observation

ROOT = Path(__file__).resolve().parents[1]
TASK_FILE = ROOT / "src/rldg_bringup/config/tasks/insertion.yaml"
sys.path.insert(0, str(ROOT / "src/rldg_policy/test"))

IMAGE_PX = 256
CALLS = 220
FIRST_CALLS = 20
"""Number of first CALLS that are not counted."""
INSTRUCTION = "insert the VGA connector into the port"


@dataclass(frozen=True)
class Case:
    """write: a checkpoint with random weights; train: (dataset, checkpoint, out, progress) -> samples per step."""

    backend: str
    write: Callable[[Path], None]
    train: Callable[..., int] | None


def write_compact(folder: Path, head: str) -> None:
    from rldg_policy.compact.checkpoint import write_random
    from rldg_policy.compact.config import ModelConfig

    write_random(folder, ModelConfig.model_validate({"head": head}), 0)


def train_compact(dataset: Path, base: Path, out: Path, progress: Callable[[int, int], None], head: str) -> int:
    from rldg_policy.compact.config import TrainConfig
    from rldg_policy.compact.train import finetune

    config = TrainConfig.model_validate({"steps": 40, "model": {"head": head}})
    finetune(dataset, out, config, progress=progress)
    return config.batch


def write_openvla(folder: Path, decoding: str) -> None:
    from rldg_policy.openvla.checkpoint import write_random
    from rldg_policy.openvla.config import DecodingConfig, OpenVLAConfig

    parallel = {"decoding": "parallel", "head": "l1", "horizon": 8} if decoding == "parallel" else {}
    write_random(folder, OpenVLAConfig.tiny(), 0, DecodingConfig.model_validate(parallel))


def train_openvla(dataset: Path, base: Path, out: Path, progress: Callable[[int, int], None]) -> int:
    from rldg_policy.openvla.config import OpenVLATrainConfig
    from rldg_policy.openvla.train import finetune

    config = OpenVLATrainConfig(steps=12)
    finetune(dataset, out, config, base=base, progress=progress)
    return config.batch * config.accumulation


def write_octo(folder: Path) -> None:
    from rldg_policy.octo.checkpoint import write_random
    from rldg_policy.octo.random import OctoSize

    write_random(folder, OctoSize(), 0)


def train_octo(dataset: Path, base: Path, out: Path, progress: Callable[[int, int], None]) -> int:
    from rldg_policy.octo.config import OctoTrainConfig
    from rldg_policy.octo.train import finetune

    config = OctoTrainConfig(steps=8, warmup_steps=2, workers=1, validation_batches=0)
    finetune(dataset, out, config, base=base, progress=progress)
    return config.batch


CASES: Mapping[str, Case] = {
    "compact": Case("compact", partial(write_compact, head="bins"), partial(train_compact, head="bins")),
    "compact_diffusion": Case(
        "compact", partial(write_compact, head="diffusion"), partial(train_compact, head="diffusion")
    ),
    "openvla": Case("openvla", partial(write_openvla, decoding="ar"), train_openvla),
    "openvla_parallel": Case("openvla", partial(write_openvla, decoding="parallel"), None),
    "octo": Case("octo", write_octo, train_octo),
}


def observations(count: int = 20) -> list[Observation]:
    """Return JPEG images of smooth scenes with sensor noise, as large as those of a camera."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:IMAGE_PX, :IMAGE_PX]
    found = []
    for number in range(count):
        smooth = 128 + 80 * np.sin((rows + 9 * number) / 60.0) * np.cos(columns / 80.0)
        image = np.clip(smooth[..., None] + rng.normal(0, 2.0, (IMAGE_PX, IMAGE_PX, 3)), 0, 255).astype(np.uint8)
        pose = np.array([0.5, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0])
        jpeg = {"wrist": encode_jpeg(image, 90)}
        found.append(Observation(number * 10**8, jpeg, pose, np.zeros(6), np.zeros(6), np.zeros(7), 0.02))
    return found


def latencies(call: Callable[[Observation], object]) -> dict[str, float]:
    """Return p50, p99 and CPU time of `call` [ms]."""
    seen = observations()
    for number in range(FIRST_CALLS):
        call(seen[number % len(seen)])
    wall_s, cpu_s = [], time.process_time()
    for number in range(CALLS - FIRST_CALLS):
        start = time.perf_counter()
        call(seen[number % len(seen)])
        wall_s.append(time.perf_counter() - start)
    cpu_s = time.process_time() - cpu_s
    p50, p99 = np.quantile(wall_s, [0.5, 0.99]) * 1e3
    cpu_ms = cpu_s / len(wall_s) * 1e3
    return {"latency_p50_ms": float(p50), "latency_p99_ms": float(p99), "cpu_ms": float(cpu_ms)}


def peak_mb() -> float:
    """Return the largest resident size of this process so far [MB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(case: Case, checkpoint: Path) -> dict[str, float]:
    """Load a policy, warm it up and measure `act`."""
    from rldg_core.registry import factory

    task = load_task(TASK_FILE)
    started = time.perf_counter()
    policy = factory(case.backend)(checkpoint, task, False)
    policy.warm_up()
    ready_s = time.perf_counter() - started
    policy.reset(INSTRUCTION, 0)
    measured = latencies(policy.act)
    rss_mb = psutil.Process().memory_info().rss / 2**20
    policy.close()
    return {"ready_s": ready_s, **measured, "rss_mb": rss_mb, "horizon": policy.spec.horizon}


def train(case: Case, checkpoint: Path, dataset: Path, out: Path) -> dict[str, float]:
    """Fine-tune for a few steps; the rate is that of the second half."""
    assert case.train is not None
    seen = [(0, time.perf_counter(), time.process_time())]

    def progress(done: int, _total: int) -> None:
        if done > seen[-1][0]:
            seen.append((done, time.perf_counter(), time.process_time()))

    batch = case.train(dataset, checkpoint, out, progress)
    middle = seen[(len(seen) - 1) // 2]
    steps, wall_s, cpu_s = (end - begin for begin, end in zip(middle, seen[-1], strict=True))
    return {
        "train_samples_per_s": steps * batch / wall_s,
        "train_samples_per_cpu_s": steps * batch / cpu_s,
        "train_peak_mb": peak_mb(),
    }


def read(dataset: Path) -> dict[str, float]:
    """Read two epochs of samples with a window of 2 and chunks of 4."""
    from rldg_data.rlds import read_dataset
    from rldg_policy.training.samples import stream_samples

    opened = read_dataset(dataset)
    before_mb, start = peak_mb(), time.process_time()
    count = sum(1 for _ in stream_samples(opened, window=2, horizon=4, buffer=2000, epochs=2))
    spent_s = time.process_time() - start
    return {"samples_per_s": count / spent_s, "samples": count / 2, "buffer": 2000, "grew_mb": peak_mb() - before_mb}


def floor() -> dict[str, float]:
    """Decode and resize an image, as every policy does."""
    return latencies(lambda observation: resize(decode_jpeg(observation.images["wrist"]), 224))


def write_dataset(root: Path, episodes: int, transitions: int) -> dict[str, str]:
    """Write synthetic insertion episodes with 256 px images."""
    from generalist_samples import insertion_dataset

    return {"path": str(insertion_dataset(root, episodes, transitions, IMAGE_PX))}


def child(measurement: str, *arguments: object) -> dict[str, Any]:
    """Run one measurement in a new process, whose last line of output is the result."""
    command = [sys.executable, __file__, "--child", measurement, *map(str, arguments)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(arguments: list[str]) -> dict[str, Any]:
    """Run one measurement, pinned to one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    measurement, *rest = arguments
    if measurement == "write":
        CASES[rest[0]].write(Path(rest[1]))
        return {}
    if measurement == "serve":
        return serve(CASES[rest[0]], Path(rest[1]))
    if measurement == "train":
        return train(CASES[rest[0]], *map(Path, rest[1:]))
    if measurement == "read":
        return read(Path(rest[0]))
    if measurement == "dataset":
        return dict(write_dataset(Path(rest[0]), int(rest[1]), int(rest[2])))
    return dict(floor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--episodes", type=int, default=135)
    parser.add_argument("--transitions", type=int, default=50)
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child)))
        return
    unknown = set(options.cases) - set(CASES)
    if unknown:
        parser.error(f"unknown case {unknown.pop()!r}, expected some of {', '.join(CASES)}")
    with tempfile.TemporaryDirectory(prefix="rldg-bench-") as name:
        folder = Path(name)
        dataset = child("dataset", folder / "data", options.episodes, options.transitions)["path"]
        least = child("floor")
        result: dict[str, Any] = {}
        for case in options.cases:
            checkpoint = folder / case
            child("write", case, checkpoint)
            result[case] = child("serve", case, checkpoint)
            result[case]["ratio"] = result[case]["cpu_ms"] / least["cpu_ms"]
            if CASES[case].train:
                result[case] |= child("train", case, checkpoint, dataset, folder / f"{case}-tuned")
        result |= {"floor": least, "reader": child("read", dataset)}
    report("generalists", {name: {k: round(v, 4) for k, v in values.items()} for name, values in result.items()})


if __name__ == "__main__":
    main()
