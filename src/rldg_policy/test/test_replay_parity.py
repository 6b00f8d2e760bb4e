"""Replay parity: the data that a policy learns from equal, bit for bit, what the policy node sees live.

The live side is the path of the policy node: CDR bytes of the topic -> message -> Observation. The other side is the
whole data pipeline: the same bytes -> recorder -> bag -> recipe -> RLDS (images unchanged) -> row.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message

from rldg_core import from_msg
from rldg_core.commands import command_of
from rldg_core.frames import pose_at
from rldg_core.image_codec import decode_jpeg, encode_jpeg
from rldg_core.registry import load_policy
from rldg_core.task import Task
from rldg_core.types import Observation, Step
from rldg_data.bags.reading import read_episode
from rldg_data.bags.recording import EpisodeRecorder, write_episode
from rldg_data.episodes.episode import Episode
from rldg_data.plan import Relabel
from rldg_data.recipe.planning import make_plan
from rldg_data.recipe.recipe import quick_recipe
from rldg_data.relabelling import relabel_bags
from rldg_data.rlds import read_dataset
from rldg_data.rlds.export import export_plan
from rldg_data.testing.steps import make_episode, make_task
from rldg_msgs.msg import Step as StepMsg
from rldg_policy.compact.config import ModelConfig, TrainConfig
from rldg_policy.compact.heads import make_head
from rldg_policy.compact.inputs import instruction_tokens, to_input, views
from rldg_policy.compact.policy import CompactPolicy
from rldg_policy.compact.train import BatchSource
from rldg_policy.training.dataset import open_training_set
from rldg_policy.training.samples import episode_samples
from rldg_ros import to_msg

TASK_FILE = Path(__file__).parents[2] / "rldg_bringup/config/tasks/insertion.yaml"


def photographed(steps: list[Step], rng: np.random.Generator) -> list[Step]:
    """Give the Steps images of every frequency, so that no decoder or resize can hide a difference."""
    return [
        replace(
            step,
            observation=replace(
                step.observation,
                images={"wrist": encode_jpeg(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8), 90)},
                gripper_width_m=float("nan") if step.seed % 2 else step.observation.gripper_width_m,
            ),
        )
        for step in steps
    ]


@pytest.fixture(scope="module")
def parity(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[Step]], list[Episode], Path]:
    """Return the Steps as a node receives them, the episodes of the dataset in the same order, and the dataset."""
    folder = tmp_path_factory.mktemp("parity")
    recorder = EpisodeRecorder(folder / "bags", make_task())
    rng = np.random.default_rng(0)
    live: dict[str, list[Step]] = {}
    for seed in range(3):
        for step in photographed(make_episode(8, seed=seed), rng):
            data = serialize_message(to_msg.step(step))
            recorder.add_step(data)
            live.setdefault(step.episode_id, []).append(from_msg.step(deserialize_message(data, StepMsg)))
    assert recorder.counters.closed == 3
    path = export_plan(make_plan(quick_recipe([folder / "bags"], "parity"), folder), folder).path
    episodes = list(read_dataset(path).episodes())
    return [live[e.metadata["episode_id"]] for e in episodes], episodes, path


def test_images_and_inputs_of_the_compact_policy_are_equal(
    parity: tuple[list[list[Step]], list[Episode], Path],
) -> None:
    config = ModelConfig()
    for steps, episode in zip(parity[0], parity[1], strict=True):
        assert len(steps) == len(episode)
        for step, jpeg in zip(steps, episode.images["image"], strict=True):
            seen = step.observation.images["wrist"]
            assert seen == jpeg
            np.testing.assert_array_equal(decode_jpeg(seen), decode_jpeg(jpeg))
            np.testing.assert_array_equal(views(seen, config), views(jpeg, config))
        assert episode.instruction == steps[0].instruction
        for buckets in (64, config.instruction_buckets):
            np.testing.assert_array_equal(
                instruction_tokens(steps[0].instruction, buckets), instruction_tokens(episode.instruction, buckets)
            )


def test_proprioception_and_time_are_equal(parity: tuple[list[list[Step]], list[Episode], Path]) -> None:
    for steps, episode in zip(parity[0], parity[1], strict=True):
        seen = [step.observation for step in steps]
        for field, rows in (
            ("pose_base_tcp", episode.state[:, :7]),
            ("twist_base_tcp", episode.twist),
            ("wrench_tcp", episode.wrench),
        ):
            live = np.array([getattr(o, field) for o in seen]).astype(np.float32)
            assert live.tobytes() == np.ascontiguousarray(rows).tobytes(), field
        widths = np.array([o.gripper_width_m for o in seen], dtype=np.float32)
        np.testing.assert_array_equal(episode.state[:, 7], np.where(np.isnan(widths), 0, widths))
        stamps = np.array([o.stamp_ns for o in seen])
        np.testing.assert_array_equal(episode.timestamp_s, ((stamps - stamps[0]) / 1e9).astype(np.float32))


def test_training_tensors_equal_those_of_the_policy(parity: tuple[list[list[Step]], list[Episode], Path]) -> None:
    """Compare the rows that fine-tuning uses with the tensors that the policy makes of live observations."""
    config = ModelConfig()
    data = open_training_set(parity[2])
    source = BatchSource(data, make_head(config), TrainConfig(model=config), 0)
    rows = [row for n, e in enumerate(data.dataset.episodes()) for row in episode_samples(e, n, config.window, 1)]
    batch = source.batch(rows, np.zeros(len(rows), dtype=bool))
    live = [step for steps in parity[0] for step in steps if not step.is_last]
    assert len(rows) == len(live)
    images = np.stack([views(step.observation.images["wrist"], config)[None] for step in live])
    np.testing.assert_array_equal(batch.pixels.numpy(), to_input(images).numpy())
    tokens = [instruction_tokens(step.instruction, config.instruction_buckets) for step in live]
    np.testing.assert_array_equal(batch.tokens, tokens)


def test_relabelling_with_the_recording_policy_changes_nothing(tmp_path: Path, task: Task) -> None:
    """Same observations, same reset and same rule of the gate: relabelling a policy's own rollout changes no action."""
    policy = load_policy("scripted", "scripted", None, False, task)
    steps = make_episode(8, seed=5)
    policy.reset(steps[0].instruction, steps[0].seed)
    recorded = []
    for step in steps:
        offset = np.array([0.068, -0.04, 0.005 * step.index, 0, 0, 0])
        seen = replace(step.observation, pose_base_tcp=pose_at(task.target_pose_base_tcp, offset))
        action = step.action
        if not step.is_last:
            asked = policy.act(seen)[0]
            _, executed, _, box_clipped = command_of(asked, seen.pose_base_tcp, task.action, task.box)
            action = replace(action, executed=executed, box_clipped=box_clipped)
        recorded.append(replace(step, observation=seen, action=action))
    bag = write_episode(tmp_path / "bags", recorded, task)
    config = Relabel("scripted", None, str(TASK_FILE), sources=("policy",), policy_id="again")
    result = relabel_bags([bag], tmp_path / "out", config)
    assert result.steps == 8
    again = read_episode(tmp_path / "out/episode_000000")
    np.testing.assert_array_equal(
        [s.action.executed for s in again[:-1]], [s.action.executed for s in read_episode(bag)[:-1]]
    )
    assert {s.action.policy_id for s in again[:-1]} == {"again"}
    assert any(s.action.box_clipped for s in again) and np.any(again[0].action.executed)


def test_policy_answers_a_dataset_row_like_the_live_observation(
    parity: tuple[list[list[Step]], list[Episode], Path], checkpoint: Path, task: Task
) -> None:
    policy = CompactPolicy(checkpoint, task)
    steps, episode = parity[0][0], parity[1][0]
    policy.reset(steps[0].instruction, steps[0].seed)
    live = [policy.act(step.observation) for step in steps[:3]]
    policy.reset(episode.instruction, int(episode.metadata["seed"]))
    for row in range(3):
        seen = Observation(
            stamp_ns=0,
            images={"wrist": episode.images["image"][row]},
            pose_base_tcp=episode.state[row, :7].astype(np.float64),
            twist_base_tcp=episode.twist[row].astype(np.float64),
            wrench_tcp=episode.wrench[row].astype(np.float64),
            joint_positions=np.empty(0),
            gripper_width_m=float(episode.state[row, 7]),
        )
        np.testing.assert_array_equal(policy.act(seen), live[row])
    assert not np.array_equal(live[0], live[1])
