"""RLPD (Ball et al. 2023, algorithm 1) on any Gymnasium environment, with this suite's agent and replay.

    python examples/train_on_gymnasium.py connector                # sparse reward, 20 demonstrations
    python examples/train_on_gymnasium.py Pendulum-v1 --steps 8000  # no demonstrations
    python examples/train_on_gymnasium.py MODULE:ID                # any other; MODULE registers it

The observation is a Box of numbers, or a Dict with `state` and, where there is one, an image (H, W, 3) uint8; the
action is a Box with finite bounds. Every number is printed as one line of JSON; the same seed gives the same lines.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rldg_rl.runtime import use_one_core

use_one_core()

import gymnasium  # noqa: E402
import numpy as np  # noqa: E402
from gymnasium import spaces  # noqa: E402

from rldg_core.image_codec import resize  # noqa: E402
from rldg_core.task import load_task  # noqa: E402
from rldg_rl import agent  # noqa: E402
from rldg_rl.config import RLConfig, resolve  # noqa: E402
from rldg_rl.features import IMAGE_SIZE, proprioception, proprioception_dim  # noqa: E402
from rldg_rl.inference import choose_action  # noqa: E402
from rldg_rl.inputs import Inputs, InputSpec  # noqa: E402
from rldg_rl.replay import Replay, Row  # noqa: E402
from rldg_rl.weights import Tensors, flatten  # noqa: E402
from rldg_sim.env import CellEnv  # noqa: E402
from rldg_sim.episodes import ask  # noqa: E402
from rldg_sim.operators.config import OperatorConfig  # noqa: E402
from rldg_sim.scene import make_operator  # noqa: E402

INSERTION = Path(__file__).parents[1] / "src/rldg_bringup/config/tasks/insertion.yaml"
DENSE = {"agent": {"n_step": 1, "discount": 0.98, "initial_temperature": 0.1}, "network": {"image_bottleneck": 64}}
"""What differs where every step is rewarded."""
Act = Callable[[Any], Any]
"""Observation -> action in [-1, 1]."""


# --- 1. The environment: actions in [-1, 1], and what the networks see of an observation ---------------


class Proprioception(gymnasium.ObservationWrapper[Any, Any, Any]):
    """The cell's state as the suite's specialists see it: offsets from the target at several scales."""

    def __init__(self, env: CellEnv, config: RLConfig) -> None:
        super().__init__(env)
        self._cell, self._config = env, config
        size = proprioception_dim(env.task.action.dim, config.features)
        self.observation_space = spaces.Dict({"state": spaces.Box(-3.0, 3.0, (size,), np.float32)})

    def observation(self, observation: Any) -> Any:
        return {"state": proprioception(self._cell.observation, self._cell.task, self._config.features)}


def make_env(name: str, config: RLConfig) -> gymnasium.Env[Any, Any]:
    if name == "connector":
        return Proprioception(CellEnv(load_task(INSERTION, "vga"), images=False), config)
    env: gymnasium.Env[Any, Any] = gymnasium.make(name)
    if not isinstance(env.action_space, spaces.Box) or not np.all(np.isfinite(env.action_space.high)):
        raise SystemExit(f"{name}: the action space is {env.action_space}, expected a Box with finite bounds")
    return gymnasium.wrappers.RescaleAction(env, np.float32(-1.0), np.float32(1.0))


@dataclass(frozen=True)
class Sight:
    """What the networks see of an observation space: `state`, divided by its bounds if it has any, and an image."""

    scale: np.ndarray[Any, Any]
    image: str | None

    @classmethod
    def of(cls, space: spaces.Space[Any]) -> Sight:
        parts = space.spaces if isinstance(space, spaces.Dict) else {"state": space}
        if not isinstance(state := parts.get("state"), spaces.Box) or len(state.shape) != 1:
            raise SystemExit(f"the observation space is {space}, expected a Box (n,), or a Dict with one as `state`")
        bounded = np.isfinite(state.high) & (np.abs(state.high) < 1e6)
        images = [name for name, part in parts.items() if part.dtype == np.uint8 and len(part.shape or ()) == 3]
        return cls(np.where(bounded, np.abs(state.high), 1.0).astype(np.float32), images[0] if images else None)

    @property
    def spec(self) -> InputSpec:
        return InputSpec(len(self.scale), (IMAGE_SIZE, IMAGE_SIZE, 3) if self.image else None, "uint8", 1)

    def __call__(self, observation: Any) -> Inputs:
        state = observation["state"] if isinstance(observation, dict) else observation
        image = resize(observation[self.image], IMAGE_SIZE) if self.image else None
        return Inputs((np.asarray(state) / self.scale).astype(np.float32), image)


# --- 2. The prior data: demonstrations of the connector by the scripted operator -----------------------


def demonstrator(env: CellEnv, seed: int) -> Act:
    operator = make_operator(OperatorConfig(), env.task)
    operator.reset(seed)
    return lambda _observation: ask(operator, env.frame)[0]


def episode(env: gymnasium.Env[Any, Any], sight: Sight, act: Act, seed: int, name: str) -> tuple[list[Row], float]:
    """Return one episode as rows of replay, and the sum of its rewards."""
    observation, _ = env.reset(seed=seed)
    rows: list[Row] = []
    ends = truncated = False
    while not (ends or truncated):
        action = np.asarray(act(observation), np.float32)
        inputs = sight(observation)
        observation, reward, ends, truncated, _ = env.step(action)
        rows.append(Row(name, len(rows), inputs, action, float(reward), ends))
    rows.append(Row(name, len(rows), sight(observation), None, 0.0, ends))
    return rows, sum(row.reward for row in rows)


# --- 3. Training: act, store, and update on batches that are half prior data and half online -----------


def best_action(tensors: Tensors, sight: Sight, config: RLConfig, observation: Any) -> Any:
    return choose_action(tensors, sight(observation), config.network, None)


def train(
    name: str, steps: int, seed: int, demonstrations: int, every: int = 2000, report: Callable[[str], Any] = print
) -> dict[str, Any]:
    # An ensemble of critics with LayerNorm: the design choices of the paper that matter most.
    config = resolve("connector", {} if name == "connector" else DENSE)
    c, utd = config.agent, 2
    env, examined = make_env(name, config), make_env(name, config)
    sight = Sight.of(env.observation_space)
    action_dim = int(np.prod(env.action_space.shape or ()))
    replay = Replay(sight.spec, action_dim, online_capacity=2 * steps, demo_capacity=10_000)
    attempts = kept = 0
    while isinstance(cell := env.unwrapped, CellEnv) and kept < demonstrations:
        rows, total = episode(env, sight, demonstrator(cell, attempts), attempts, f"demonstration/{attempts}")
        attempts += 1
        if total > 0:
            kept += 1
            for row in rows:
                replay.add(row, online=False, demonstration=True)

    state = agent.init(config, sight.spec, action_dim, seed, gripper=False)
    update_many = agent.make_update_many(config)
    rng, noise = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    tensors: Tensors = flatten(agent.policy_params(state))
    result: dict[str, Any] = {"env": name, "seed": seed, "curve": []}
    period, started, index, episodes = 20, 200, 0, 0
    metrics: Mapping[str, Any] = {}
    began = time.perf_counter()
    observation, _ = env.reset(seed=seed)
    for step in range(1, steps + 1):
        inputs = sight(observation)
        action = choose_action(tensors, inputs, config.network, noise)
        if step <= started and not kept:
            action = noise.uniform(-1, 1, action_dim).astype(np.float32)
        observation, reward, ends, truncated, _ = env.step(action)
        key = f"online/{episodes}"
        replay.add(Row(key, index, inputs, action, float(reward), ends), online=True, demonstration=False)
        index += 1
        if ends or truncated:
            replay.add(Row(key, index, sight(observation), None, 0.0, ends), online=True, demonstration=False)
            observation, _ = env.reset()
            index, episodes = 0, episodes + 1
        if step >= started and step % period == 0:
            batch = replay.sample_mixed(rng, utd * period, c.batch_size, c.n_step, c.discount)
            state, metrics = update_many(state, batch)
            tensors = flatten(agent.policy_params(state))
        if step % every == 0 or step == steps:
            mode = partial(best_action, tensors, sight, config)
            returns = [episode(examined, sight, mode, 1000 + k, "")[1] for k in range(10)]
            wall_s = round(time.perf_counter() - began, 1)
            line = {"step": step, "wall_s": wall_s, "mean_return": round(float(np.mean(returns)), 3)}
            line |= {key: round(float(value), 4) for key, value in metrics.items()}
            result["curve"].append(line)
            report(json.dumps(line))
    env.close()
    examined.close()
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", help="connector, an id of Gymnasium, or MODULE:ID")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--demonstrations", type=int, default=20, help="of the connector")
    arguments = parser.parse_args()
    train(arguments.env, arguments.steps, arguments.seed, arguments.demonstrations)
