"""`rldg train` is killed with SIGKILL, as a whole and one node, and resumed: the result equals that of an uninterrupted
run bit for bit. Uses real processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from rldg_bringup.pipeline import share_dir
from rldg_bringup.runner import executable_path
from rldg_core.task import load_task
from rldg_core.types import ExecutedAction, Observation, Source, Step
from rldg_data.bags.cdr import encode_step
from rldg_data.bags.reading import find_bags, read_episode
from rldg_data.bags.recording import write_episode

DOMAIN = 128
MAX_STEPS, EPISODES = 15, 4
DEADLINE_S = 400.0
LEARNER = {
    "preset": "connector",
    "features": {"image_encoder": "none"},
    "network": {"hidden": [16, 16], "critics": 2},
    "agent": {"batch_size": 16},
    "learner": {
        "updates_per_call": 5,
        "start_steps": 10,
        "period_steps": 10,
        "updates_per_step": 1.0,
        "checkpoint_every_steps": 1,
    },
}


class Bench:
    """Starts `rldg train` on a task of short episodes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        task = yaml.safe_load((share_dir() / "config" / "tasks" / "insertion.yaml").read_text())
        task["episode"]["max_steps"] = MAX_STEPS
        self.task = folder / "insertion.yaml"
        self.task.write_text(yaml.safe_dump(task))
        self.learner = folder / "learner.yaml"
        self.learner.write_text(yaml.safe_dump(LEARNER))
        write_episode(folder / "demos", demonstration(), load_task(self.task))

    def start(self, run: str) -> psutil.Popen:
        """Start or resume a run of EPISODES episodes, which are too short for a success."""
        steps = str(EPISODES * MAX_STEPS)
        command = [str(executable_path("rldg_bringup", "rldg")), "train", str(self.task), "--seed", "5", "--json"]
        command += ["--demos", str(self.folder / "demos"), "--out", str(self.folder / run)]
        command += ["--max-steps", steps, "--min-steps", steps, "--learner-config", str(self.learner)]
        command += ["--evaluation-episodes", "0"]
        with (self.folder / f"{run}.log").open("ab") as log:
            environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN), "JAX_PLATFORMS": "cpu"}
            return psutil.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def finish(self, run: str) -> None:
        """Run until the command ends."""
        process = self.start(run)
        try:
            assert process.wait(DEADLINE_S) == 0, (self.folder / f"{run}.log").read_text()
        finally:
            kill_tree(process)

    def kill_within_episode(self, number: int, run: str, victim: str = "") -> None:
        """Start or resume; kill one node, or all processes of the stack at once, during this episode."""
        process = self.start(run)
        deadline = time.monotonic() + DEADLINE_S
        opened = self.folder / run / "bags"
        try:
            # The recorder's unfinished bag shows that the episode has begun.
            earlier, this = f"episode_{number - 1:06}", f".episode_{number:06}.*.partial"
            while not ((opened / earlier).is_dir() and list(opened.glob(this))):
                assert process.poll() is None, (self.folder / f"{run}.log").read_text()
                assert time.monotonic() < deadline
                with pytest.raises(psutil.TimeoutExpired):
                    process.wait(0.02)
            if victim:
                nodes = process.children(recursive=True)
                for member in nodes:
                    if any(Path(argument).name == victim for argument in member.cmdline()[:3]):
                        member.kill()
                assert process.wait(DEADLINE_S) == 2
                last = (self.folder / f"{run}.log").read_text().splitlines()[-1]
                assert last.startswith(f"rldg: node {victim} ended with code -9")
                assert psutil.wait_procs(nodes, timeout=0)[1] == [], "a process is still running"
        finally:
            kill_tree(process)

    def weights(self, run: str) -> list[bytes]:
        """Return the weights of the exported actor and of the newest checkpoint."""
        newest = sorted((self.folder / run / "checkpoints").iterdir())[-1]
        files = (self.folder / run / "specialist" / "actor.safetensors", newest / "state.safetensors")
        return [file.read_bytes() for file in files]

    def steps(self, run: str) -> list[list[bytes]]:
        """Return every Step of every closed bag."""
        return [[encode_step(step) for step in read_episode(bag)] for bag in find_bags(self.folder / run / "bags")]


def demonstration() -> list[Step]:
    """Return a synthetic successful episode; the learner of this test uses no images."""
    rng = np.random.default_rng(0)
    steps = []
    period_ns = 100_000_000
    for index in range(8):
        is_last = index == 7
        pose = np.array([0.5, 0.0, 0.2 - 0.005 * index, 1.0, 0.0, 0.0, 0.0])
        observation = Observation(index * period_ns, {}, pose, np.zeros(6), np.zeros(6), np.zeros(7), 0.04)
        action = rng.uniform(-1, 1, 0 if is_last else 6).astype(np.float32)
        executed = ExecutedAction(index * period_ns, action, action, Source.NONE if is_last else Source.SCRIPTED)
        step = Step(
            episode_id="demonstration/000000",
            index=index,
            step_count=index,
            task="insertion",
            object="vga",
            instruction="insert the VGA connector into the port",
            seed=0,
            observation=observation,
            action=executed,
            reward=float(index == 6),
            terminated=index >= 6,
            truncated=False,
            is_first=index == 0,
            is_last=is_last,
            success=index >= 6,
        )
        steps.append(step)
    return steps


def kill_tree(process: psutil.Popen) -> None:
    """Send SIGKILL to a process and all its children."""
    if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        family = [process, *process.children(recursive=True)]
        for member in family:
            member.kill()
        psutil.wait_procs(family, timeout=10)


@pytest.mark.timeout(1200)
def test_killed_and_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Kill one run twice: the whole stack in its second episode, then the recorder in its third."""
    bench = Bench(tmp_path)
    bench.finish("whole")
    assert len(bench.steps("whole")) == EPISODES
    for number, victim in ((1, ""), (2, "recorder")):
        bench.kill_within_episode(number, "killed", victim)
        # Every closed bag can be read.
        assert number <= len(bench.steps("killed")) < EPISODES
    bench.finish("killed")
    assert bench.steps("killed") == bench.steps("whole")
    assert bench.weights("killed") == bench.weights("whole")
