"""The learner without ROS: Steps in, weights out. Same Steps and seed -> same weights, bit for bit.

Rules it enforces:
* updates <= updates_per_step x online transitions (demonstration updates are counted apart);
* weights fall due after every `period_steps` online transitions (docs/architecture.md, Lock-step, rule 7);
* a human's or the operator's transitions go to both replays, so half of every batch is demonstrations.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import jax
import numpy as np

from rldg_core.errors import UserError
from rldg_core.files import sha256_hex
from rldg_core.seeding import derive_seed
from rldg_core.task import Task
from rldg_core.types import Source, Step
from rldg_rl import agent
from rldg_rl.config import RLConfig
from rldg_rl.features import feature_dim, feature_function
from rldg_rl.replay import Replay, Row, sample_mixed
from rldg_rl.weights import Tensors, flatten, pack

INTERVENTIONS = (Source.HUMAN, Source.SCRIPTED)
RECENT_EPISODES = 20


@dataclass(frozen=True)
class Weights:
    """One version of the actor. data: safetensors; the rest as in PolicyWeights.msg."""

    data: bytes
    sha256: str
    version: int
    valid_from_step: int


@dataclass(frozen=True)
class EpisodeSummary:
    """What the success and intervention rates are made of."""

    success: bool
    steps: int
    interventions: int


@dataclass
class Counters:
    """Progress; saved with every checkpoint."""

    env_steps: int = 0
    updates: int = 0
    demo_updates: int = 0
    demo_transitions: int = 0
    episodes: int = 0
    version: int = -1
    rejected_steps: int = 0


class Learner:
    """Consumes Steps in order and trains. Not thread-safe.

    seed: everything random (initialisation, batches, the agent's noise) derives from it.
    """

    def __init__(self, config: RLConfig, task: Task, seed: int) -> None:
        self.config = config
        self.task = task
        self.seed = seed
        self.counters = Counters()
        self.consumed: dict[str, int] = {}  # online episode -> Steps consumed, in order of arrival
        self.open_episodes: dict[str, tuple[int, int]] = {}  # steps, interventions
        self.recent: deque[EpisodeSummary] = deque(maxlen=RECENT_EPISODES)
        self.losses: dict[str, float] = {}
        dim = feature_dim(config.features)
        self._features = feature_function(task, config.features)
        dtype = np.float32 if config.features.image_encoder == "none" else np.float16
        self.demonstrations = Replay(config.learner.demo_capacity, dim, task.action.dim, dtype)
        self.online = Replay(config.learner.replay_capacity, dim, task.action.dim, dtype)
        self.state = agent.init(config, dim, task.action.dim, derive_seed(seed, "agent"))
        self._update_many = agent.make_update_many(config)

    @property
    def spec_hash(self) -> str:
        """Hash that goes with the weights."""
        return self.config.spec_hash(self.task.action.dim)

    def warm_up(self) -> None:
        """Compile the update, so that the first one does not stall the loop; changes nothing."""
        c = self.config
        shape = (c.learner.updates_per_call, c.agent.batch_size)
        zeros = np.zeros((*shape, feature_dim(c.features)), np.float32)
        scalars = np.zeros(shape, np.float32)
        batch = agent.Batch(zeros, np.zeros((*shape, self.task.action.dim), np.float32), scalars, scalars, zeros)
        self._update_many(jax.tree.map(jax.numpy.copy, self.state), batch)

    def add_demonstration(self, steps: Iterable[Step]) -> None:
        """Add one recorded episode to the demonstrations, whoever acted in it."""
        for step in steps:
            row = self._row(step)
            if row is not None:
                self.demonstrations.add(row, step.is_last)
                self.counters.demo_transitions += not step.is_last

    def train_on_demonstrations(self) -> None:
        """The `demo_updates` before the first online step; once in the life of a run."""
        todo = self.config.learner.demo_updates - self.counters.demo_updates
        if len(self.demonstrations) and todo > 0:
            self.counters.demo_updates += todo
            self._update(todo)

    def first_weights(self) -> Weights:
        """The version that is valid from step 0 of this session (m = 0)."""
        return self._emit(0)

    def consume(self, step: Step) -> Weights | None:
        """Take one online Step, do the updates it allows, return weights when a version falls due.

        A malformed Step (wrong length, not finite) is counted and left out; nothing links across it.
        Raises UserError on a Step of another task.
        """
        if step.task != self.task.name:
            raise UserError(f"step of task {step.task!r}, the learner trains {self.task.name!r}")
        self.remember(step)
        if step.is_last:
            return None
        self.counters.env_steps += 1
        period = self.config.learner.period_steps
        done = step.step_count + 1
        due = done % period == 0
        self._update_allowed(all_of_them=due)
        return self._emit(done + period) if due else None

    def remember(self, step: Step) -> None:
        """Put an online Step into replay and into its episode's record, without counting it or updating."""
        self.consumed[step.episode_id] = self.consumed.get(step.episode_id, 0) + 1
        intervened = step.action.source in INTERVENTIONS
        row = self._row(step)
        if row is not None:
            self.online.add(row, step.is_last)
            if intervened:
                self.demonstrations.add(row)
            elif self.demonstrations.expects(row.episode_id, row.index):
                # Only the next observation of the intervention's last transition.
                self.demonstrations.add(replace(row, action=None), is_last=True)
        steps, interventions = self.open_episodes.pop(step.episode_id, (0, 0))
        if step.is_last:
            self.counters.episodes += 1
            self.recent.append(EpisodeSummary(step.success, steps, interventions))
        else:
            self.open_episodes[step.episode_id] = (steps + 1, interventions + intervened)

    def resume(
        self,
        state: agent.TrainState,
        counters: Counters,
        consumed: dict[str, int],
        recent: Iterable[EpisodeSummary],
        open_episodes: dict[str, tuple[int, int]],
    ) -> None:
        """Take over what `rldg_rl.checkpoint` read."""
        self.state, self.counters, self.consumed = state, counters, consumed
        self.recent, self.open_episodes = deque(recent, RECENT_EPISODES), open_episodes

    def rebuild(self, episodes: Mapping[str, list[Step]]) -> int:
        """After a restored checkpoint: refill replay from recorded episodes, then consume what came after it.

        episodes: online episodes by id, in the order of recording. Those that the checkpoint counts go back
        in their old order, without updates; Steps beyond it are consumed as if they arrived now. Returns how
        many counted episodes have no recording (a crash loses at most the open one).
        """
        counted, counters, recent, open_episodes = self.consumed, self.counters, self.recent, self.open_episodes
        self.counters, self.recent, self.open_episodes, self.consumed = Counters(), deque(), {}, {}
        missing = 0
        for episode_id, count in counted.items():
            steps = episodes.get(episode_id, [])
            missing += not steps
            for step in steps[:count]:
                self.remember(step)
        self.counters, self.recent, self.open_episodes, self.consumed = counters, recent, open_episodes, counted
        for episode_id, steps in episodes.items():
            for step in steps[self.consumed.get(episode_id, 0) :]:
                self.consume(step)
        return missing

    @property
    def success_rate(self) -> float:
        """Over the last 20 episodes; NaN before the first."""
        return float(np.mean([e.success for e in self.recent])) if self.recent else float("nan")

    @property
    def intervention_ratio(self) -> float:
        """Overridden steps / steps over the last 20 episodes; 0 before the first."""
        return sum(e.interventions for e in self.recent) / max(1, sum(e.steps for e in self.recent))

    @property
    def actor_tensors(self) -> Tensors:
        """The actor's parameters, (name -> float32 array)."""
        return flatten(self.state.actor)

    def _row(self, step: Step) -> Row | None:
        action = None if step.is_last else step.action.executed
        fits = action is None or (action.shape == (self.task.action.dim,) and bool(np.all(np.isfinite(action))))
        try:
            if fits and np.isfinite(step.reward):
                features = self._features(step.observation)
                return Row(step.episode_id, step.index, features, action, step.reward, step.terminated)
        except ValueError:
            pass  # counted below, like a malformed action
        self.counters.rejected_steps += 1
        return None

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
            # Derived from the number of updates done: nothing but counters to save and restore.
            rng = np.random.default_rng([self.seed, int(self.state.updates)])
            a = c.agent
            batch = sample_mixed(self.demonstrations, self.online, rng, size, a.batch_size, a.n_step, a.discount)
            self.state, metrics = self._update_many(self.state, batch)
            self.losses |= {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
            updates -= size

    def _emit(self, valid_from_step: int) -> Weights:
        self.counters.version += 1
        data = pack(self.actor_tensors)
        return Weights(data, sha256_hex(data), self.counters.version, valid_from_step)
