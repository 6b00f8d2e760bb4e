"""CPU seconds of one RLPD update at batch 256 with HIL-SERL's networks, and the policy's time per image, on one core.

Goals: state only <= 0.03, one 128x128 image with cached frozen features <= 0.3, small CNN trained end to end <= 1.8,
inference with image (JPEG decoding, encoder, head, actor) p50 <= 3 ms. An update is the mean of one with and one
without the actor (2:1). `*_over_*` are ratios to figures of peers, quoted (measured on another machine) and so
labelled; lower bounds are measured in the same run. CPU time, so that a busy machine does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rldg_rl.runtime import use_one_core

if __name__ == "__main__":
    use_one_core()

import jax
import jax.numpy as jnp
import numpy as np
from _report import report

from rldg_core.image_codec import encode_jpeg
from rldg_core.seeding import derive_seed
from rldg_core.task import find_task
from rldg_core.types import Observation
from rldg_rl import agent
from rldg_rl.config import RLConfig, resolve
from rldg_rl.encoders import resnet10, small_cnn
from rldg_rl.features import input_spec, policy_inputs
from rldg_rl.inference import choose_action
from rldg_rl.inputs import Inputs, InputSpec
from rldg_rl.networks import mlp, mlp_init
from rldg_rl.weights import Tensors, flatten, pack
from rldg_sim.cell import Cell

TASKS = Path(__file__).parents[1] / "src" / "rldg_bringup" / "config" / "tasks"
REPEATS = 5
INFERENCES = 300
PEERS = {
    "cpu_s_state": {"lerobot": 0.15},
    "cpu_s_image_cached": {"lerobot": 5.7, "hil_serl": 7.7},
    "cpu_s_cnn": {"lerobot": 3.6},
    "inference_p50_ms": {"lerobot": 27.0, "hil_serl": 9.0},
}
"""Time of LeRobot and HIL-SERL for the same work on one CPU core: the smallest measured values."""


def cpu_s(run: Callable[[], Any]) -> float:
    """Return the median CPU seconds of a compiled call."""
    jax.block_until_ready(run())
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        jax.block_until_ready(run())
        times.append(time.process_time() - start)
    return float(np.median(times))


def update_cpu_s(config: RLConfig, spec: InputSpec, action_dim: int, updates: int) -> float:
    """Return the CPU seconds of one update on random data with `updates` per call."""
    rng = np.random.default_rng(0)
    shape = updates, config.agent.batch_size

    def inputs() -> Inputs:
        state = rng.normal(size=(*shape, spec.state_dim)).astype(np.float32)
        if spec.image_shape is None:
            return Inputs(state, None)
        size = (*shape, *spec.image_shape)
        return Inputs(state, rng.integers(0, 256, size, np.uint8) if spec.pixels else rng.random(size).astype("f2"))

    actions = rng.uniform(-1, 1, (*shape, action_dim)).astype(np.float32)
    returns = rng.random(shape).astype(np.float32)
    batch = agent.Batch(inputs(), actions, returns, np.full_like(returns, 0.97), inputs(), 0.0 * returns)
    many, state = agent.make_update_many(config), agent.init(config, spec, action_dim, 0)

    def run() -> Any:
        nonlocal state
        state, metrics = many(state, batch)
        return metrics

    return cpu_s(run) / updates


def mlp_floor_cpu_s(config: RLConfig, inputs: int) -> float:
    """Forward and backward pass of as many plain MLPs as there are critics: a lower bound of an update."""
    params = jax.vmap(lambda key: mlp_init(key, inputs, config.network.hidden, 1))(
        jax.random.split(jax.random.key(0), config.network.critics)
    )
    x = jnp.ones((config.agent.batch_size, inputs))
    loss = jax.jit(jax.grad(lambda p: (jax.vmap(lambda one: mlp(one, x, "tanh"))(p) ** 2).mean()))
    return cpu_s(lambda: loss(params))


def cnn_floor_cpu_s(batch_size: int) -> float:
    """One forward and backward pass of the small CNN alone."""
    params = small_cnn.init(jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (batch_size, 128, 128, 3), np.uint8)
    loss = jax.jit(jax.grad(lambda p: (small_cnn.forward(p, images) ** 2).mean()))
    return cpu_s(lambda: loss(params))


def backbone_cpu_s(images: int) -> float:
    """Time the ResNet-10 backbone with random weights on a batch: the cost that cached features save twice."""
    params = {name: jnp.full(shape, 0.01) for name, shape in resnet10.shapes().items()}
    pixels = np.random.default_rng(0).integers(0, 256, (images, 128, 128, 3), np.uint8)
    forward = jax.jit(resnet10.forward)
    return cpu_s(lambda: forward(params, pixels))


def observation() -> Observation:
    """Return a rendered observation of the connector task, as the observer sends it."""
    task = find_task("insertion", [TASKS])
    frame = Cell(task).reset(derive_seed(0, "rlpd_update"))
    assert frame.image is not None
    jpeg = encode_jpeg(frame.image, task.cameras["wrist"].jpeg_quality)
    return Observation(
        frame.stamp_ns,
        {"wrist": jpeg},
        frame.pose_base_tcp,
        frame.twist_base_tcp,
        frame.wrench_tcp,
        frame.joint_positions,
        frame.gripper_width_m,
    )


def inference_p50_ms(config: RLConfig, seen: Observation) -> float:
    """Return the median CPU time from an Observation to its action."""
    task = find_task("insertion", [TASKS])
    inputs_of, spec = policy_inputs(task, config.features), input_spec(task, config.features)
    tensors: Tensors = flatten(agent.policy_params(agent.init(config, spec, task.action.dim, 0)))
    rng = np.random.default_rng(0)
    times = []
    for index in range(INFERENCES):
        start = time.process_time()
        choose_action(tensors, inputs_of(replace(seen, stamp_ns=index)), config.network, rng)
        times.append(time.process_time() - start)
    return 1e3 * float(np.median(times[INFERENCES // 10 :]))


def main() -> None:
    config, rlpd = resolve("hil_serl"), resolve("rlpd")
    cnn = resolve("hil_serl", {"features": {"image_encoder": "small_cnn"}})
    state = InputSpec(18, None, "float16", 1)
    vector = replace(state, image_shape=(128,), crops=4)
    resnet_map = replace(state, image_shape=resnet10.FEATURE_SHAPE, crops=4)
    seen = observation()
    main_values = {
        "cpu_s_state": update_cpu_s(config, state, 6, 20),
        "cpu_s_image_cached": update_cpu_s(config, resnet_map, 6, 4),
        "cpu_s_cnn": update_cpu_s(config, replace(state, image_shape=(128, 128, 3), image_dtype="uint8"), 6, 2),
        "inference_p50_ms": inference_p50_ms(config, seen),
    }
    ratios = {
        f"quoted_{peer}_over_{name}": figure / main_values[name]
        for name, peers in PEERS.items()
        for peer, figure in peers.items()
    }
    map_weights = flatten(agent.policy_params(agent.init(config, resnet_map, 7, 0)))
    others = {
        "cpu_s_image_cached_vector": update_cpu_s(config, vector, 6, 20),
        "cpu_s_state_gripper": update_cpu_s(config, replace(state, state_dim=19), 7, 20),
        "cpu_s_state_rlpd": update_cpu_s(rlpd, state, 6, 20),
        "inference_p50_ms_cnn": inference_p50_ms(cnn, seen),
        "inference_p50_ms_state": inference_p50_ms(resolve("hil_serl", {"features": {"image_encoder": "none"}}), seen),
        "floor_cpu_s_state": mlp_floor_cpu_s(config, 64 + 6),
        "floor_cpu_s_image_cached": mlp_floor_cpu_s(config, 256 + 64 + 6),
        "floor_cpu_s_cnn": cnn_floor_cpu_s(config.agent.batch_size),
        "backbone_cpu_s_128_images": backbone_cpu_s(128),
        "weights_message_mb_resnet10_gripper": len(pack(map_weights)) / 1e6,
    }
    rounded = {name: float(f"{value:.3g}") for name, value in (main_values | ratios | others).items()}
    report("rlpd_update", {**rounded, "batch_size": config.agent.batch_size})


if __name__ == "__main__":
    main()
