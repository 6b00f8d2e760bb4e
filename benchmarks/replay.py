"""Cost and correctness of replay: memory and disk per 1,000 steps; share of wrong transitions in samples.

    python benchmarks/replay.py

Episodes of the simulated cell with an exploring policy and a scripted operator who steps in, recorded as bags by the
recorder's own code. Every sampled transition is looked up in the recorded episodes. The peers keep what existing
systems keep: one frame per row and a `done` flag instead of an episode link.
"""

from __future__ import annotations

import argparse
import tempfile
import tracemalloc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rldg_rl.runtime import use_one_core

use_one_core()

import numpy as np  # noqa: E402
from _report import report  # noqa: E402

from rldg_core.seeding import derive_seed  # noqa: E402
from rldg_core.task import Task, load_task  # noqa: E402
from rldg_core.types import Step  # noqa: E402
from rldg_data.bags.reading import find_bags, read_episode  # noqa: E402
from rldg_data.bags.recording import write_episode  # noqa: E402
from rldg_rl.config import RLConfig, resolve  # noqa: E402
from rldg_rl.learner import INTERVENTIONS  # noqa: E402
from rldg_rl.replay import Replay, Row  # noqa: E402
from rldg_rl.step_reader import StepReader  # noqa: E402
from rldg_sim.env import CellEnv  # noqa: E402
from rldg_sim.episodes import run_episode  # noqa: E402
from rldg_sim.operators.config import Operator, OperatorConfig  # noqa: E402
from rldg_sim.scene import make_operator  # noqa: E402

TASK_FILE = Path(__file__).resolve().parents[1] / "src/rldg_bringup/config/tasks/insertion.yaml"
DISCOUNT = 0.97
BATCH = 256
FEATURES: dict[str, dict[str, Any]] = {"images": {"image_encoder": "small_cnn"}, "features": {}}
"""Stored form of a frame: pixels, or features of the default encoder."""


class Segments:
    """A scripted operator that intervenes in 5 of every 20 steps."""

    def __init__(self, operator: Operator) -> None:
        self._operator, self._steps = operator, 0

    def reset(self, seed: int) -> None:
        """Reset the operator."""
        self._operator.reset(seed)
        self._steps = 0

    def act(self, *measured: Any) -> tuple[np.ndarray[Any, Any], bool]:
        """Return the action of the operator; active only in its turns."""
        action, active = self._operator.act(*measured)
        self._steps += 1
        return action, active and self._steps % 20 >= 15


def record(task: Task, bag_dir: Path, steps: int, seed: int) -> None:
    """Record bags with at least this number of transitions of a random policy.

    In turn: without an operator, with one that intervenes at times, and with one that takes all steps and succeeds.
    """
    env = CellEnv(task)
    rng = np.random.default_rng(derive_seed(seed, "wander"))
    drift = np.zeros(task.action.dim, np.float32)

    def wander(_observation: object) -> np.ndarray[Any, Any]:
        drift[:] = 0.8 * drift + 0.4 * rng.uniform(-1, 1, drift.shape)
        return np.clip(drift, -1, 1)

    operator = make_operator(OperatorConfig(mode="demonstrate"), task)
    operators: list[Any] = [None, Segments(operator), operator]
    done = number = 0
    while done < steps:
        taken: list[Step] = []
        helper = operators[number % len(operators)]
        done += run_episode(
            env, derive_seed(seed, number), wander, helper, taken.append, None, f"bench/{number:06d}", done
        ).steps
        write_episode(bag_dir, taken, task)
        number += 1


def rows_of(episodes: Iterable[Sequence[Step]], config: RLConfig, task: Task) -> list[tuple[Row, Step]]:
    """Return the rows that the learner makes from the bags."""
    reader = StepReader(config, task)
    return [(reader.row(step), step) for steps in episodes for step in steps]


def fill(replay: Replay, rows: Iterable[tuple[Row, Step]]) -> None:
    """Fill replay as the learner does: interventions belong to both views."""
    for row, step in rows:
        replay.add(row, online=True, demonstration=step.action.source in INTERVENTIONS)


def megabytes_per_1k(rows: list[tuple[Row, Step]], config: RLConfig, task: Task) -> float:
    """Return the memory that replay allocates for these rows, by tracemalloc, in MB (10^6 bytes) per 1,000 rows."""
    spec = StepReader(config, task).spec
    demonstrations = 2 + 2 * sum(step.action.source in INTERVENTIONS for _, step in rows)
    tracemalloc.start()
    replay = Replay(spec, task.action.dim, len(rows), demonstrations)
    fill(replay, rows)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert replay.rows == len(rows)
    return used / len(rows) / 1e3


@dataclass(frozen=True)
class Truth:
    """Index of the recorded episodes: (state, action) -> position."""

    places: dict[bytes, tuple[int, int]]
    episodes: list[list[tuple[Row, Step]]]

    @classmethod
    def of(cls, rows: list[tuple[Row, Step]]) -> Truth:
        """Raises ValueError when two transitions are identical."""
        episodes: dict[str, list[tuple[Row, Step]]] = {}
        for row, step in rows:
            episodes.setdefault(row.episode_id, []).append((row, step))
        held = list(episodes.values())
        places = {
            _name(row.inputs.state, row.action): (e, k)
            for e, episode in enumerate(held)
            for k, (row, _) in enumerate(episode)
            if row.action is not None
        }
        if len(places) != sum(len(episode) - 1 for episode in held):
            raise ValueError("two transitions look the same")
        return cls(places, held)

    def wrong(self, batch: Any, n_step: int, demonstrations: bool) -> int:
        """Return the number of transitions of a batch (B,) that differ from the recording."""
        seen, after = batch.observations, batch.next_observations
        count = 0
        for b in range(len(batch.returns)):
            place = self.places.get(_name(seen.state[b], batch.actions[b]))
            if place is None:
                count += 1
                continue
            episode, start = self.episodes[place[0]], place[1]
            at, total, discount = start, 0.0, 1.0
            while at - start < n_step and at + 1 < len(episode):
                row, step = episode[at]
                if demonstrations and step.action.source not in INTERVENTIONS:
                    break
                total += discount * row.reward
                discount *= DISCOUNT * (not row.terminated)
                at += 1
                if row.terminated:
                    break
            right = (
                np.array_equal(after.state[b], episode[at][0].inputs.state)
                and abs(batch.returns[b] - total) < 1e-5
                and abs(batch.discounts[b] - discount) < 1e-5
                and (seen.image is None or _shows(seen.image[b], episode[start][0]))
                and (after.image is None or _shows(after.image[b], episode[at][0]))
            )
            count += not right
        return count


def _name(state: Any, action: Any) -> bytes:
    return bytes(np.ascontiguousarray(state)) + bytes(np.ascontiguousarray(action))


def _shows(image: Any, row: Row) -> bool:
    """Return whether an image is that of the row, or a stored crop of it."""
    stored = row.inputs.image if image.dtype != np.uint8 else row.inputs.image[None]
    return any(np.array_equal(image, crop) for crop in stored)


def check(rows: list[tuple[Row, Step]], config: RLConfig, task: Task, batches: int) -> tuple[int, int]:
    """Return (checked, wrong) over both views, n-step 1 and 3, with a ring that holds all rows and one that wraps."""
    truth, checked, wrong = Truth.of(rows), 0, 0
    rng = np.random.default_rng(0)
    for capacity in (len(rows), len(rows) // 3):
        replay = Replay(StepReader(config, task).spec, task.action.dim, capacity, capacity)
        fill(replay, rows)
        for view in (replay.online, replay.demonstrations):
            for n_step in (1, 3):
                for _ in range(batches):
                    batch = replay.sample(view, rng, (BATCH,), n_step, DISCOUNT)
                    wrong += truth.wrong(batch, n_step, view is replay.demonstrations)
                    checked += BATCH
    return checked, wrong


def peer_shares(rows: list[tuple[Row, Step]]) -> dict[str, float]:
    """Return the share of wrong transitions if `done` (terminated alone) is the only link between rows.

    For the replay of interventions and the online one. first_frame: rows keep next observations, and an observation is
    taken from the previous row (defect 1); next_frame: rows keep observations, and a next observation is taken from
    the following row (defect 2).
    """
    after = {(row.episode_id, row.index): row for row, _ in rows}
    online = [(row, step) for row, step in rows if row.action is not None]
    interventions = [(row, step) for row, step in online if step.action.source in INTERVENTIONS]
    shares = {}
    for name, kept in (("interventions", interventions), ("online", online)):
        first = following = 0
        for (before, _), (row, _) in pairwise(kept):
            adjacent = (before.episode_id, before.index + 1) == (row.episode_id, row.index)
            # The observation of `row` is the frame stored last, unless that one ended an episode.
            first += not before.terminated and not adjacent
            # The next observation of `before` is the frame of the following row; masked where it terminated.
            following += not before.terminated and after[before.episode_id, before.index + 1] is not row
        shares[f"peer_first_frame_wrong_{name}"] = round(first / (len(kept) - 1), 4)
        shares[f"peer_next_frame_wrong_{name}"] = round(following / (len(kept) - 1), 4)
    return shares


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="transitions to record at least")
    parser.add_argument("--batches", type=int, default=60, help="batches of 256 per view, n-step, ring and kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    task = load_task(TASK_FILE)
    values: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        record(task, Path(folder), arguments.steps, arguments.seed)
        bags = find_bags(Path(folder))
        size = sum(file.stat().st_size for bag in bags for file in bag.iterdir())
        episodes = [read_episode(bag) for bag in bags]
    steps = sum(len(episode) - 1 for episode in episodes)
    checked = wrong = 0
    rows: list[tuple[Row, Step]] = []
    for kind, features in FEATURES.items():
        config = resolve("hil_serl", {"features": features})
        rows = rows_of(episodes, config, task)
        values[f"mb_per_1k_{kind}"] = round(megabytes_per_1k(rows, config, task), 2)
        found = check(rows, config, task, arguments.batches)
        checked, wrong = checked + found[0], wrong + found[1]
    default = RLConfig().features
    values |= {
        "disk_mb_per_1k": round(size / steps / 1e3, 2),
        "wrong_transitions": wrong,
        "checked": checked,
        **peer_shares(rows),
        "steps": steps,
        "episodes": len(episodes),
        "truncated_episodes": sum(episode[-1].truncated for episode in episodes),
        "intervened_steps": sum(s.action.source in INTERVENTIONS for episode in episodes for s in episode),
        "image_px_replay": 128,
        "image_px_disk": next(iter(task.cameras.values())).image_size,
        "encoder": default.image_encoder,
        "crops": default.crops,
    }
    report("replay", values)


if __name__ == "__main__":
    main()
