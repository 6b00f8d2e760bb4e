"""The learner: update ratio, due weights, determinism, interventions, checkpoints and resuming."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rl_samples import episode, insertion, random_episodes, small

from rldg_core.errors import UserError
from rldg_core.image_codec import encode_jpeg
from rldg_core.types import Source, Step
from rldg_rl.checkpoint import checkpoints, restore, write_checkpoint
from rldg_rl.config import RLConfig, resolve
from rldg_rl.learner import Counters, Learner, Weights
from rldg_rl.specialist_files import read_specialist


def fed(steps: list[Step], config: RLConfig | None = None, seed: int = 0) -> tuple[Learner, list[Weights]]:
    """Return a learner that consumed these Steps, and the weights it published."""
    learner = Learner(config or small(), insertion(), seed)
    weights = [learner.first_weights()]
    weights += [w for step in steps if (w := learner.consume(step))]
    return learner, weights


def test_update_to_data_ratio_holds_after_every_step() -> None:
    learner = Learner(small(updates_per_step=1.5), insertion(), 0)
    for step in random_episodes(5, 9):
        learner.consume(step)
        counters = learner.counters
        assert counters.updates <= 1.5 * counters.env_steps
        assert counters.env_steps >= 10 or counters.updates == 0
    assert learner.counters.env_steps == 45
    # All updates that step 40 allows are done when its weights are due.
    assert 60 <= learner.counters.updates <= 67
    assert int(learner.state.updates) == learner.counters.updates


def test_weights_are_due_at_multiples_of_the_publish_period() -> None:
    _, weights = fed(random_episodes(4, 8))
    assert [(w.version, w.valid_from_step) for w in weights] == [(0, 0), (1, 20), (2, 30), (3, 40)]


def test_steps_and_seed_determine_every_byte() -> None:
    steps = random_episodes(3, 10)
    first, second, other = (fed(steps, seed=seed)[1] for seed in (1, 1, 2))
    assert [w.sha256 for w in first] == [w.sha256 for w in second]
    assert len({w.data for w in first}) == 4
    assert first[-1].data != other[-1].data


def test_demonstration_updates_are_counted_separately() -> None:
    learner = Learner(small(demo_updates=7), insertion(), 0)
    learner.add_demonstration(random_episodes(1, 20))
    learner.train_on_demonstrations()
    assert (learner.counters.demo_updates, learner.counters.updates, int(learner.state.updates)) == (7, 0, 7)
    assert learner.counters.demo_transitions == 20


def test_interventions_enter_both_replays_with_their_next_observation() -> None:
    sources = [Source.POLICY, Source.HUMAN, Source.HUMAN, Source.POLICY, Source.SCRIPTED, Source.POLICY]
    offsets = np.zeros((7, 6))
    offsets[:, 0] = np.arange(7) * 0.005
    learner, _ = fed(episode("a", offsets, sources=sources))
    assert len(learner.online) == 6
    assert len(learner.demonstrations) == 3
    batch = learner.replay.sample(learner.demonstrations, np.random.default_rng(0), (100,), 1, 0.9)
    starts, ends = batch.observations.state[:, 0], batch.next_observations.state[:, 0]
    pairs = {(round(float(o) * 10), round(float(n) * 10)) for o, n in zip(starts, ends, strict=True)}
    assert pairs == {(1, 2), (2, 3), (4, 5)}  # features are divided by 0.05 m
    assert learner.intervention_ratio == pytest.approx(0.5)


def test_time_limits_bootstrap_and_successes_do_not() -> None:
    offsets = np.zeros((4, 6))
    timed_out, _ = fed(episode("a", offsets, success=False, truncated=True))
    succeeded, _ = fed(episode("a", offsets))
    rng = np.random.default_rng(0)
    discounts = [x.replay.sample(x.online, rng, (50,), 1, 0.9).discounts for x in (timed_out, succeeded)]
    assert discounts[0].min() == pytest.approx(0.9)
    assert discounts[1].min() == 0.0
    assert (timed_out.success_rate, succeeded.success_rate) == (0.0, 1.0)


def damaged(steps: list[Step], place: int, **changes: object) -> list[Step]:
    """Return a Step with another action or other fields."""
    action = {name: changes.pop(name) for name in ("executed",) if name in changes}
    step = replace(steps[place], **changes)  # type: ignore[arg-type]
    steps[place] = replace(step, action=replace(step.action, **action))  # type: ignore[arg-type]
    return steps


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"executed": np.full(6, np.nan, np.float32)}, "action.executed: not finite"),
        ({"executed": np.zeros(7, np.float32)}, "action.executed: 7 numbers, task insertion has 6"),
        ({"reward": float("nan")}, "reward: not finite"),
        ({"index": 10**9}, "index: not in 0 .. 100000"),
    ],
)
def test_malformed_steps_are_counted_and_end_no_transition(change: dict[str, object], reason: str) -> None:
    learner, _ = fed(damaged(episode("a", np.zeros((6, 6))), 2, **change))
    assert learner.counters.rejected_steps == 1
    assert learner.rejections == {reason: 1}
    assert len(learner.online) == 3  # 0 -> 1, 3 -> 4, 4 -> 5


def test_images_of_another_size_are_refused_also_in_demonstrations() -> None:
    config = resolve("connector", {"features": {"image_encoder": "random_conv", "crops": 1}})
    learner = Learner(config, insertion(), 0)
    steps = [with_image(step, 256) for step in episode("a", np.zeros((4, 6)))]
    steps[1] = with_image(steps[1], 128)
    for step in steps:
        learner.consume(step)
    assert learner.rejections == {"observation.images[wrist]: 128x128, task says 256x256": 1}
    assert (len(learner.online), learner.replay.rows) == (1, 3)
    with pytest.raises(UserError, match=r"episode d: no usable Step: observation.images\[wrist\]: 64x64"):
        learner.add_demonstration([with_image(step, 64) for step in episode("d", np.zeros((4, 6)))])
    with pytest.raises(UserError, match="no camera 'wrist'"):
        learner.add_demonstration(episode("e", np.zeros((4, 6))))


def with_image(step: Step, size: int) -> Step:
    """Return the Step with a wrist image."""
    image = encode_jpeg(np.full((size, size, 3), step.index, np.uint8))
    return replace(step, observation=replace(step.observation, images={"wrist": image}))


def test_step_of_another_task_is_refused() -> None:
    steps = [replace(step, task="other") for step in episode("a", np.zeros((3, 6)))]
    for add in (lambda s: fed(s), Learner(small(), insertion(), 0).add_demonstration):
        with pytest.raises(UserError, match="episode a is of task 'other', the learner trains 'insertion'"):
            add(steps)


def test_step_counts_once_from_any_stream() -> None:
    steps = random_episodes(3, 9)
    once, _ = fed(steps)
    learner, _ = fed([step for step in steps for _ in range(2)])
    assert learner.counters.duplicate_steps == len(steps)
    assert learner.consume_recorded(steps[:10]) == 0
    learner.add_demonstration(steps[:10])
    learner.add_earlier(steps[10:20])
    assert learner.counters == replace(once.counters, duplicate_steps=2 * len(steps))
    assert learner.first_weights().data == once.first_weights().data


def test_bags_of_earlier_runs_fill_only_the_online_replay() -> None:
    learner = Learner(small(), insertion(), 0)
    sources = [Source.POLICY] * 6 + [Source.HUMAN] * 3
    learner.add_earlier(random_episodes(1, 9, sources=sources))
    assert (len(learner.online), len(learner.demonstrations)) == (9, 3)
    assert learner.counters == Counters(earlier_transitions=9)
    assert not learner.progress.recent


def test_watched_bag_is_counted_and_fills_gaps_of_the_live_stream() -> None:
    steps = random_episodes(2, 9)
    learner, _ = fed(steps[:4] + steps[6:10])
    assert len(learner.online) == 6  # neither 3 -> 4 nor 5 -> 6
    assert learner.consume_recorded(steps[:10]) == 2
    assert (len(learner.online), learner.counters.env_steps) == (9, 9)
    assert learner.consume_recorded(steps[10:]) == 10
    assert (learner.counters.env_steps, learner.counters.updates) == (18, 35)


def test_checkpoints_are_pruned_and_checked(tmp_path: Path) -> None:
    learner = Learner(small(), insertion(), 0)
    learner.first_weights()
    for step in random_episodes(3, 9):
        learner.consume(step)
        write_checkpoint(tmp_path, learner)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["00000026", "00000027"]
    folder = checkpoints(tmp_path)[-1]
    assert folder is not None

    with pytest.raises(UserError, match=r"learner\.json: another seed"):
        restore(Learner(small(), insertion(), 1), folder)
    with pytest.raises(UserError, match=r"another configuration .* \(learner.period_steps 10 instead of 7\)"):
        restore(Learner(small(period_steps=7), insertion(), 0), folder)
    wider = small().model_copy(update={"network": small().network.model_copy(update={"hidden": (32, 32)})})
    with pytest.raises(UserError, match=r"network.hidden \[16, 16\] instead of \[32, 32\]"):
        restore(Learner(wider, insertion(), 0), folder)
    state = folder / "state.safetensors"
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    with pytest.raises(UserError, match=r"state\.safetensors: SHA-256 differs"):
        restore(Learner(small(), insertion(), 0), folder)
    state.write_bytes(b"\x80\x04pickle")
    with pytest.raises(UserError, match=r"state\.safetensors: not valid safetensors"):
        restore(Learner(small(), insertion(), 0), folder)
    (folder / "learner.json").write_text("{}")
    with pytest.raises(UserError, match="not a learner's checkpoint"):
        restore(Learner(small(), insertion(), 0), folder)


def test_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, _ = fed(random_episodes(2, 9))
    old = write_checkpoint(tmp_path, learner)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for step in random_episodes(3, 9)[20:]:
        learner.consume(step)
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"checkpoints/00000027: cannot write: No space left on device"):
        write_checkpoint(tmp_path, learner)
    monkeypatch.undo()
    assert checkpoints(tmp_path)[-1] == old
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    restore(Learner(small(), insertion(), 0), old)


def test_specialist_folder_holds_the_actor_and_is_verified(tmp_path: Path) -> None:
    learner, _ = fed(random_episodes(1, 9))
    write_checkpoint(tmp_path, learner)
    folder = tmp_path / "specialist"
    saved = read_specialist(folder)
    assert saved.config == learner.config
    assert all(np.array_equal(array, learner.actor_tensors[name]) for name, array in saved.tensors.items())
    value = json.loads((folder / "config.json").read_text())
    assert value["spec_hash"] == learner.spec_hash
    actor = folder / "actor.safetensors"
    actor.write_bytes(actor.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match=r"actor\.safetensors: SHA-256 differs"):
        read_specialist(folder)


@pytest.mark.parametrize("image_encoder", ["none", "random_conv"])
def test_published_weights_hold_only_the_actor(image_encoder: str) -> None:
    config = resolve("connector", {"features": {"image_encoder": image_encoder}})
    weights = Learner(config, insertion(), 0).first_weights()
    assert len(weights.data) < 1_000_000  # with a frozen backbone: 26 MB


@pytest.mark.timeout(300)
def test_policy_learns_to_leave_the_stuck_state() -> None:
    """Learn insertion in two dimensions: pressing beside the hole sticks by friction; only lifting and moving helps."""
    sections = {"network": {"hidden": [64, 64]}, "agent": {"batch_size": 64}, "features": {"image_encoder": "none"}}
    config = resolve("connector", sections)
    learner = Learner(config, insertion(), 0)
    policy = ToyPolicy(learner)
    for k in range(8):
        learner.add_demonstration(toy_episode(f"d{k}", k, 0, toy_demonstrator)[0])
    before = sum(toy_episode("", 1000 + k, 0, policy.mode)[1] for k in range(10))
    count = 0
    for k in range(200):
        steps, _ = toy_episode(f"o{k}", 100 + k, count, policy.sample)
        count += len(steps) - 1
        for step in steps:
            learner.consume(step)
        if count > 1200:
            break
    after = sum(toy_episode("", 1000 + k, 0, policy.mode)[1] for k in range(10))
    assert before <= 3
    assert after >= 9


class ToyPolicy:
    """Acts with the newest actor of a learner, copied at each update."""

    def __init__(self, learner: Learner) -> None:
        from rldg_rl.features import policy_inputs

        self._learner = learner
        self._features = policy_inputs(learner.task, learner.config.features)
        self._rng = np.random.default_rng(0)
        self._tensors, self._updates = learner.actor_tensors, learner.counters.updates

    def _act(self, offset: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        from rl_samples import observation

        from rldg_rl.inference import choose_action

        learner = self._learner
        if self._updates != learner.counters.updates:
            self._tensors, self._updates = learner.actor_tensors, learner.counters.updates
        return choose_action(self._tensors, self._features(observation(offset)), learner.config.network, rng)

    def mode(self, offset: np.ndarray) -> np.ndarray:
        """Return the deterministic action."""
        return self._act(offset, None)

    def sample(self, offset: np.ndarray) -> np.ndarray:
        """Return an exploring action."""
        return self._act(offset, self._rng)


def toy_demonstrator(offset: np.ndarray) -> np.ndarray:
    """Lift when beside the hole, then move over it, then press."""
    action = np.zeros(6, np.float32)
    beside = abs(offset[0]) > 0.003
    action[0] = np.clip(-offset[0] / 0.015, -1, 1)
    action[2] = (0.3 if offset[2] <= 0.0 else 0.0) if beside else -0.5
    return action


def toy_step(offset: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Simulate one step: x moves freely above z = 0, sticks at z = 0, and is in the hole below (|x| < 3 mm)."""
    after = offset.copy()
    pressed = offset[2] <= 0.0 and action[2] < 0.0
    if not pressed:
        after[0] = np.clip(offset[0] + 0.015 * action[0], -0.03, 0.03)
    after[2] = min(0.02, offset[2] + 0.01 * action[2])
    if abs(after[0]) > 0.003:
        after[2] = max(0.0, after[2])
    return after


def toy_episode(name: str, seed: int, step_count: int, act: object) -> tuple[list[Step], bool]:
    """Run up to 40 steps from a random x at z = 1 cm; success is 1 cm below the surface."""
    rng = np.random.default_rng(seed)
    offsets = [np.array([rng.uniform(-0.03, 0.03), 0, 0.01, 0, 0, 0])]
    actions = []
    while offsets[-1][2] > -0.01 and len(actions) < 40:
        actions.append(np.asarray(act(offsets[-1]), np.float32))  # type: ignore[operator]
        offsets.append(toy_step(offsets[-1], actions[-1]))
    success = bool(offsets[-1][2] <= -0.01)
    steps = episode(name, offsets, step_count, success=success, truncated=not success)
    for k, action in enumerate(actions):
        steps[k] = replace(steps[k], action=replace(steps[k].action, requested=action, executed=action))
    return steps, success
