"""Makes the weights of the embedded encoder from randomised renders of the simulated cell.

    python -m rldg_rl.encoders.pretrain insertion.yaml:usb_a insertion.yaml:vga pick_and_place.yaml:pepper

From one wrist image the encoder learns to tell where the manipulated object is in the goal's frame and in the
tcp's, at several scales; the regression head is discarded. Name the objects of the training set only: the others stay
unseen. Held-out errors (median, on episodes with other seeds) are compared with a linear read-out of the random
encoder's features in the same run. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rldg_rl.runtime import use_one_core

use_one_core()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from safetensors.numpy import save  # noqa: E402
from torch.nn import functional  # noqa: E402

from rldg_core.files import sha256_hex, writing_aside  # noqa: E402
from rldg_core.task import find_task  # noqa: E402
from rldg_rl.encoders import embedded  # noqa: E402
from rldg_rl.encoders.random_conv import random_conv  # noqa: E402
from rldg_rl.encoders.renders import POSES, Job, Renders, draw_once, load  # noqa: E402

Array = NDArray[np.float32]

BATCH = 64
SHIFT_PX = 2
SCALES_M = (0.1, 0.02, 0.005, 0.0015)
SCALES_RAD = (0.5, 0.1)
_TARGETS = 2 * (3 * len(SCALES_M) + len(SCALES_RAD))


def targets(poses: Array) -> Array:
    """(N, POSES) -> (N, _TARGETS): each coordinate over its coarse scale, and tanh of it over each finer one."""
    columns = []
    for k in range(POSES):
        coarse, *finer = SCALES_RAD if k % 4 == 3 else SCALES_M
        columns += [np.clip(poses[:, k] / coarse, -3, 3), *(np.tanh(poses[:, k] / scale) for scale in finer)]
    return np.stack(columns, 1).astype(np.float32)


def _augment(images: NDArray[np.uint8], rng: np.random.Generator) -> Array:
    """Shift by up to 2 px, change brightness, contrast and colour a little; still in 0..255."""
    count, size = images.shape[:2]
    padded = np.pad(images, ((0, 0), (SHIFT_PX,) * 2, (SHIFT_PX,) * 2, (0, 0)), mode="edge")
    ys, xs = rng.integers(0, 2 * SHIFT_PX, (2, count), endpoint=True)
    shifted = np.stack([p[y : y + size, x : x + size] for p, y, x in zip(padded, ys, xs, strict=True)])
    gain = rng.uniform(0.8, 1.2, (count, 1, 1, 1)) * rng.uniform(0.93, 1.07, (count, 1, 1, 3))
    offset = 128.0 * (1 - gain) + rng.uniform(-15, 15, (count, 1, 1, 1))
    changed: Array = np.clip(shifted * gain.astype(np.float32) + offset.astype(np.float32), 0, 255)
    return changed


def forward(params: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """`embedded.forward` in torch, which trains three times faster than XLA on a CPU (a test holds them together).

    images: (N, 128, 128, 3) float32 in 0..255.
    """
    x = (images / 128.0 - 1.0).permute(0, 3, 1, 2)
    for index, (kernel, stride, _, _) in enumerate(embedded.LAYERS):
        weight, bias = params[f"conv_{index}/w"].permute(3, 2, 0, 1), params[f"conv_{index}/b"]
        x = functional.relu(functional.conv2d(x, weight, bias, stride, embedded.padding(kernel)))
    x = x.permute(0, 2, 3, 1)
    count, channels, grid = x.shape[0], x.shape[3], embedded.GRID
    weight = torch.softmax(x.reshape(count, grid * grid, channels) * torch.exp(params["temperature"]), 1)
    axis = torch.linspace(-1.0, 1.0, grid)
    places = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(grid * grid, 2)
    where = torch.einsum("npc,pd->ncd", weight, places).reshape(count, -1)
    what = x.reshape(count, 4, grid // 4, 4, grid // 4, channels).mean((2, 4)).reshape(count, -1)
    return torch.tanh(torch.cat([where, what], 1) @ params["dense/w"] + params["dense/b"])


def train(data: Renders, steps: int, seed: int, learning_rate: float = 1e-3) -> dict[str, Array]:
    """Adam with a cosine schedule; returns the encoder's parameters."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    wanted = targets(data.poses)
    params = {name: torch.tensor(value, requires_grad=True) for name, value in embedded.init(seed).items()}
    head = torch.zeros(embedded.FEATURE_DIM, _TARGETS, requires_grad=True)
    bias = torch.tensor(wanted.mean(0), requires_grad=True)
    optimiser = torch.optim.Adam([*params.values(), head, bias], learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    smooth, began = 0.0, time.perf_counter()
    for k in range(steps):
        chosen = rng.integers(0, len(data.images), BATCH)
        guess = forward(params, torch.from_numpy(_augment(data.images[chosen], rng))) @ head + bias
        loss = functional.huber_loss(guess, torch.from_numpy(wanted[chosen]), reduction="none", delta=0.3).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        smooth += (loss.item() - smooth) * (1e-2 if k else 1.0)
        if (k + 1) % 250 == 0:
            print(f"step {k + 1}/{steps} loss {smooth:.4f} {time.perf_counter() - began:.0f} s", flush=True)
    return {name: tensor.detach().numpy() for name, tensor in params.items()}


def readout_error(features: Array, data: Renders, train_features: Array, train: Renders) -> dict[str, float]:
    """Median error of a ridge regression on frozen features: {"object_to_goal_mm": ..., "turn_mrad": ...}."""
    mean, std = train_features.mean(0), train_features.std(0) + 1e-3
    a = np.c_[(train_features - mean) / std, np.ones(len(train_features))].astype(np.float64)
    weights = np.linalg.solve(a.T @ a + 1.0 * np.eye(a.shape[1]), a.T @ train.poses)
    guess = np.c_[(features - mean) / std, np.ones(len(features))] @ weights
    off = np.abs(guess - data.poses)
    return {
        "object_to_goal_mm": round(1e3 * float(np.median(np.linalg.norm(off[:, :2], axis=1))), 3),
        "object_to_tcp_mm": round(1e3 * float(np.median(np.linalg.norm(off[:, 4:6], axis=1))), 3),
        "turn_mrad": round(1e3 * float(np.median(off[:, 3])), 2),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", help="task.yaml:object, seen objects only")
    parser.add_argument("--episodes", type=int, default=300, help="per object")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name(embedded.WEIGHTS))
    parser.add_argument("--renders", type=Path, default=Path("out/renders"), help="where drawn frames are kept")
    args = parser.parse_args()
    jobs, held_out = [], []
    for reference in args.tasks:
        task = find_task(reference, [])
        # Tasks with a gripper need more of each episode.
        steps, keep_every = (90, 2) if task.action.gripper else (40, 1)
        job = Job(task, task.default_object, args.seed, args.episodes, steps, keep_every)
        jobs.append(job)
        held_out.append(replace(job, seed=args.seed + 1, episodes=max(1, args.episodes // 20)))
    began = time.perf_counter()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        paths = list(pool.map(partial(draw_once, folder=args.renders), jobs + held_out))
    data = load(paths[: len(jobs)])
    fresh = [load([path]) for path in paths[len(jobs) :]]
    print(f"{len(data.images)} frames in {time.perf_counter() - began:.0f} s", flush=True)
    params = train(data, args.steps, args.seed)
    blob = save(params)
    with writing_aside(args.out) as aside:
        aside.write_bytes(blob)
    result: dict[str, Any] = {
        "frames": len(data.images),
        "bytes": len(blob),
        "weights_sha256": sha256_hex(blob),
        "wall_s": round(time.perf_counter() - began),
    }
    some = np.random.default_rng(args.seed).choice(len(data.images), min(8000, len(data.images)), replace=False)
    subset = Renders(data.images[some], data.poses[some])
    for encoder in (embedded.frozen_from(blob, str(args.out)), random_conv()):

        def encode(images: NDArray[np.uint8], apply: Any = encoder.apply) -> Array:
            return np.concatenate([np.asarray(apply(images[k : k + 50])) for k in range(0, len(images), 50)])

        known = encode(subset.images)
        result[encoder.name] = {
            f"{job.task.name}:{job.object_name}": readout_error(encode(part.images), part, known, subset)
            for job, part in zip(jobs, fresh, strict=True)
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
