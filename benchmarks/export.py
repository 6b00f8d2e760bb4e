"""Bags -> RLDS: frames per second on one core, start-up, memory, two processes, and tensorflow-datasets on the same.

    python benchmarks/export.py [--episodes 300]

Episodes of 45 to 99 steps with a 256 px JPEG of about 12 kB, recorded as bags. Every export runs in a process of its
own. `*_fps`: `export_plan` on one core, imports left out, the best of several runs; `*_cpu_fps`: the same by the
processor's time, which other programs disturb less. startup_s: from the start of the process to the first byte of a
shard. peak_rss_mb: of one process that exports 100,000 frames. two_process_speedup: decoding and encoding, wall time,
workers' start included. tfds_*_ratio: tensorflow-datasets over this suite, wall time of whole processes and peak
memory, for the same episodes; null without the environment of `make test-compat`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TASK_FILE = ROOT / "src/rldg_bringup/config/tasks/insertion.yaml"
TFDS_PYTHON = ROOT / ".venv-compat/bin/python"
RECORDED_PX, RESIZED_PX = 256, 224
MEMORY_FRAMES = 100_000
REENCODED_EPISODES = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    from _report import report

    with tempfile.TemporaryDirectory(prefix="rldg-export-") as name:
        folder = Path(name)
        jpeg_bytes = record(folder / "bags", arguments.episodes)

        def export(**options: Any) -> dict[str, Any]:
            return in_a_process(folder / "bags", folder / "out", **options)

        def best(key: str = "wall_s", **options: Any) -> dict[str, Any]:
            return min((export(**options) for _ in range(arguments.repeats)), key=lambda run: float(run[key]))

        passed = best(one_core=True)
        few = {"episodes": REENCODED_EPISODES, "size_px": RESIZED_PX}
        resized = best(one_core=True, **few)
        starts = [export(episodes=1)["first_byte_s"] for _ in range(arguments.repeats + 2)]
        recipe_starts = [export(episodes=1, recipe=True)["first_byte_s"] for _ in range(arguments.repeats)]
        large = export(frames=MEMORY_FRAMES)
        many = {"episodes": 3 * REENCODED_EPISODES, "size_px": RESIZED_PX}
        one, two = best(workers=1, **many), best(workers=2, **many)
        whole = best("process_s")
        whole_two = best("process_s", workers=2)
        report(
            "export",
            {
                "passthrough_fps": rate(passed, "wall_s"),
                "passthrough_cpu_fps": rate(passed, "cpu_s"),
                "reencode_fps": rate(resized, "wall_s"),
                "reencode_cpu_fps": rate(resized, "cpu_s"),
                "startup_s": min(starts),
                "startup_recipe_s": min(recipe_starts),
                "peak_rss_mb": large["peak_rss_mb"],
                "peak_rss_frames": large["frames"],
                "two_process_speedup": round(one["wall_s"] / two["wall_s"], 2),
                **against_tfds(folder, whole, whole_two, arguments.repeats),
                "frames": passed["frames"],
                "jpeg_kb": round(jpeg_bytes / 1000, 1),
                "load_average": round(os.getloadavg()[0], 1),
            },
        )


def rate(run: dict[str, Any], time_key: str) -> int:
    """Return frames per second."""
    return round(run["frames"] / run[time_key])


def record(bag_dir: Path, episodes: int) -> float:
    """Write bags and return the mean size of an image [bytes]."""
    import numpy as np

    from rldg_core.frames import compose_delta, twists_of
    from rldg_core.image_codec import encode_jpeg
    from rldg_core.task import load_task
    from rldg_core.types import ExecutedAction, Observation, Source, Step
    from rldg_data.bags.recording import write_episode

    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:RECORDED_PX, :RECORDED_PX]
    images = []
    for number in range(64):
        smooth = 128 + 80 * np.sin((rows + 9 * number) / 30.0) * np.cos(columns / 20.0)
        noisy = smooth[..., None] + rng.normal(0, 4, (RECORDED_PX, RECORDED_PX, 3))
        images.append(encode_jpeg(noisy.clip(0, 255).astype(np.uint8), 91))
    task = load_task(TASK_FILE)
    for episode in range(episodes):
        last = 44 + episode * 7 % 55
        steps = []
        pose, twist = np.array([*rng.uniform(-0.5, 0.5, 3), 1.0, 0.0, 0.0, 0.0]), np.zeros(6)
        for index in range(last + 1):
            stamp_ns = 1_700_000_000_000_000_000 + (episode * 100 + index) * task.period_ns
            action = np.empty(0, np.float32) if index == last else rng.uniform(-1, 1, 6).astype(np.float32)
            seen = Observation(
                stamp_ns=stamp_ns,
                images={"wrist": images[(episode + index) % len(images)]},
                pose_base_tcp=pose,
                twist_base_tcp=twist,
                wrench_tcp=rng.normal(size=6),
                joint_positions=rng.normal(size=7),
                gripper_width_m=0.0,
            )
            source = Source.NONE if index == last else Source.POLICY
            executed = ExecutedAction(stamp_ns, action, action, source, policy_id="specialist", policy_version=7)
            if index < last:
                reached = compose_delta(pose, task.action.to_delta_tcp(action))
                pose, twist = reached, twists_of([0.0, task.period_s], [pose, reached])[1]
            ends = index >= last - 1
            steps.append(
                Step(
                    episode_id=f"benchmark-{episode}",
                    index=index,
                    step_count=index,
                    task=task.name,
                    object="usb_a",
                    instruction="insert the usb plug",
                    seed=episode,
                    observation=seen,
                    action=executed,
                    reward=float(index == last - 1),
                    terminated=ends,
                    truncated=False,
                    is_first=index == 0,
                    is_last=index == last,
                    success=ends,
                )
            )
        write_episode(bag_dir, steps, task, wall_time="2026-01-01T00:00:00Z")
    return float(np.mean([len(image) for image in images]))


def in_a_process(bags: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Export in a new process; return the result of `_export`."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import export; export._export({options!r})"
    shutil.rmtree(out, ignore_errors=True)
    environment = {**os.environ, "RLDG_BAGS": str(bags), "RLDG_OUT": str(out), "PYTHONPATH": pythonpath()}
    output, process_s = timed([sys.executable, "-c", code], environment)
    return {**json.loads(output), "process_s": process_s}


def timed(command: Sequence[str | Path], environment: Mapping[str, str]) -> tuple[str, float]:
    """Run a process; return its last line of output and its wall time including start-up [s]."""
    began = time.perf_counter()
    environment = {**environment, "RLDG_STARTED": str(time.time())}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1], time.perf_counter() - began


def pythonpath() -> str:
    """Return the PYTHONPATH of this process."""
    return os.pathsep.join(path for path in sys.path if path)


def _export(options: dict[str, Any]) -> None:
    """In the new process: export once and print the measurements."""
    if options.get("one_core"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import rldg_data.rlds.export as rlds

    bags, out = Path(os.environ["RLDG_BAGS"]), Path(os.environ["RLDG_OUT"])
    first_byte: list[float] = []
    write_record = rlds.write_record

    def first(*arguments: Any) -> int:
        first_byte.append(time.time())
        rlds.write_record = write_record
        return write_record(*arguments)

    rlds.write_record = first
    plan = recipe_plan(bags) if options.get("recipe") else plan_of(bags, options)
    if options.get("one_core"):
        for module in ("rldg_core.image_codec", "rldg_data.episodes.build"):
            importlib.import_module(module)
    wall, cpu = time.perf_counter(), time.process_time()
    result = rlds.export_plan(plan, out, workers=options.get("workers", 1))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    started = float(os.environ["RLDG_STARTED"])
    print(
        json.dumps(
            {
                "wall_s": wall,
                "cpu_s": cpu,
                "first_byte_s": round(first_byte[0] - started, 3) if first_byte else None,
                "frames": result.steps,
                "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            }
        )
    )


def plan_of(bags: Path, options: dict[str, Any]) -> Any:
    """Yield the first episodes, or all episodes repeatedly up to a number of frames."""
    from rldg_data.plan import EpisodePlan, ImageFormat, Plan

    folders = sorted(bags.iterdir())[: options.get("episodes")]
    images = ImageFormat(options.get("size_px"))
    episodes = [
        EpisodePlan("train", (bag,), images=images, num_bytes=sum(file.stat().st_size for file in bag.iterdir()))
        for bag in folders
    ]
    if frames := options.get("frames"):
        lengths = [45 + number * 7 % 55 for number in range(len(episodes))]
        episodes *= -(-frames // sum(lengths))
    return Plan("benchmark", "1.0.0", tuple(episodes))


def recipe_plan(bags: Path) -> Any:
    """Build one episode from a recipe, as `rldg export` does."""
    from rldg_data.recipe.planning import make_plan
    from rldg_data.recipe.recipe import quick_recipe

    return make_plan(quick_recipe([bags], "benchmark", max_episodes=1), bags)


def against_tfds(folder: Path, ours: dict[str, Any], ours_two: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Measure tensorflow-datasets on the episodes in out/."""
    if not TFDS_PYTHON.exists():
        print("export: no .venv-compat, so no comparison with tensorflow-datasets: make test-compat", file=sys.stderr)
        return {"tfds_wall_ratio": None, "tfds_rss_ratio": None}
    environment = {**os.environ, "PYTHONPATH": pythonpath()}
    dump = [sys.executable, ROOT / "tests_compat/dump.py", folder / "out/benchmark/1.0.0", folder / "raw"]
    subprocess.run(dump, env=environment, check=True)
    runs = []
    for number in range(repeats):
        peer = [TFDS_PYTHON, ROOT / "benchmarks/_tfds_peer.py", folder / "raw", folder / f"tfds{number}"]
        environment.pop("PYTHONPATH", None)
        output, process_s = timed(peer, environment)
        runs.append({**json.loads(output), "process_s": process_s})
        shutil.rmtree(folder / f"tfds{number}")
    theirs = min(runs, key=lambda run: float(run["process_s"]))
    return {
        "tfds_wall_ratio": round(theirs["process_s"] / ours["process_s"], 2),
        "tfds_wall_ratio_two_processes": round(theirs["process_s"] / ours_two["process_s"], 2),
        "tfds_rss_ratio": round(theirs["peak_rss_mb"] / ours["peak_rss_mb"], 2),
        "tfds_wall_s": round(theirs["process_s"], 3),
        "tfds_peak_rss_mb": theirs["peak_rss_mb"],
        "wall_s": round(ours["process_s"], 3),
    }


if __name__ == "__main__":
    main()
