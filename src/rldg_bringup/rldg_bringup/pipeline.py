"""Steps of the RLDG loop, each on a stack of its own: record, train, collect, evaluate. Used by `rldg` and the demo.

In simulation each step runs the real nodes in lock-step; with a real robot the same functions drive it in real time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

from rldg_bringup.arguments import StackArguments
from rldg_bringup.bag_count import BagCount
from rldg_bringup.client import StackClient, connected
from rldg_bringup.outcome import Episodes
from rldg_bringup.robots import SIMULATED, with_sim
from rldg_bringup.runner import StackProcess, running_stack
from rldg_bringup.stack import insertion_stack
from rldg_core.errors import UserError
from rldg_core.seeding import derive_seed
from rldg_core.task import Task, find_task
from rldg_data.bags.reading import episode_info, find_bags

Progress = Callable[[int, int], None]
"""Callback (done, total)."""

ACTIVE_POLICY_TIMEOUT_S = 120.0

LEARNER_TIMEOUT_S = 300.0
"""Limit for the learner to report. It compiles and encodes all demonstrations, and its own bags when it resumes; on a
busy machine this took over 120 s."""


def share_dir() -> Path:
    """Return the share folder of rldg_bringup. Raises UserError when the workspace is not sourced."""
    try:
        return Path(get_package_share_directory("rldg_bringup"))
    except PackageNotFoundError:
        raise UserError("rldg_bringup is not installed: run `make setup` and `source scripts/env.sh`") from None


def resolve_task(reference: str) -> Task:
    """Find a task among the installed ones."""
    return find_task(reference, [share_dir() / "config" / "tasks"])


@contextmanager
def stack_client(arguments: StackArguments, log_dir: Path) -> Iterator[tuple[StackProcess, StackClient]]:
    """Start a stack, wait until it is ready, yield it with a client, and end it."""
    stack = insertion_stack(arguments, share_dir())
    with (
        running_stack(stack, log_dir, arguments.params_file, arguments.log_level) as process,
        connected(arguments.namespace, process.check) as client,
    ):
        client.wait_ready()
        yield process, client


def arguments_for(task: str, seed: int, robot: str = SIMULATED) -> StackArguments:
    """Return the arguments that every step starts from: lock-step on a simulated robot, real time on hardware.

    Raises UserError for an unknown robot.
    """
    arguments = with_sim(StackArguments(task=task, seed=seed, robot=robot, log_level="warn"), share_dir())
    return replace(arguments, use_sim_time=bool(arguments.sim))


def _run(
    client: StackClient, episodes: int, seed: int, objects: tuple[str, ...], progress: Progress | None
) -> Episodes:
    report = progress or (lambda _done, _total: None)
    return client.run_episodes(episodes, seed, objects, lambda feedback: report(feedback.episode, episodes))


def record_demonstrations(
    arguments: StackArguments, episodes: int, bag_dir: Path, log_dir: Path, progress: Progress | None = None
) -> Episodes:
    """Record demonstrations: by the scripted operator in simulation, by a person on the robot.

    Raises UserError when an episode has no bag.
    """
    recording = replace(
        arguments,
        policy="hold",
        operator="demonstrate" if arguments.sim else "off",
        record=True,
        bag_dir=str(bag_dir),
        run_id=f"demonstration-{arguments.seed}",
    )
    with stack_client(recording, log_dir) as (process, client):
        bags = BagCount(bag_dir, client, process)
        outcome = _run(client, episodes, derive_seed(arguments.seed, "demonstrations"), (), progress)
        bags.wait(outcome)
    return outcome


@dataclass(frozen=True)
class TrainingLimits:
    """Conditions that end `train`: `success_rate` of the last 20 episodes after `min_steps`, or `max_steps`."""

    success_rate: float
    min_steps: int
    max_steps: int


@dataclass(frozen=True)
class TrainingResult:
    """Training episodes and the final status of the learner."""

    episodes: Episodes
    env_steps: int
    updates: int
    intervention_ratio_20: float
    specialist: Path


def train(
    arguments: StackArguments,
    demo_bag_dir: Path,
    run_dir: Path,
    limits: TrainingLimits,
    log_dir: Path,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train a specialist while it acts: policy, learner and, in simulation, the scripted operator that intervenes.

    A run folder that holds bags is resumed. Episode k always has the same seed, id and bag name, and in lock-step an
    interrupted episode is repeated, so that a resumed run equals an uninterrupted one.
    """
    training = replace(
        arguments,
        policy="specialist",
        checkpoint=arguments.learner_config,  # the features and networks of the learner
        explore=True,
        learner=True,
        operator="intervene" if arguments.sim else "off",
        run_dir=str(run_dir),
        demo_bag_dir=str(demo_bag_dir),
        record=True,
        bag_dir=str(run_dir / "bags"),
        run_id=f"training-{arguments.seed}",
    )
    bag_dir = run_dir / "bags"
    arguments.pace.prepare_resume(bag_dir, resolve_task(arguments.task).episode.max_steps)
    outcome = recorded(bag_dir)
    with stack_client(training, log_dir) as (process, client):
        bags = BagCount(bag_dir, client, process)
        client.wait(lambda: client.learner_status is not None, LEARNER_TIMEOUT_S, "learner (learner_status)")
        while not _trained(outcome, limits):
            seed = derive_seed(arguments.seed, "training", len(outcome.success))
            episode = client.run_episodes(1, seed)
            bags.wait(episode)
            outcome += episode
            if progress:
                progress(min(sum(outcome.steps), limits.max_steps), limits.max_steps)
        steps = sum(outcome.steps)
        client.wait(lambda: _consumed(client, steps), 120.0, "learner (last steps)")
        status = client.learner_status
    assert status is not None
    specialist = run_dir / "specialist"
    if not (specialist / "config.json").is_file():
        raise UserError(f"{specialist}: the learner wrote no specialist (log: {log_dir / 'learner.log'})")
    return TrainingResult(
        outcome, int(status.env_steps), int(status.updates), float(status.intervention_ratio_20), specialist
    )


def recorded(bag_dir: Path) -> Episodes:
    """Return the outcome of the episodes in the closed bags of a run."""
    infos = [episode_info(bag) for bag in find_bags(bag_dir)] if bag_dir.is_dir() else []
    return Episodes(
        tuple(info.success for info in infos),
        tuple(info.steps for info in infos),
        tuple(info.episode_id for info in infos),
    )


def _trained(outcome: Episodes, limits: TrainingLimits) -> bool:
    steps, recent = sum(outcome.steps), outcome.success[-20:]
    if steps >= limits.max_steps:
        return True
    return steps >= limits.min_steps and len(recent) == 20 and sum(recent) / 20 >= limits.success_rate


def _consumed(client: StackClient, steps: int) -> bool:
    return client.learner_status is not None and client.learner_status.env_steps >= steps


def roll_out(
    arguments: StackArguments,
    backend: str,
    checkpoint: Path | None,
    episodes: int,
    seed: int,
    log_dir: Path,
    *,
    objects: tuple[str, ...] = (),
    bag_dir: Path | None = None,
    progress: Progress | None = None,
) -> Episodes:
    """Run episodes of one policy, recording bags when `bag_dir` is given; used for collection and for evaluation.

    Raises UserError when an episode has no bag.
    """
    running = replace(
        arguments,
        policy=backend,
        checkpoint=str(checkpoint or ""),
        record=bag_dir is not None,
        bag_dir=str(bag_dir or ""),
        run_id=f"{backend}-{seed}",
    )
    with stack_client(running, log_dir) as (process, client):
        bags = BagCount(bag_dir, client, process) if bag_dir else None
        wait_active(client)
        outcome = _run(client, episodes, seed, objects, progress)
        if bags:
            bags.wait(outcome)
    return outcome


def wait_active(client: StackClient) -> None:
    """Wait until the policy node has an active policy."""

    def active() -> bool:
        status = client.policy_status
        if status is not None and status.last_error:
            raise UserError(f"policy: {status.last_error}")
        return status is not None and bool(status.active_policy)

    client.wait(active, ACTIVE_POLICY_TIMEOUT_S, "policy node (active policy)")
