"""The learner, without ROS: consumes Steps and returns weights, a function of the Steps and the seed, bit for bit.

It enforces these rules:
* updates <= updates_per_step x online transitions (demonstration updates are counted apart);
* weights fall due after every `period_steps` online transitions (docs/explanation/architecture.md, Lock-step, rule 7);
* transitions of a human or the scripted operator are online transitions and demonstrations at once;
* a Step (episode id and index) is learned from once, even if it arrives by topic and in a bag.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from rldg_core.errors import UserError
from rldg_core.files import sha256_hex
from rldg_core.policy_checks import check_finite
from rldg_core.seeding import derive_seed
from rldg_core.task import Task
from rldg_core.types import Source, Step
from rldg_rl import agent
from rldg_rl.config import RLConfig
from rldg_rl.inputs import Inputs
from rldg_rl.replay import Replay, View
from rldg_rl.step_reader import ConsumedSteps, EpisodeChecksums, StepReader
from rldg_rl.weights import Tensors, flatten, pack

INTERVENTIONS = (Source.HUMAN, Source.SCRIPTED)
RECENT_EPISODES = 20
ISSUED_KEPT = 2
"""Versions that a policy may still need: the active one and the next one (rule 7)."""
OPEN_KEPT = 64


@dataclass(frozen=True)
class Weights:
    """One version of the actor. data: safetensors; the rest as in PolicyWeights.msg."""

    data: bytes
    sha256: str
    version: int
    valid_from_step: int


@dataclass(frozen=True)
class EpisodeSummary:
    """Outcome of one episode, for the success and intervention rates."""

    success: bool
    steps: int
    interventions: int


@dataclass
class Counters:
    """Counts that every checkpoint saves. Duplicate and rejected Steps are counted over all streams."""

    env_steps: int = 0
    updates: int = 0
    demo_updates: int = 0
    demo_transitions: int = 0
    earlier_transitions: int = 0
    episodes: int = 0
    version: int = -1
    rejected_steps: int = 0
    duplicate_steps: int = 0


@dataclass
class Progress:
    """The content of a checkpoint besides the agent's state."""

    counters: Counters
    seen: ConsumedSteps
    """Online Steps consumed, episodes in order of arrival."""
    content: EpisodeChecksums
    """Their checksums."""
    recent: deque[EpisodeSummary]
    open_episodes: dict[str, tuple[int, int]]
    """Steps and interventions of episodes whose last Step is still to come."""
    issued: deque[Weights]
    """The newest versions, oldest first."""

    @classmethod
    def fresh(cls) -> Progress:
        """Return the progress of a new run."""
        return cls(
            Counters(),
            ConsumedSteps(),
            EpisodeChecksums(),
            deque(maxlen=RECENT_EPISODES),
            {},
            deque(maxlen=ISSUED_KEPT),
        )


class Learner:
    """Consumes Steps in order and trains an agent. Not thread-safe.

    seed: of initialisation, batches and the agent's noise.
    """

    def __init__(self, config: RLConfig, task: Task, seed: int) -> None:
        self.config = config
        self.task = task
        self.seed = seed
        self.progress = Progress.fresh()
        self.rejections: dict[str, int] = {}
        """Reason -> number of Steps that were left out for it."""
        self.losses: dict[str, float] = {}
        self._reader = StepReader(config, task)
        self._offline = ConsumedSteps()  # Steps of demonstrations and of earlier runs
        self.earlier_content = EpisodeChecksums()
        """Checksums of those Steps."""
        capacities = config.learner.replay_capacity, config.learner.demo_capacity
        self.replay = Replay(self._reader.spec, task.action.dim, *capacities)
        self.state = agent.init(config, self._reader.spec, task.action.dim, derive_seed(seed, "agent"))
        self._update_many = agent.make_update_many(config)

    @property
    def counters(self) -> Counters:
        """Counts of the run so far."""
        return self.progress.counters

    @property
    def online(self) -> View:
        """Online replay; len(): transitions."""
        return self.replay.online

    @property
    def demonstrations(self) -> View:
        """Demonstrations and interventions; len(): transitions."""
        return self.replay.demonstrations

    @property
    def spec_hash(self) -> str:
        """Hash of the specification that the weights fit."""
        return self.config.spec_hash(self.task.action.dim)

    def warm_up(self) -> None:
        """Compile the update, so that the first one does not delay the stack. Changes nothing."""
        c, spec = self.config, self._reader.spec
        shape = (c.learner.updates_per_call, c.agent.batch_size)
        image = None if spec.image_shape is None else np.zeros((*shape, *spec.image_shape), spec.image_dtype)
        inputs = Inputs(np.zeros((*shape, spec.state_dim), np.float32), image)
        scalars = np.zeros(shape, np.float32)
        actions = np.zeros((*shape, self.task.action.dim), np.float32)
        batch = agent.Batch(inputs, actions, scalars, scalars, inputs, scalars)
        self._update_many(jax.tree.map(jax.numpy.copy, self.state), batch)

    def add_demonstration(self, steps: Sequence[Step]) -> None:
        """Add one recorded episode to the demonstrations, whatever the source of its actions.

        Raises UserError when none of its Steps can be learned from, and on another task.
        """
        self.counters.demo_transitions += self._add_recorded(steps, demonstration=True)

    def add_earlier(self, steps: Sequence[Step]) -> None:
        """Add one episode of an earlier run to the online replay, without counting steps and without updates.

        Its interventions are demonstrations, too. Raises as `add_demonstration`.
        """
        self.counters.earlier_transitions += self._add_recorded(steps, demonstration=False)

    def train_on_demonstrations(self) -> None:
        """Do the `demo_updates` that precede the first online step, once per run."""
        todo = self.config.learner.demo_updates - self.counters.demo_updates
        if len(self.demonstrations) and todo > 0:
            self.counters.demo_updates += todo
            self._update(todo)

    def first_weights(self) -> Weights:
        """Return the version that is valid from step 0."""
        return self._emit(0)

    def consume(self, step: Step) -> Weights | None:
        """Consume one online Step, do the updates that it allows, and return weights when a version falls due.

        A known Step is counted and dropped. A malformed one (wrong length, not finite, another image size) is counted
        and left out, and no transition spans it. Raises UserError on a Step of another task.
        """
        if not self._take(step) or step.is_last:
            return None
        self.counters.env_steps += 1
        period = self.config.learner.period_steps
        done = step.step_count + 1
        due = done % period == 0
        self._update_allowed(all_of_them=due)
        return self._emit(done + period) if due else None

    def consume_recorded(self, steps: Sequence[Step]) -> int:
        """Consume an online episode from a bag, without weights falling due. Returns the number of new Steps."""
        before = self.counters.duplicate_steps
        for step in steps:
            if self._take(step) and not step.is_last:
                self.counters.env_steps += 1
                self._update_allowed(all_of_them=False)
        return len(steps) - (self.counters.duplicate_steps - before)

    def refill(self, steps: Sequence[Step]) -> None:
        """Put Steps that a restored checkpoint has consumed back into replay. Changes nothing else."""
        for step in steps:
            self._store(step, online=True, demonstration=step.action.source in INTERVENTIONS)

    def knows(self, step: Step) -> bool:
        """Return whether this Step was consumed before, by topic or from a bag."""
        return step in self.progress.seen or step in self._offline

    def _take(self, step: Step) -> bool:
        """Store an online Step and update the counts of its episode. Returns False for a known Step."""
        self._check_task(step)
        progress = self.progress
        if self.knows(step):
            progress.counters.duplicate_steps += 1
            return False
        progress.seen.add(step)
        progress.content.add(step)
        intervened = step.action.source in INTERVENTIONS
        progress.counters.rejected_steps += not self._store(step, online=True, demonstration=intervened)
        steps, interventions = progress.open_episodes.pop(step.episode_id, (0, 0))
        if step.is_last:
            progress.counters.episodes += 1
            progress.recent.append(EpisodeSummary(step.success, steps, interventions))
        else:
            progress.open_episodes[step.episode_id] = (steps + 1, interventions + intervened)
            if len(progress.open_episodes) > OPEN_KEPT:  # episodes whose last Step was lost
                del progress.open_episodes[next(iter(progress.open_episodes))]
        return True

    def _add_recorded(self, steps: Sequence[Step], demonstration: bool) -> int:
        """Add Steps of a bag. Returns the number of transitions added."""
        added = refused = 0
        for step in steps:
            self._check_task(step)
            if self.knows(step):
                self.counters.duplicate_steps += 1
                continue
            self._offline.add(step)
            self.earlier_content.add(step)
            intervened = step.action.source in INTERVENTIONS
            if self._store(step, online=not demonstration, demonstration=demonstration or intervened):
                added += not step.is_last
            else:
                refused += 1
        self.counters.rejected_steps += refused
        if steps and refused == len(steps):
            raise UserError(f"episode {steps[0].episode_id}: no usable Step: {next(reversed(self.rejections))}")
        return added

    def _store(self, step: Step, *, online: bool, demonstration: bool) -> bool:
        try:
            row = self._reader.row(step)
            self.replay.add(row, online=online, demonstration=demonstration)
        except ValueError as error:
            self.rejections[str(error)] = self.rejections.pop(str(error), 0) + 1
            return False
        return True

    def _check_task(self, step: Step) -> None:
        if step.task != self.task.name:
            raise UserError(
                f"episode {step.episode_id} is of task {step.task!r}, the learner trains {self.task.name!r}"
            )

    @property
    def success_rate(self) -> float:
        """Success rate over the last 20 episodes; NaN before the first."""
        recent = self.progress.recent
        return float(np.mean([e.success for e in recent])) if recent else float("nan")

    @property
    def intervention_ratio(self) -> float:
        """Share of steps that a human or the operator took over the last 20 episodes; 0 before the first."""
        recent = self.progress.recent
        return sum(e.interventions for e in recent) / max(1, sum(e.steps for e in recent))

    @property
    def actor_tensors(self) -> Tensors:
        """Parameters that a policy needs to act: name -> float32 array."""
        return flatten(agent.policy_params(self.state))

    def _update_allowed(self, all_of_them: bool) -> None:
        c = self.config.learner
        if self.counters.env_steps < c.start_steps or not len(self.online):
            return
        allowed = math.floor(c.updates_per_step * self.counters.env_steps) - self.counters.updates
        todo = allowed if all_of_them else allowed - allowed % c.updates_per_call
        self.counters.updates += todo
        self._update(todo)

    def _update(self, updates: int) -> None:
        c = self.config
        while updates:
            size = c.learner.updates_per_call if updates >= c.learner.updates_per_call else 1
            # Derived from the number of updates, so that a checkpoint need not save the state of a generator.
            rng = np.random.default_rng([self.seed, int(self.state.updates)])
            a = c.agent
            batch = self.replay.sample_mixed(rng, size, a.batch_size, a.n_step, a.discount)
            self.state, metrics = self._update_many(self.state, batch)
            self.losses |= {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
            updates -= size

    def _emit(self, valid_from_step: int) -> Weights:
        tensors = self.actor_tensors
        # NaN spreads to the actor within a few updates; the checkpoint on the disk is older.
        where = f"training diverged by update {self.counters.updates + self.counters.demo_updates}"
        check_finite(f"{where}, resume from the last checkpoint with a lower learning rate", tensors.items())
        self.counters.version += 1
        data = pack(tensors)
        weights = Weights(data, sha256_hex(data), self.counters.version, valid_from_step)
        self.progress.issued.append(weights)
        return weights
