"""One run of benchmarks/specialists.py in a process of its own: demonstrations, online training, evaluations."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rldg_rl.runtime import use_one_core

use_one_core()

from _specialist_settings import EVALUATIONS, Run  # noqa: E402

from rldg_core.files import write_json  # noqa: E402
from rldg_core.seeding import derive_seed  # noqa: E402
from rldg_core.task import Task, find_task  # noqa: E402
from rldg_core.types import Observation, Step  # noqa: E402
from rldg_rl import config as configuration  # noqa: E402
from rldg_rl.classifier.reward import RewardClassifier, SuccessJudge  # noqa: E402
from rldg_rl.learner import Learner, Weights  # noqa: E402
from rldg_rl.specialist import SpecialistPolicy  # noqa: E402
from rldg_rl.specialist_files import ObservationRecord, SavedSpecialist, write_specialist  # noqa: E402
from rldg_rl.weights import pack  # noqa: E402
from rldg_sim.env import CellEnv  # noqa: E402
from rldg_sim.episodes import Episode, hold, run_episode  # noqa: E402
from rldg_sim.operators.config import OperatorConfig  # noqa: E402
from rldg_sim.scene import make_operator  # noqa: E402

EVALUATION_SEED = 987
ARRIVED = 2
"""Number of perfect evaluations in a row that end a run."""


class Training:
    """State of one run. tasks: folder of the installed tasks."""

    def __init__(self, run: Run, tasks: Path) -> None:
        self.run = run
        self.task = find_task(run.reference, [tasks])
        self.config = configuration.for_task(
            self.task, {**({"preset": run.preset} if run.preset else {}), **run.overrides}
        )
        self.env = CellEnv(self.task, images=self.config.features.image_encoder != "none", day=run.seed)
        self.learner = Learner(self.config, self.task, run.seed)
        self.demonstration_attempts = 0
        self.demonstration_s = self.learning_s = self.evaluating_s = 0.0
        self.step_count = self.perfect = self.false_positives = 0
        self.episodes: list[Episode] = []
        self.curve: list[dict[str, Any]] = []

    def demonstrate(self) -> None:
        """Give the learner the successful demonstrations of the scripted operator, as it takes them from bags."""
        began = time.perf_counter()
        operator = make_operator(OperatorConfig(mode="demonstrate"), self.task)
        kept = 0
        while kept < self.run.demonstrations:
            steps: list[Step] = []
            attempt = self.demonstration_attempts
            seed = derive_seed(self.run.seed, "demonstration", attempt)
            outcome = run_episode(
                self.env, seed, hold(self.task), operator, steps.append, episode_id=f"demonstration/{attempt}"
            )
            self.demonstration_attempts += 1
            if outcome.success:
                self.learner.add_demonstration(steps)
                kept += 1
        self.demonstration_s = time.perf_counter() - began

    def train(self) -> dict[str, Any]:
        """Train until ARRIVED perfect evaluations in a row or a limit; write the result after every evaluation."""
        run = self.run
        self.learner.warm_up()
        settings = run.file.with_name(f"{run.file.stem}_config.json")
        write_json(settings, {"preset": "hil_serl", **self.config.model_dump(mode="json")})
        self.policy = SpecialistPolicy(settings, self.task, explore=True)
        self.evaluated_policy = SpecialistPolicy(settings, self.task, explore=False)
        self.policy.warm_up()
        operator = make_operator(OperatorConfig(mode="intervene"), self.task) if run.interventions else None
        judge = _judge(run, self.task)
        self.began, self.cpu_began = time.perf_counter(), time.process_time()
        self.learner.train_on_demonstrations()
        self.pending: list[Weights] = [self.learner.first_weights()]
        next_evaluation = run.evaluate_every
        while True:
            seed = derive_seed(run.seed, "online", len(self.episodes))
            self.policy.reset("", seed)
            name = f"online/{len(self.episodes)}"
            outcome = run_episode(self.env, seed, self._act, operator, self._take, judge, name, self.step_count)
            self.episodes.append(outcome)
            self.false_positives += outcome.success and not outcome.true_success
            wall_s = time.perf_counter() - self.began
            ends = self.step_count >= run.max_steps or wall_s > run.time_limit_s
            if self.step_count < next_evaluation and not ends:
                continue
            next_evaluation += run.evaluate_every
            result = self._evaluate()
            if self.perfect == ARRIVED or ends:
                self._finish()
                return result

    def _take(self, step: Step) -> None:
        start = time.process_time()
        weights = self.learner.consume(step)
        self.learning_s += time.process_time() - start
        if weights:
            self.pending.append(weights)

    def _act(self, observation: Observation) -> Any:
        period = self.config.learner.period_steps
        due = self.step_count // period * period
        while self.pending and self.pending[0].valid_from_step <= due:
            weights = self.pending.pop(0)
            self.policy.update_weights(weights.data, weights.version)
        self.step_count += 1
        return self.policy.act(observation)[0]

    def _evaluate(self) -> dict[str, Any]:
        """Evaluate the deterministic policy on held-out seeds; write and return the result so far."""
        start = time.perf_counter()
        policy = self.evaluated_policy
        policy.update_weights(pack(self.learner.actor_tensors), 0)
        outcomes = []
        for k in range(EVALUATIONS):
            policy.reset("", k)
            seed = derive_seed(EVALUATION_SEED, "evaluation", k)
            outcomes.append(run_episode(self.env, seed, lambda observation: policy.act(observation)[0]))
        self.evaluating_s += time.perf_counter() - start
        successes = sum(o.true_success for o in outcomes)
        recent = self.episodes[-20:]
        interventions, steps = sum(o.interventions for o in recent), sum(o.steps for o in recent)
        self.curve.append(
            {
                "env_steps": self.step_count,
                "wall_s": round(time.perf_counter() - self.began, 1),
                "success": successes,
                "mean_steps": round(sum(o.steps for o in outcomes) / EVALUATIONS, 1),
                "train_success_20": round(sum(o.true_success for o in recent) / len(recent), 2),
                "intervention_ratio_20": round(interventions / max(1, steps), 3),
                **{name: round(value, 4) for name, value in self.learner.losses.items()},
            }
        )
        self.perfect = self.perfect + 1 if successes == EVALUATIONS else 0
        result = self._result()
        write_json(self.run.file, result)
        print(f"{self.run.file.stem}: {json.dumps(self.curve[-1])}", flush=True)
        return result

    def _result(self) -> dict[str, Any]:
        return {
            "task": self.run.reference,
            "realism": self.task.scene.realism,
            "seed": self.run.seed,
            "variant": self.run.name,
            "wall_s": self.curve[-1]["wall_s"],
            "env_steps": self.step_count,
            "success": self.curve[-1]["success"],
            "episodes": EVALUATIONS,
            "arrived": self.perfect == ARRIVED,
            "training_episodes": len(self.episodes),
            "updates": self.learner.counters.updates,
            "evaluation_s": round(self.evaluating_s, 1),
            "demonstration_attempts": self.demonstration_attempts,
            "demonstration_s": round(self.demonstration_s, 1),
            "interventions": sum(o.interventions for o in self.episodes),
            "false_positives": self.false_positives,
            "learning_cpu_s": round(self.learning_s, 1),
            "cpu_s": round(time.process_time() - self.cpu_began, 1),
            "curve": self.curve,
        }

    def _finish(self) -> None:
        self.env.close()
        updates, actor = self.learner.counters.updates, self.learner.actor_tensors
        made_of = ObservationRecord.of(self.task, self.config.features)
        saved = SavedSpecialist(self.config, actor, self.task.action.dim, updates, self.task.default_object, made_of)
        write_specialist(Path(self.run.keep or self.run.folder), saved)


def _judge(run: Run, task: Task) -> SuccessJudge | None:
    """Return the reward classifier of a run; None: the reward is the ground truth."""
    return SuccessJudge(RewardClassifier.load(Path(run.classifier), task), task) if run.classifier else None
