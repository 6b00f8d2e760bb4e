"""How fast a specialist learns, without ROS: scripted demonstrations, RLPD on the simulated cell, evaluation.

    python benchmarks/specialist.py --seeds 0 1 2

Prints one JSON line and writes out/bench/specialist.json. Weights reach the policy with the lag that lock-step
gives them (docs/architecture.md, rule 7), so control steps are comparable with the stack's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rldg_rl.runtime import use_one_core

use_one_core()

import numpy as np  # noqa: E402

from rldg_core.files import write_json  # noqa: E402
from rldg_core.image_codec import encode_jpeg  # noqa: E402
from rldg_core.seeding import derive_seed  # noqa: E402
from rldg_core.task import Task, load_task  # noqa: E402
from rldg_core.types import ExecutedAction, Observation, Source, Step  # noqa: E402
from rldg_rl import config as configuration  # noqa: E402
from rldg_rl.config import RLConfig  # noqa: E402
from rldg_rl.learner import Learner, Weights  # noqa: E402
from rldg_rl.specialist import SpecialistPolicy  # noqa: E402
from rldg_rl.weights import pack  # noqa: E402
from rldg_sim.cell import Cell, SensorFrame  # noqa: E402
from rldg_sim.operator import OperatorConfig, ScriptedOperator  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
TASK_FILE = ROOT / "src/rldg_bringup/config/tasks/insertion.yaml"
Act = Callable[[Observation], np.ndarray[Any, Any]]
Take = Callable[[Step], None]


def observation(frame: SensorFrame) -> Observation:
    """What the observer makes of a sensor frame."""
    images = {} if frame.image is None else {"wrist": encode_jpeg(frame.image, 90)}
    return Observation(
        frame.stamp_ns,
        images,
        frame.pose_base_tcp,
        frame.twist_base_tcp,
        frame.wrench_tcp,
        frame.joint_positions,
        frame.gripper_width_m,
    )


def run_episode(
    cell: Cell, task: Task, name: str, seed: int, act: Act, operator: ScriptedOperator, step_count: int, take: Take
) -> tuple[bool, int]:
    """One episode; every Step goes to `take`. Returns success and its number of transitions."""
    frame = cell.reset(seed)
    operator.reset(seed)
    seen = observation(frame)
    nothing = ExecutedAction(0, np.zeros(0, np.float32), np.zeros(0, np.float32), Source.NONE)
    common = {"task": task.name, "object": cell.object_name, "instruction": task.instruction(cell.object_name)}
    for index in range(task.episode.max_steps + 1):
        truncated = not frame.success and index == task.episode.max_steps
        is_last = frame.success or truncated
        action = nothing
        before = seen
        if not is_last:
            asked = np.asarray(act(seen), np.float32)
            pushed, active = operator_acts(operator, frame)
            asked = pushed.astype(np.float32) if active else asked
            source = Source.SCRIPTED if active else Source.POLICY
            action = ExecutedAction(seen.stamp_ns, asked, asked, source)
            frame = cell.step(asked)
            truncated = not frame.success and index + 1 == task.episode.max_steps
            seen = observation(frame)
        take(
            Step(
                episode_id=name,
                index=index,
                step_count=step_count + index,
                seed=seed,
                observation=before,
                action=action,
                reward=float(frame.success and not is_last),
                terminated=frame.success,
                truncated=truncated,
                is_first=index == 0,
                is_last=is_last,
                success=frame.success,
                **common,
            )
        )
        if is_last:
            return frame.success, index
    raise AssertionError("unreachable: the last index truncates")


def no_action(_seen: Observation) -> np.ndarray[Any, Any]:
    """A policy that holds still."""
    return np.zeros(6, np.float32)


def operator_acts(operator: ScriptedOperator, frame: SensorFrame) -> tuple[np.ndarray[Any, Any], bool]:
    """What the node `operator` answers: deflection (6,) and whether it is touched."""
    return operator.act(
        frame.pose_base_tcp,
        frame.wrench_tcp,
        frame.object_to_goal,
        frame.object_to_tcp,
        frame.gripper_width_m,
        frame.time_s,
    )


@dataclass
class Bench:
    """One training run."""

    task: Task
    config: RLConfig
    seed: int
    render: bool
    interventions: bool

    def run(self, demos: int, max_steps: int, eval_every: int, time_limit_s: float) -> dict[str, Any]:
        """Train until the evaluation is perfect twice in a row or a limit is reached."""
        cell = Cell(self.task, "vga", render=self.render)
        learner = Learner(self.config, self.task, self.seed)
        operator = ScriptedOperator(OperatorConfig(mode="demonstrate"), self.task)
        wins = 0
        for k in range(demos):
            steps: list[Step] = []
            seed = derive_seed(self.seed, "demo", k)
            wins += run_episode(cell, self.task, f"demo{k}", seed, no_action, operator, 0, steps.append)[0]
            if steps[-1].success:  # as the learner does with bags
                learner.add_demonstration(steps)
        learner.warm_up()
        began = time.perf_counter()
        learning_s = evaluating_s = 0.0
        learner.train_on_demonstrations()
        policy = SpecialistPolicy(_config_file(self.config), self.task, explore=True)
        pending: list[Weights] = [learner.first_weights()]
        period = self.config.learner.period_steps
        helper = ScriptedOperator(OperatorConfig(mode="intervene" if self.interventions else "off"), self.task)
        count, episodes, curve, intervened = 0, 0, [], 0
        perfect = 0

        def take(step: Step) -> None:
            nonlocal learning_s, intervened
            intervened += step.action.source == Source.SCRIPTED
            start = time.process_time()
            weights = learner.consume(step)
            learning_s += time.process_time() - start
            if weights:
                pending.append(weights)

        def act(seen: Observation) -> np.ndarray[Any, Any]:
            nonlocal count
            due = count // period * period
            while pending and pending[0].valid_from_step <= due:
                weights = pending.pop(0)
                policy.update_weights(weights.data, weights.version)
            count += 1
            return policy.act(seen)[0]

        next_eval = eval_every
        while count < max_steps and time.perf_counter() - began - evaluating_s < time_limit_s:
            seed = derive_seed(self.seed, "online", episodes)
            policy.reset("", seed)
            run_episode(cell, self.task, f"online{episodes}", seed, act, helper, count, take)
            episodes += 1
            if count < next_eval:
                continue
            next_eval += eval_every
            start = time.perf_counter()
            successes, mean_steps = self.evaluate(cell, learner)
            evaluating_s += time.perf_counter() - start
            wall = time.perf_counter() - began - evaluating_s
            curve.append(
                {"steps": count, "wall_s": round(wall, 1), "successes": successes, "mean_steps": round(mean_steps, 1),
                 "train_success_20": learner.success_rate, **{k: round(v, 4) for k, v in learner.losses.items()}}
            )  # fmt: skip
            print(json.dumps(curve[-1]), flush=True)
            perfect = perfect + 1 if successes == 20 else 0
            if perfect == 2:
                break
        cell.close()
        first = next((p for p in curve if p["successes"] == 20), None)
        return {
            "seed": self.seed, "demo_successes": wins, "demo_transitions": learner.counters.demo_transitions,
            "steps_to_20": first and first["steps"], "wall_s_to_20": first and first["wall_s"],
            "final_successes": curve[-1]["successes"], "control_steps": count, "episodes": episodes,
            "updates": learner.counters.updates, "wall_s": curve[-1]["wall_s"], "interventions": intervened,
            "learning_cpu_s": round(learning_s, 1),
            "cpu_ms_per_update": round(1e3 * learning_s / max(1, learner.counters.updates), 2), "curve": curve,
        }  # fmt: skip

    def evaluate(self, cell: Cell, learner: Learner) -> tuple[int, float]:
        """20 deterministic episodes with held-out seeds: successes and mean number of steps."""
        policy = SpecialistPolicy(_config_file(self.config), self.task, explore=False)
        policy.update_weights(pack(learner.actor_tensors), 0)
        nobody = ScriptedOperator(OperatorConfig(mode="off"), self.task)
        results = []
        for k in range(20):
            seed = derive_seed(987, "evaluation", k)
            policy.reset("", seed)
            results.append(
                run_episode(cell, self.task, "", seed, lambda o: policy.act(o)[0], nobody, 0, lambda step: None)
            )
        return sum(success for success, _ in results), float(np.mean([steps for _, steps in results]))


def _config_file(config: RLConfig) -> Path:
    path = ROOT / "out/bench/specialist_config.json"
    write_json(path, {"preset": "hil_serl", **config.model_dump(mode="json")})
    return path


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--interventions", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--demos", type=int, default=20)
    parser.add_argument("--max-steps", type=int, default=15_000)
    parser.add_argument("--eval-every", type=int, default=1000)
    parser.add_argument("--time-limit-s", type=float, default=600.0)
    parser.add_argument("--preset", default="connector")
    parser.add_argument("--overrides", type=json.loads, default={}, help="JSON with the keys of RLConfig")
    parser.add_argument("--out", type=Path, default=ROOT / "out/bench/specialist.json")
    args = parser.parse_args()
    task = load_task(TASK_FILE)
    config = configuration.resolve(args.preset, args.overrides)
    render = config.features.image_encoder != "none"
    runs = [
        Bench(task, config, seed, render, args.interventions).run(
            args.demos, args.max_steps, args.eval_every, args.time_limit_s
        )
        for seed in args.seeds
    ]
    result = {"benchmark": "specialist", "overrides": args.overrides, "preset": args.preset, "runs": runs}
    write_json(args.out, result)
    print(json.dumps({**result, "runs": [{k: v for k, v in r.items() if k != "curve"} for r in runs]}))


if __name__ == "__main__":
    main()
