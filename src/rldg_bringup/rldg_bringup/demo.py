"""`rldg demo`: the whole RLDG loop on the simulated cell, stage by stage, with the real nodes.

Scripted demonstrations -> specialist -> rollouts -> two RLDS datasets -> two compact generalists ->
evaluation of both on seen and unseen connectors, swapped by service -> report, plots, GIFs.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from rldg_bringup.arguments import StackArguments
from rldg_bringup.demo_plan import DemoPlan
from rldg_bringup.media import FrameCollector, write_gif
from rldg_bringup.outcome import Episodes
from rldg_bringup.pipeline import (
    arguments_for,
    record_demonstrations,
    resolve_task,
    roll_out,
    share_dir,
    stack_client,
    train,
    wait_active,
)
from rldg_bringup.plots import plot_actions, plot_learning_curve, plot_success
from rldg_bringup.stages import Result, Stage, StageRecord, run_stages
from rldg_bringup.swap import swap_under_load
from rldg_core.configuration import read_yaml
from rldg_core.errors import UserError
from rldg_core.files import write_bytes, write_json
from rldg_core.frames import offset_from
from rldg_core.seeding import derive_seed
from rldg_core.task import Task

if TYPE_CHECKING:
    from rldg_data.plan import Plan as DatasetPlan

ProgressMaker = Callable[[str], Callable[[int, int], None]]
"""Function that makes the progress callback of a stage."""

GENERALISTS = ("scripted", "rldg")
"""Named after the source of their training data: scripted operator, RL specialist."""

MIRROR = 0.5
"""Share of mirrored samples: the wrist camera looks along the hand's plane of symmetry (TrainConfig.mirror)."""
NEAR_PORT_M = 0.015
SCENE_TOPIC = "/rldg/scene"
GIF_FPS = 10.0


class Demo:
    """The stages of one demo run in `run_dir`."""

    def __init__(self, run_dir: Path, plan: DemoPlan, seed: int, progress: ProgressMaker) -> None:
        self.run_dir = run_dir.resolve()
        self.plan = plan
        self.seed = seed
        self.progress = progress
        self.reference = f"{self._task_name()}:{plan.object_name}"
        self.task: Task = resolve_task(self.reference)
        self.seeds = {name: derive_seed(seed, name) for name in ("rollouts", "evaluation", "swap", "media")}

    def _task_name(self) -> str:
        """Return the name of the task, or the path of its copy with the plan's limit of steps."""
        if self.plan.episode_steps is None:
            return "insertion"
        content = read_yaml(share_dir() / "config" / "tasks" / "insertion.yaml")
        content["episode"] = {**content["episode"], "max_steps": self.plan.episode_steps}
        path = self.run_dir / "insertion.yaml"
        write_bytes(path, yaml.safe_dump(content, sort_keys=False).encode())
        return str(path)

    # Results of stages that later stages need.
    @property
    def _demonstrations(self) -> Path:
        return self.run_dir / "demonstrations" / "bags"

    @property
    def _specialist(self) -> Path:
        return self.run_dir / "specialist" / "specialist"

    @property
    def _rollouts(self) -> Path:
        return self.run_dir / "rollouts" / "bags"

    def _dataset(self, name: str) -> Path:
        return self.run_dir / "export" / "datasets" / f"insertion_{name}" / "1.0.0"

    def _generalist(self, name: str) -> Path:
        return self.run_dir / f"finetune_{name}" / "checkpoint"

    @property
    def _arguments(self) -> StackArguments:
        return arguments_for(self.reference, self.seed)

    def stages(self) -> list[Stage]:
        """All stages in order."""
        return [
            Stage("demonstrations", self.record),
            Stage("specialist", self.train),
            Stage("specialist_evaluation", self.evaluate_specialist),
            Stage("rollouts", self.collect),
            Stage("export", self.export),
            *(Stage(f"finetune_{name}", partial(self.finetune, name)) for name in GENERALISTS),
            Stage("evaluation", self.evaluate),
            Stage("swap", self.swap),
            Stage("media", self.media),
            Stage("plots", self.plot),
        ]

    def run(self, on_start: Callable[[Stage, int], None]) -> dict[str, object]:
        """Run the unfinished stages, write report.json and return it."""
        plan = {"plan": asdict(self.plan), "seed": self.seed, "task": self.task.config_hash()}
        records = run_stages(self.stages(), self.run_dir, plan, on_start)
        report = self._report({r.name: r for r in records})
        write_json(self.run_dir / "report.json", report)
        return report

    def record(self, folder: Path) -> Result:
        outcome = record_demonstrations(
            self._arguments, self.plan.demonstrations, folder / "bags", folder / "log", self.progress("demonstrations")
        )
        return self._summary(outcome)

    def train(self, folder: Path) -> Result:
        first = folder / "demonstrations"
        first.mkdir()
        # The first N bags, as the 20 demonstrations of the paper. Links suffice: a closed bag never changes.
        for bag in self._bags(self._demonstrations, self.plan.demonstrations)[: self.plan.rl_demonstrations]:
            (first / bag.name).symlink_to(bag)
        result = train(
            self._arguments,
            first,
            folder,
            self.plan.training,
            folder / "log",
            self.progress("specialist (control steps)"),
        )
        return {
            "env_steps": result.env_steps,
            "updates": result.updates,
            "success": list(result.episodes.success),
            "steps": list(result.episodes.steps),
        }

    def evaluate_specialist(self, folder: Path) -> Result:
        outcome = roll_out(
            self._arguments,
            "specialist",
            self._specialist,
            self.plan.evaluation,
            self.seeds["evaluation"],
            folder / "log",
            progress=self.progress("specialist evaluation"),
        )
        return self._summary(outcome)

    def collect(self, folder: Path) -> Result:
        outcome = roll_out(
            self._arguments,
            "specialist",
            self._specialist,
            self.plan.rollouts,
            self.seeds["rollouts"],
            folder / "log",
            bag_dir=folder / "bags",
            progress=self.progress("rollouts"),
        )
        return self._summary(outcome)

    def export(self, folder: Path) -> Result:
        """Export both datasets. What is compared is the data, so both have as many episodes as the smaller one."""
        from rldg_data.rlds.export import export_plan

        self._bags(self._demonstrations, self.plan.demonstrations)
        self._bags(self._rollouts, self.plan.rollouts)
        plans = [self._dataset_plan(name, self.plan.dataset_episodes, folder) for name in GENERALISTS]
        fewest = min(len(plan.episodes) for plan in plans)
        result: Result = {}
        for name in GENERALISTS:
            plan = self._dataset_plan(name, fewest, folder)
            exported = export_plan(plan, folder / "datasets", progress=self.progress(f"export {name}"))
            result[name] = {"episodes": sum(exported.episodes.values()), "steps": exported.steps}
        return result

    def _dataset_plan(self, name: str, max_episodes: int, folder: Path) -> DatasetPlan:
        from rldg_data.recipe.planning import make_plan
        from rldg_data.recipe.recipe import quick_recipe

        recipe = quick_recipe(
            [self._demonstrations if name == "scripted" else self._rollouts],
            f"insertion_{name}",
            only_success=self.plan.only_success,
            max_episodes=max_episodes,
            seed=self.seed,
        )
        return make_plan(recipe, folder)

    def finetune(self, name: str, folder: Path) -> Result:
        from rldg_policy.compact.config import TrainConfig
        from rldg_policy.compact.train import finetune

        outcome = finetune(
            self._dataset(name),
            folder / "checkpoint",
            TrainConfig(steps=self.plan.finetune_steps, mirror=MIRROR),
            seed=self.seed,
            progress=self.progress(f"fine-tune on {name} data"),
        )
        return asdict(outcome)

    def evaluate(self, folder: Path) -> Result:
        """Evaluate both generalists in one stack, swapped by service, with the same seeds."""
        result: Result = {}
        total = 2 * len(GENERALISTS) * self.plan.evaluation
        report = self.progress("evaluation of both generalists")
        done = 0
        arguments = replace(self._arguments, run_id="evaluation")
        with stack_client(arguments, folder / "log") as (_, client):
            for name in GENERALISTS:
                client.load_policy(name, "compact", str(self._generalist(name)))
            for name in GENERALISTS:
                client.activate_policy(name)
                result[name] = {}
                for group, objects in (("seen", (self.plan.object_name,)), ("unseen", self.plan.unseen_objects)):
                    outcome = client.run_episodes(
                        self.plan.evaluation,
                        self.seeds["evaluation"],
                        objects,
                        partial(_report_episode, report, done, total),
                    )
                    done += self.plan.evaluation
                    per_object = {o: sum(outcome.success[i :: len(objects)]) for i, o in enumerate(objects)}
                    result[name][group] = {**self._summary(outcome), "per_object": per_object}
        return result

    def swap(self, folder: Path) -> Result:
        policies = {name: ("compact", str(self._generalist(name))) for name in GENERALISTS}
        arguments = replace(self._arguments, use_sim_time=False, run_id="swap")
        return swap_under_load(
            arguments, policies, self.plan.swaps, self.seeds["swap"], folder / "log", self.progress("swaps at 10 Hz")
        )

    def media(self, folder: Path) -> Result:
        """Run one episode of each policy with the same seed; write the images of the wrist and the scene camera."""
        report = self.progress("media")
        policies = [("specialist", "specialist", self._specialist)]
        policies += [(name, "compact", self._generalist(name)) for name in GENERALISTS]
        result: Result = {}
        arguments = replace(self._arguments, scene_topic=SCENE_TOPIC, run_id="media")
        with stack_client(arguments, folder / "log") as (_, client):
            wait_active(client)
            collector = FrameCollector(client, SCENE_TOPIC)
            for index, (name, backend, checkpoint) in enumerate(policies):
                client.load_policy(name, backend, str(checkpoint), activate=True)
                collector.take()
                outcome = client.run_episodes(1, self.seeds["media"], (self.plan.object_name,))
                wrist, scene = collector.take()
                for camera, frames in (("wrist", wrist), ("scene", scene)):
                    write_gif(folder / f"{name}_{camera}.gif", frames, GIF_FPS)
                result[name] = {"success": outcome.success[0], "frames": len(wrist)}
                report(index + 1, len(policies))
            collector.close()
        return result

    def plot(self, folder: Path) -> Result:
        from rldg_core.files import read_json

        stage = {
            n: read_json(self.run_dir / "stages" / f"{n}.json")["result"]
            for n in ("specialist", "specialist_evaluation", "evaluation")
        }
        evaluation, specialist = stage["evaluation"], stage["specialist_evaluation"]
        results = {
            group: {
                f"generalist ({n} data)": (evaluation[n][group]["success"], evaluation[n][group]["episodes"])
                for n in GENERALISTS
            }
            for group in ("seen", "unseen")
        }
        results["seen"]["specialist"] = (specialist["success"], specialist["episodes"])
        plot_success(folder / "success_rate.png", results)
        plot_learning_curve(folder / "learning_curve.png", stage["specialist"]["success"], stage["specialist"]["steps"])
        actions = {
            "scripted operator": self._actions_near_port(self._demonstrations),
            "RL specialist": self._actions_near_port(self._rollouts),
        }
        plot_actions(folder / "actions.png", actions, ("dx (tcp)", "dy (tcp)"))
        return {"files": sorted(p.name for p in folder.glob("*.png"))}

    @staticmethod
    def _bags(folder: Path, episodes: int) -> list[Path]:
        """Return the bags of a finished stage. Raises UserError when bags are missing."""
        from rldg_data.bags.reading import find_bags

        bags = find_bags(folder)
        if len(bags) < episodes:
            raise UserError(f"{folder}: {len(bags)} bags, expected {episodes}; delete the run folder and start again")
        return bags

    def _actions_near_port(self, bags: Path) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Return dx, dy, (N, 2) float32, of the actions executed within 1.5 cm of the target (in its xy plane)."""
        from rldg_data.bags.reading import find_bags, read_episode

        target = np.array(self.task.target_pose_base_tcp)
        values = [
            step.action.executed[:2]
            for bag in find_bags(bags)
            for step in read_episode(bag)
            if not step.is_last
            and np.linalg.norm(offset_from(target, step.observation.pose_base_tcp)[:2]) < NEAR_PORT_M
        ]
        return np.array(values, dtype=np.float32).reshape(-1, 2)

    def _summary(self, outcome: Episodes) -> Result:
        return {
            "success": outcome.successes,
            "episodes": len(outcome.success),
            "cycle_time_s": outcome.cycle_time_s(self.task.period_s),
        }

    def _report(self, records: dict[str, StageRecord]) -> dict[str, object]:
        return {
            "stages": [{"name": r.name, "wall_s": r.wall_s, "resumed": r.resumed} for r in records.values()],
            "plan": asdict(self.plan),
            "demonstrations": records["demonstrations"].result,
            "training": {k: records["specialist"].result[k] for k in ("env_steps", "updates")},
            "specialist": records["specialist_evaluation"].result,
            "rollouts": records["rollouts"].result,
            "datasets": records["export"].result,
            "finetune": {n: records[f"finetune_{n}"].result for n in GENERALISTS},
            "generalists": records["evaluation"].result,
            "swap": records["swap"].result,
            "media": records["media"].result,
            "seeds": {"base": self.seed, **self.seeds},
            "versions": versions(),
        }


def _report_episode(report: Callable[[int, int], None], base: int, total: int, feedback: Any) -> None:
    report(base + feedback.episode, total)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that determine the results."""
    names = ("numpy", "mujoco", "jax", "torch", "flax", "optax", "rclpy", "rldg_bringup")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not found"
    return found
