"""Specialists and runs store the observation record they were made with; it is compared on use and on resuming."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rl_samples import insertion, random_episodes, small
from safetensors.numpy import load, save

from rldg_core.errors import UserError
from rldg_core.files import sha256_hex
from rldg_core.task import RatesConfig, Task
from rldg_core.types import Step
from rldg_data.bags.recording import write_episode
from rldg_rl.checkpoint import STATE_FILE, checkpoints, write_checkpoint
from rldg_rl.learner import Learner
from rldg_rl.recordings import prepare, read_bag
from rldg_rl.specialist import SpecialistPolicy

LENGTH = 8


def record(folder: Path, steps: list[Step], task: Task | None = None) -> list[Path]:
    """Write each episode of the Steps as a bag."""
    size = LENGTH + 1
    parts = [steps[start : start + size] for start in range(0, len(steps), size)]
    return [write_episode(folder, part, task or insertion()) for part in parts]


def at_rate(steps: list[Step], hz: float) -> list[Step]:
    """Return the Steps as if recorded at this rate."""

    def moved(step: Step) -> Step:
        seen = replace(step.observation, stamp_ns=round(step.index * 1e9 / hz))
        return replace(step, observation=seen)

    return [moved(step) for step in steps]


def changed(**parts: Any) -> Task:
    return insertion().model_copy(update=parts)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run two episodes with a checkpoint, a specialist and two demonstrations; tests must not change the folder."""
    tmp_path = tmp_path_factory.mktemp("finished")
    demos = [
        replace(step, success=step.success, episode_id=f"d-{step.episode_id}") for step in random_episodes(2, LENGTH)
    ]
    record(tmp_path / "demos", demos)
    learner = Learner(small(), insertion(), 3)
    prepare(learner, [tmp_path / "demos"], tmp_path / "run")
    for step in random_episodes(2, LENGTH, seed=9):
        learner.consume(step)
    record(tmp_path / "run/bags", random_episodes(2, LENGTH, seed=9))
    write_checkpoint(tmp_path / "run", learner)
    return tmp_path / "run"


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """Copy the finished run and its demonstrations."""
    shutil.copytree(finished_run.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def resumed(run: Path) -> Learner:
    learner = Learner(small(), insertion(), 3)
    assert prepare(learner, [run.parent / "demos"], run).resumed_from
    return learner


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (changed(name="other"), "trained with task insertion, this stack has other"),
        (changed(rates=RatesConfig(control_hz=30)), r"trained with control_hz 10\.0, this stack has 30\.0"),
        (
            changed(action=insertion().action.model_copy(update={"scale_m": 0.01})),
            r"trained with action_scale \(0\.015, 0\.1\), this stack has \(0\.01, 0\.1\)",
        ),
        (changed(target_pose_base_tcp=(0.5, 0, 0.1, 1, 0, 0, 0)), "trained with target_pose_base_tcp"),
    ],
)
def test_specialist_is_refused_where_its_observation_record_differs(run: Path, task: Task, reason: str) -> None:
    SpecialistPolicy(run / "specialist", insertion())
    with pytest.raises(UserError, match=reason) as error:
        SpecialistPolicy(run / "specialist", task)
    assert "\n" not in str(error.value)


def test_specialist_without_observation_record_is_refused(run: Path) -> None:
    path = run / "specialist/config.json"
    value = json.loads(path.read_text())
    del value["made_of"]
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"made_of: missing.*rldg train"):
        SpecialistPolicy(run / "specialist", insertion())
    resumed(run)  # as the message advises
    value["made_of"] = {"task": "insertion"}
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match="not a specialist's configuration"):
        SpecialistPolicy(run / "specialist", insertion())


@pytest.mark.parametrize("hz", [4.0, 5.0, 12.0, 30.0])
def test_bags_of_another_rate_are_refused(tmp_path: Path, hz: float) -> None:
    learner = Learner(small(), insertion(), 0)
    (good,) = record(tmp_path / "good", at_rate(random_episodes(1, LENGTH), 10.2))
    read_bag(good, learner)
    record(tmp_path / "bags", at_rate(random_episodes(1, LENGTH), hz))
    with pytest.raises(UserError, match=rf"episode_000000: task insertion: {hz:g} steps per second .* 10 Hz"):
        prepare(learner, [tmp_path / "bags"], tmp_path / "run")


def test_bags_of_another_view_are_refused(tmp_path: Path) -> None:
    wrist = insertion().cameras["wrist"].model_copy(update={"width": 640})
    (bag,) = record(tmp_path, random_episodes(1, LENGTH), changed(cameras={"wrist": wrist}))
    config = small()
    seeing = config.model_copy(update={"features": config.features.model_copy(update={"image_encoder": "random_conv"})})
    with pytest.raises(UserError, match=r"camera .wrist. shows .*.width.: 640"):
        read_bag(bag, Learner(seeing, insertion(), 0))
    read_bag(bag, Learner(config, insertion(), 0))  # it uses no image


def test_run_resumes_with_the_same_bags(run: Path) -> None:
    learner = resumed(run)
    assert learner.counters.env_steps == 2 * LENGTH


@pytest.mark.parametrize("which", ["demos", "run/bags"])
@pytest.mark.parametrize("what", ["action", "state", "instruction"])
def test_resuming_with_other_content_is_refused(run: Path, which: str, what: str) -> None:
    folder = run.parent / which
    for bag in folder.iterdir():
        for file in bag.iterdir():
            file.unlink()
        bag.rmdir()
    steps = random_episodes(2, LENGTH, seed=0 if which == "demos" else 9)
    if which == "demos":
        steps = [replace(step, episode_id=f"d-{step.episode_id}") for step in steps]
    third = steps[3]
    if what == "action":
        third = replace(third, action=replace(third.action, executed=-third.action.executed))
    elif what == "state":
        third = replace(third, observation=replace(third.observation, wrench_tcp=np.ones(6)))
    else:
        third = replace(third, instruction="pull it out")
    record(folder, [*steps[:3], third, *steps[4:]])
    with pytest.raises(UserError, match=r"resuming: episode (d-)?e000 holds other images, states or actions"):
        resumed(run)


def test_demonstrations_may_be_added_but_not_removed(run: Path) -> None:
    more = [replace(step, episode_id="more", success=True) for step in random_episodes(1, LENGTH, seed=5)]
    record(run.parent / "demos", more)
    resumed(run)
    first = run.parent / "demos/episode_000000"
    first.rename(run.parent / "gone")
    with pytest.raises(UserError, match="demonstration d-e000 is missing"):
        resumed(run)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_checkpoint_is_neither_written_nor_read(run: Path, value: float) -> None:
    learner = resumed(run)
    learner.state = jax.tree.map(
        lambda leaf: jnp.full_like(leaf, value) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, learner.state
    )
    before = [path.name for path in checkpoints(run)]
    with pytest.raises(UserError, match=r"training has diverged.*not finite"):
        write_checkpoint(run, learner)
    with pytest.raises(UserError, match=r"training diverged by update \d+.*not finite"):
        learner.first_weights()
    assert [path.name for path in checkpoints(run)] == before
    path = checkpoints(run)[-1] / STATE_FILE
    tensors = load(path.read_bytes())
    name = next(name for name, tensor in tensors.items() if tensor.dtype == np.float32)
    data = save({**tensors, name: np.full_like(tensors[name], value)})
    path.write_bytes(data)
    document = json.loads((path.parent / "learner.json").read_text())
    (path.parent / "learner.json").write_text(json.dumps({**document, "sha256": sha256_hex(data)}))
    with pytest.raises(UserError, match=r"state\.safetensors: .* holds a value that is not finite"):
        resumed(run)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_output_of_the_actor_is_refused(run: Path, value: float) -> None:
    policy = SpecialistPolicy(run / "specialist", insertion())
    step = random_episodes(1, LENGTH)[0]
    policy.reset("", 0)
    assert policy.act(step.observation).shape == (1, 6)
    tensors = {name: array.copy() for name, array in policy._tensors.items()}
    tensors["actor/out/b"][2] = value
    policy._tensors = tensors
    with pytest.raises(ValueError, match="actor's output is not finite"):
        policy.act(step.observation)
    for field in ("pose_base_tcp", "twist_base_tcp", "wrench_tcp"):
        broken = getattr(step.observation, field).copy()
        broken[1] = value
        with pytest.raises(ValueError, match="not finite"):
            policy.act(replace(step.observation, **{field: broken}))


def test_frames_of_another_camera_or_view_are_refused_for_a_classifier(tmp_path: Path) -> None:
    from rldg_core.image_codec import encode_jpeg
    from rldg_rl.classifier.frames import Frame, read_frames, write_frame
    from rldg_rl.views import describe_frames

    def add(folder: Path, size: int) -> None:
        jpeg = encode_jpeg(np.zeros((size, size, 3), np.uint8))
        write_frame(folder, Frame("e", size, jpeg, True, "", ""))

    folder = tmp_path / "frames"
    describe_frames(folder, insertion(), "wrist")
    add(folder, 256)
    assert len(read_frames([folder], insertion(), "wrist")) == 1
    wide = insertion().cameras["wrist"].model_copy(update={"width": 640})
    with pytest.raises(UserError, match=r"frames\.json: camera 'wrist' shows"):
        read_frames([folder], changed(cameras={"wrist": wide}), "wrist")
    both = changed(cameras={"wrist": insertion().cameras["wrist"], "side": insertion().cameras["wrist"]})
    for use in (lambda: read_frames([folder], both, "side"), lambda: describe_frames(folder, both, "side")):
        with pytest.raises(UserError, match="frames of camera 'wrist', expected 'side'"):
            use()
    add(folder, 128)
    with pytest.raises(UserError, match="128x128 px, camera 'wrist' of task insertion gives 256x256 px"):
        read_frames([folder], insertion(), "wrist")
    bags = record(tmp_path / "bags", random_episodes(2, LENGTH), changed(cameras={"wrist": wide}))
    with pytest.raises(UserError, match=r"episode_000000: camera 'wrist' shows .*640"):
        read_frames([bags[0].parent], insertion(), "wrist")
