"""Commands fail when the recorder loses an episode or hangs; test_resume.py tests a recorder that is killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from rldg_bringup.bag_count import BagCount
from rldg_bringup.client import StackClient
from rldg_bringup.pipeline import arguments_for, stack_client
from rldg_bringup.runner import StackProcess
from rldg_core.errors import UserError
from rldg_data.bags.reading import find_bags

DOMAIN = 131
DEADLINE_S = 120.0

Stack = tuple[StackProcess, StackClient, Path]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Start a stack that records demonstrations; return it, its client, and the folder of its bags."""
    folder = tmp_path_factory.mktemp("stack")
    bags = folder / "bags"
    arguments = replace(
        arguments_for("insertion", 0), policy="hold", operator="demonstrate", record=True, bag_dir=str(bags)
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ROS_DOMAIN_ID", str(DOMAIN))
        with stack_client(arguments, folder / "log") as (process, client):
            yield process, client, bags


def test_lost_episode_fails_with_one_line_and_code_2(tmp_path: Path, start_rldg: Callable[..., psutil.Popen]) -> None:
    """A file in place of the bag's folder makes the recorder fail as on a full disk."""
    out = tmp_path / "bags"
    out.mkdir()
    (out / "episode_000000").write_text("in the way")
    process = start_rldg("record", "insertion", "--episodes", 1, "--out", out, "--json")
    printed, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, printed) == (2, "")
    (line,) = [line for line in errors.splitlines() if line.startswith("rldg: ")]
    assert f"{out}: 1 of 1 episodes have no bag, first 'demonstration-0/000000': recorder: " in line
    assert f"{out}/episode_000000: cannot write: Not a directory" in line


def test_hanging_recorder_is_reported(stack: Stack) -> None:
    process, client, bags = stack
    # The recorder listens once it has recorded an episode; suspended before that, it would keep the goal from starting.
    BagCount(bags, client, process).wait(client.run_episodes(1, 2))
    count = BagCount(bags, client, process, timeout_s=1.0)
    (node,) = [node for node in process.nodes if node.name == "recorder"]
    recorder = psutil.Process(node.process.pid)
    recorder.suspend()
    try:
        outcome = client.run_episodes(1, 0)
        with pytest.raises(UserError, match=f"^{bags}: 1 of 1 episodes have no bag, first '{outcome.episode_ids[0]}'"):
            count.wait(outcome)
    finally:
        recorder.resume()
    BagCount(bags, client, process).wait(client.run_episodes(1, 1))


def test_rldg_run_counts_the_bags_of_another_stack(stack: Stack, start_rldg: Callable[..., psutil.Popen]) -> None:
    process, _, bags = stack
    before = len(find_bags(bags)) if bags.is_dir() else 0
    run = start_rldg("run", "--episodes", 1, "--json")
    printed, errors = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 0, errors
    assert json.loads(printed)["episodes"] == len(find_bags(bags)) - before == 1
    lost = bags / f"episode_{before + 1:06}"
    lost.write_text("in the way")
    run = start_rldg("run", "--episodes", 1)
    _, errors = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 2
    assert "rldg: recorder: no bag of every episode, the newest is " in errors
    assert f"{lost.name}: cannot write: Not a directory" in errors
    process.check()
