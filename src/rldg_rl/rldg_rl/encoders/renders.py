"""Randomised renders of the simulated cell with ground truth, to pretrain the embedded encoder on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rldg_core.arrays import read_npz
from rldg_core.files import writing_aside
from rldg_core.image_codec import decode_jpeg, encode_jpeg, resize
from rldg_core.seeding import derive_seed
from rldg_core.task import Task
from rldg_rl.encoders.frozen import IMAGE_SIZE

if TYPE_CHECKING:
    from rldg_sim.cell import Cell

EPISODES_PER_DAY = 10
"""Each day has its own camera mount, light, table and place of the fixture (rldg_sim.realism)."""
POSES = 8
"""object in goal: x y z [m], turn about z [rad]; the same of the object in the tcp's frame."""


Frame = tuple[NDArray[np.uint8], NDArray[np.float64]]
"""One image and its poses."""


class Renders(NamedTuple):
    """images (N, 128, 128, 3) uint8, poses (N, POSES) float32."""

    images: NDArray[np.uint8]
    poses: NDArray[np.float32]


@dataclass(frozen=True)
class Job:
    """Episodes to draw: `episodes` of at most `steps` control steps, of which every `keep_every`-th frame is kept."""

    task: Task
    object_name: str
    seed: int
    episodes: int
    steps: int
    keep_every: int = 1


def draw_once(job: Job, folder: Path) -> Path:
    """`draw` into a file of `folder`, unless it is there: an interrupted pretraining does not draw again."""
    name = f"{job.task.name}_{job.object_name}_{job.task.config_hash()}_{job.seed}_{job.episodes}x{job.steps}.npz"
    path = folder / name
    if not path.is_file():
        renders = draw(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing_aside(path) as aside, aside.open("wb") as file:
            np.savez(file, images=renders.images, poses=renders.poses)
    return path


def load(paths: list[Path]) -> Renders:
    """Renders of several files, one after the other."""
    parts = []
    for path in paths:
        stored = read_npz(path)
        parts.append(Renders(stored["images"], stored["poses"]))
    return Renders(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _pose(pose: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.append(pose[:3], Rotation.from_quat(pose[3:]).as_rotvec()[2])


def draw(job: Job) -> Renders:
    """Let a noisy scripted operator work and keep every frame, through the stack's JPEG and resizing.

    The noise differs between episodes, from a clean hand to one that mostly misses, so that the goal is seen from
    where a specialist in training sees it. Depends on the job alone.
    """
    from rldg_sim.cell import Cell

    frames: list[Frame] = []
    for first in range(0, job.episodes, EPISODES_PER_DAY):
        day = derive_seed(job.seed, "day", first // EPISODES_PER_DAY)
        cell = Cell(job.task, job.object_name, render=False, day=day)
        for episode in range(first, min(first + EPISODES_PER_DAY, job.episodes)):
            frames += _draw_episode(job, cell, episode)
        cell.close()
    images, poses = zip(*frames, strict=True)
    return Renders(np.stack(images), np.array(poses, np.float32))


def _draw_episode(job: Job, cell: Cell, episode: int) -> list[Frame]:
    from rldg_sim.episodes import ask
    from rldg_sim.operators.config import OperatorConfig
    from rldg_sim.scene import make_operator

    camera = next(iter(job.task.cameras.values()))
    seed = derive_seed(job.seed, f"renders/{job.task.name}/{job.object_name}", episode)
    rng = np.random.default_rng(seed)
    frame = cell.reset(seed, job.object_name)
    misjudge_m = float(rng.choice([0.0008, 0.003, 0.008]))
    config = replace(OperatorConfig(), speed=0.8, near_speed=0.4, misjudge_m=misjudge_m)
    operator = make_operator(config, job.task)
    operator.reset(seed)
    drift, noise = rng.normal(0, 0.1, 6), rng.choice([0.02, 0.1, 0.25, 0.6])
    frames: list[Frame] = []
    for index in range(job.steps):
        if index % job.keep_every == 0:
            seen = resize(decode_jpeg(encode_jpeg(cell.image(), camera.jpeg_quality)), IMAGE_SIZE)
            frames.append((seen, np.concatenate([_pose(frame.object_to_goal), _pose(frame.object_to_tcp)])))
        if frame.success:
            break
        action, _ = ask(operator, frame)
        drift = 0.9 * drift + 0.3 * rng.normal(0, noise, 6)
        action = np.array(action)
        action[:6] = np.clip(action[:6] + drift, -1.0, 1.0)
        frame = cell.step(action)
    return frames
