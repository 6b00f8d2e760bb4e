"""A very small Octo and its training data; as a program it prints the losses on the devices of jax."""

from __future__ import annotations

import json
from pathlib import Path

import generalist_samples
import numpy as np

from rldg_data.rlds.layout import shard_name
from rldg_policy.octo.config import OctoTrainConfig, T5Config
from rldg_policy.octo.random import OctoSize

SIZE = OctoSize(
    image_size=32,
    width=32,
    layers=1,
    heads=2,
    mlp=32,
    stem=(32, 32, 32, 32),
    stem_features=16,
    t5=T5Config(vocab_size=64, d_model=16, d_ff=16, d_kv=8, num_heads=2, num_layers=1),
    wrist=True,
)
CONFIG = OctoTrainConfig(
    steps=20,
    batch=4,
    window=2,
    warmup_steps=2,
    learning_rate=3e-3,
    save_every=8,
    validation_batches=2,
    shuffle_buffer=20,
    workers=1,
)
SEED = 3


def dataset_with_validation(root: Path) -> Path:
    """Write splits train and val of five episodes with eight actions each."""
    held_out = [generalist_samples.make_episode(seed) for seed in range(100, 105)]
    other = generalist_samples.write_dataset(root / "other", held_out, shards=1)
    folder = generalist_samples.write_dataset(
        root, [generalist_samples.make_episode(seed) for seed in range(5)], shards=1
    )
    (other / shard_name("made_up", "train", 0, 1)).rename(folder / shard_name("made_up", "val", 0, 1))
    info = json.loads((folder / "dataset_info.json").read_text())
    (split,) = json.loads((other / "dataset_info.json").read_text())["splits"]
    info["splits"].append({**split, "name": "val"})
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def losses_of_steps(count: int = 6) -> list[float]:
    """Return the losses of a model with one kernel that predicts noise drawn for each sample, over all devices
    of jax."""
    import jax
    import jax.numpy as jnp

    from rldg_policy.octo.steps import Steps, optimiser

    def loss(params, batch, key, train):
        noise = jax.random.normal(key, batch["x"].shape)
        error = jnp.square((batch["x"] + noise) @ params["a"]["kernel"] - noise) * batch["mask"][:, None]
        return error.mean() / batch["mask"].mean()

    config = OctoTrainConfig(steps=count, warmup_steps=1, batch=CONFIG.batch, learning_rate=0.1)
    rng = np.random.default_rng(0)
    learning = {"a.kernel": rng.normal(size=(7, 7)).astype(np.float32)}
    steps = Steps(loss, optimiser(learning, config), config.batch, SEED)
    state = steps.start(learning)
    losses = []
    for _ in range(count):
        batch = {
            "x": rng.normal(size=(config.batch, 7)).astype(np.float32),
            "mask": np.array([True, False, True, True]),
        }
        state, value = steps.train(state, steps.replicate({}), batch)
        losses.append(float(value))
    return losses


def random_batch(rng: np.random.Generator) -> dict:
    """Return a batch with the names, shapes and types of the training."""
    b, w = CONFIG.batch, CONFIG.window
    seen = rng.random((b, w)) < 0.8
    return {
        "observation": {
            "image_primary": rng.integers(0, 256, (b, w, 32, 32, 3), dtype=np.uint8),
            "timestep_pad_mask": seen,
            "pad_mask_dict": {"image_primary": np.ones_like(seen)},
        },
        "task": {
            "language_instruction": rng.normal(size=(b, 16, 16)).astype(np.float32),
            "pad_mask_dict": {"language_instruction": np.ones(b, bool)},
        },
        "action": rng.normal(size=(b, w, 4, 7)).astype(np.float32),
        "action_pad_mask": np.repeat(rng.random((b, w, 4, 1)) < 0.9, 7, axis=3),
    }


if __name__ == "__main__":
    import jax

    print(json.dumps({"devices": jax.local_device_count(), "losses": losses_of_steps()}))
