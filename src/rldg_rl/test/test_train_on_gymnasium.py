"""The example trains on environments of other libraries: a trivial one is learned, also with an image; refusals."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces

EXAMPLE = Path(__file__).parents[3] / "examples" / "train_on_gymnasium.py"


class Match(gymnasium.Env[Any, Any]):
    """Ten steps; each reward is minus the distance of the action from the one that the observation asks for."""

    def __init__(self, image: bool = False) -> None:
        self._image = image
        state = spaces.Box(-2.0, 2.0, (3,), np.float32)
        picture = {"camera": spaces.Box(0, 255, (32, 32, 3), np.uint8)} if image else {}
        self.observation_space = spaces.Dict({"state": state, **picture}) if image else state
        self.action_space = spaces.Box(np.float32([-2, 0]), np.float32([2, 4]))

    def _observe(self) -> Any:
        self._wanted = self.np_random.uniform(-2, 2, 3).astype(np.float32)
        if not self._image:
            return self._wanted
        return {"state": self._wanted, "camera": np.full((32, 32, 3), 100, np.uint8)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        missed = np.abs(action - np.add(self._wanted[:2], [0, 2])).mean()
        self._steps += 1
        return self._observe(), -float(missed), False, self._steps == 10, {}


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("train_on_gymnasium", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look the module up
    spec.loader.exec_module(module)
    gymnasium.register("test/Match-v0", entry_point=Match)
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)  # thousands of updates are worth compiling well
    yield module
    jax.config.update("jax_disable_most_optimizations", before)
    del sys.modules[spec.name]
    del gymnasium.registry["test/Match-v0"]


def test_example_is_short(example: ModuleType) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 200


def test_example_learns_a_trivial_task_and_repeats(example: ModuleType) -> None:
    lines: list[str] = []
    result = example.train("test/Match-v0", steps=1600, seed=0, demonstrations=0, every=400, report=lines.append)
    returns = [point["mean_return"] for point in result["curve"]]
    # Random actions reach 13 of 20; actions always in the middle reach 10.
    assert returns[-1] > -4, returns
    assert len(lines) == 4
    again = example.train("test/Match-v0", steps=400, seed=0, demonstrations=0, every=400, report=lines.append)
    point, first = again["curve"][0], result["curve"][0]
    assert {k: v for k, v in point.items() if k != "wall_s"} == {k: v for k, v in first.items() if k != "wall_s"}


def test_image_is_used(example: ModuleType) -> None:
    sight = example.Sight.of(Match(image=True).observation_space)
    assert sight.image == "camera" and sight.spec.image_shape == (128, 128, 3)
    env = Match(image=True)
    rows, total = example.episode(env, sight, lambda seen: seen["state"][:2], 1, "one")
    assert rows[0].inputs.image.shape == (128, 128, 3) and np.abs(rows[0].inputs.state).max() <= 1
    assert [row.index for row in rows] == list(range(11)) and rows[-1].action is None and total < 0

    config = example.resolve("connector", {"agent": {"batch_size": 4}, "network": {"critics": 2, "hidden": [16]}})
    replay = example.Replay(sight.spec, 2, online_capacity=20, demo_capacity=2)
    for row in rows:
        replay.add(row, online=True, demonstration=False)
    state = example.agent.init(config, sight.spec, 2, 0, gripper=False)
    batch = replay.sample_mixed(np.random.default_rng(0), 1, 4, 1, 0.9)
    state, metrics = example.agent.make_update_many(config)(state, batch)
    assert np.isfinite(float(metrics["critic_loss"]))
    tensors = example.flatten(example.agent.policy_params(state))
    assert example.best_action(tensors, sight, config, env.reset(seed=2)[0]).shape == (2,)


def test_unsuitable_environment_is_refused(example: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"CartPole-v1: the action space is Discrete\(2\), expected a Box"):
        example.train("CartPole-v1", 10, 0, 0)
    with pytest.raises(SystemExit, match="expected a Box"):
        example.Sight.of(spaces.Dict({"position": spaces.Box(-1, 1, (2,))}))
