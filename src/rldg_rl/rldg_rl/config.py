"""Configuration of a specialist: features, networks, RLPD and the learner. Every number has its source.

Sources: [H] HIL-SERL's defaults (hil-serl 5d02aed), [R] RLPD's defaults (rlpd c90fd4b),
[M] measured here with benchmarks/specialists.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rldg_core.configuration import MAX_CONFIGURATION_BYTES, FrozenModel, Positive, read_yaml, validated
from rldg_core.errors import UserError
from rldg_core.task import Task

ImageEncoder = Literal["none", "random_conv", "embedded", "resnet10", "small_cnn"]
FROZEN_ENCODERS = ("random_conv", "embedded", "resnet10")

Scales = Annotated[tuple[Positive, ...], Field(min_length=1)]

LAYER_NORM_EPSILON = 1e-6
"""flax's default, for actor and critics alike."""


class FeatureConfig(FrozenModel):
    """Inputs of the networks (`rldg_rl.features`).

    The first scale of a quantity divides it, so that its usual range is about [-1, 1] (HIL-SERL uses SI units). Each
    finer scale adds tanh(value / scale), so that fractions of a millimetre change the inputs as much as centimetres.
    """

    proprioception: Literal["full", "none"] = "full"
    """none: images only (an ablation)."""
    position_scales_m: Scales = (0.05,)
    """Reset range and box of the connector task are 0.05 m."""
    rotation_scales_rad: Scales = (0.1,)
    """Box of the connector task is 0.1 rad."""
    linear_velocity_scale: Positive = 0.15
    """[m/s]: the largest commanded step, 0.015 m in 0.1 s."""
    angular_velocity_scale: Positive = 1.0
    """[rad/s]: the largest commanded step, 0.1 rad in 0.1 s."""
    force_scales_n: Scales = (15.0,)
    """Largest force of the compliant mode: 2000 N/m x 8 mm = 16 N; contact is felt from about 1 N."""
    torque_scales_nm: Scales = (2.0,)
    """Largest torque of the compliant mode: 150 N m/rad x 0.02 rad = 3 N m."""
    image_encoder: ImageEncoder = "embedded"
    """Frozen, features cached: embedded (weights in the package), random_conv (weights from a fixed seed), resnet10
    ([H], its weights are the user's: encoder_weights). Trained with the critics: small_cnn. Or none."""
    encoder_weights: Path | None = None
    """Safetensors or npz file of resnet10 (`rldg_rl.encoders.convert` makes it)."""
    crops: Annotated[int, Field(ge=1, le=16)] = 4
    """Crops encoded of each frame, in place of [H]'s random crop per sample (`rldg_rl.encoders.frozen`)."""
    camera: str = "wrist"
    """Camera of the image encoder."""

    @property
    def frozen_encoder(self) -> bool:
        """Whether features are computed once on arrival."""
        return self.image_encoder in FROZEN_ENCODERS

    @model_validator(mode="after")
    def _weights(self) -> FeatureConfig:
        if (self.image_encoder == "resnet10") != (self.encoder_weights is not None):
            raise ValueError("encoder_weights names the file of image_encoder resnet10, and of no other")
        if self.proprioception == "none" and self.image_encoder == "none":
            raise ValueError("proprioception none and image_encoder none leave no input")
        return self


class NetworkConfig(FrozenModel):
    """Encoder head (trained by the critics), actor and critics: MLPs with LayerNorm.

    Image: feature map -> spatial learned embeddings (feature vectors go without) -> dropout -> dense -> LayerNorm ->
    tanh. State: dense -> LayerNorm -> tanh. Both are concatenated; a width of 0 passes its input on unchanged.
    """

    image_bottleneck: Annotated[int, Field(ge=0, le=4096)] = 256
    """[H]"""
    state_bottleneck: Annotated[int, Field(ge=0, le=4096)] = 64
    """[H]"""
    spatial_embeddings: Annotated[int, Field(ge=1, le=64)] = 8
    """Learned weightings of a feature map, per channel [H]"""
    image_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of the actor's embedding; critics have no dropout, as in [H]"""

    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=65_536)], ...], Field(min_length=1, max_length=16)] = (
        256,
        256,
    )
    """[H], [R]"""
    activation: Literal["tanh", "relu"] = "tanh"
    """tanh [H], relu [R]"""
    critics: Annotated[int, Field(ge=1, le=20)] = 2
    """2 [H], 10 [R]"""
    std_min: Positive = 1e-5
    """[H]"""
    std_max: Positive = 5.0
    """[H]"""


class AgentConfig(FrozenModel):
    """Hyper-parameters of the RLPD update."""

    critic_subset: Annotated[int, Field(ge=1, le=20)] = 2
    """Critics whose minimum is the target: 2 [H], [R]"""
    discount: Annotated[float, Field(ge=0, lt=1)] = 0.97
    """[H] (0.98 for the USB task)"""
    n_step: Annotated[int, Field(ge=1, le=20)] = 1
    """Rewards summed before the bootstrap, never across an episode: 1 [H], [R]"""
    tau: Annotated[float, Field(gt=0, le=1)] = 0.005
    """[H], [R]"""
    learning_rate: Positive = 3e-4
    """Adam of actor and critics [H], [R]"""
    initial_temperature: Positive = 1e-2
    """[H]"""
    temperature_learning_rate: Positive = 3e-4
    """Adam of the temperature [H], [R]"""
    target_entropy_per_dim: Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)] = -0.5
    """Target entropy = this x action dimension [H]"""
    batch_size: Annotated[int, Field(ge=2, le=1_000_000_000)] = 256
    """Half demonstrations, half online [H], [R]"""
    actor_period: Annotated[int, Field(ge=1, le=1_000_000_000)] = 2
    """Updates of the critics per update of the actor: 2 [H], 20 [R]"""
    grasp_penalty: Annotated[float, Field(ge=-1e9, le=0, allow_inf_nan=False)] = -0.02
    """Added to the gripper head's reward when the command would change the state of the gripper [H]"""
    gripper_epsilon: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Probability of a random gripper command during exploration. 0 in [H], where other commands than the argmax come
    from interventions only"""

    @model_validator(mode="after")
    def _even(self) -> AgentConfig:
        if self.batch_size % 2:
            raise ValueError("batch_size must be even: half demonstrations, half online")
        return self


class LearnerConfig(FrozenModel):
    """Hyper-parameters of the learner: number of updates, versions of weights, replay."""

    updates_per_step: Annotated[float, Field(gt=0, le=100)] = 2.0
    """Update-to-data ratio, enforced: updates <= ratio x online steps. 2 [H], 20 [R]"""
    start_steps: Annotated[int, Field(ge=1, le=1_000_000_000)] = 100
    """Online transitions before the first update [H]"""
    demo_updates: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Updates on demonstrations before the first online step, not counted in the ratio. 0 [H], [R]"""
    updates_per_call: Annotated[int, Field(ge=1, le=1000)] = 20
    """Updates per jitted call, whose batches are drawn together: the more, the fewer dispatches [M]"""
    period_steps: Annotated[int, Field(ge=1, le=1_000_000_000)] = 50
    """Online steps between versions of the weights: 50 learner steps [H]"""
    checkpoint_every_steps: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1000
    """Online steps between checkpoints; 2000-5000 learner steps [H]"""
    replay_capacity: Annotated[int, Field(ge=2, le=1_000_000_000)] = 200_000
    """Rows [H]"""
    demo_capacity: Annotated[int, Field(ge=2, le=1_000_000_000)] = 200_000
    """Rows [H]"""


class RLConfig(FrozenModel):
    """Configuration of a specialist's training; only task and seed are given elsewhere."""

    features: FeatureConfig = FeatureConfig()
    network: NetworkConfig = NetworkConfig()
    agent: AgentConfig = AgentConfig()
    learner: LearnerConfig = LearnerConfig()

    @model_validator(mode="after")
    def _subset(self) -> RLConfig:
        if self.agent.critic_subset > self.network.critics:
            raise ValueError(
                f"agent.critic_subset {self.agent.critic_subset} exceeds network.critics {self.network.critics}"
            )
        return self

    def spec_hash(self, action_dim: int) -> str:
        """Return the SHA-256 of what weights must fit: features, frozen encoder, network sizes and action dimension.

        Raises UserError when the frozen encoder cannot be loaded.
        """
        value = {
            # The weights of the encoder count, not their path.
            "features": self.features.model_dump(mode="json", exclude={"encoder_weights"}),
            "encoder_sha256": encoder_sha256(self.features),
            "network": self.network.model_dump(mode="json"),
            "action_dim": action_dim,
        }
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def encoder_sha256(config: FeatureConfig) -> str:
    """Return the SHA-256 of the frozen encoder's weights, or "". Raises UserError when it cannot be loaded."""
    if config.image_encoder not in FROZEN_ENCODERS:
        return ""
    from rldg_rl.encoders.loading import load_encoder

    return load_encoder(config.image_encoder, config.encoder_weights).weights_sha256


_Overrides = dict[str, dict[str, Any]]

PRESETS: dict[str, _Overrides] = {
    "hil_serl": {},
    "rlpd": {
        "network": {"activation": "relu", "critics": 10},
        "agent": {"actor_period": 20, "discount": 0.99, "initial_temperature": 1.0},
        "learner": {"updates_per_step": 20.0},
    },
    # Learns to insert a connector within minutes on one core. [M]
    "connector": {
        "features": {
            "crops": 2,
            # Clearances are fractions of a millimetre, contact is felt from about 1 N.
            "position_scales_m": [0.05, 0.005, 0.001],
            "rotation_scales_rad": [0.1, 0.02],
            "force_scales_n": [15.0, 3.0],
            "torque_scales_nm": [2.0, 0.3],
        },
        "network": {
            "hidden": [128, 128],
            "activation": "relu",
            "critics": 4,
            "image_bottleneck": 0,
            "state_bottleneck": 0,
        },
        "agent": {
            "batch_size": 128,
            "actor_period": 1,
            "n_step": 5,
            "learning_rate": 1e-3,
            "initial_temperature": 2e-3,
        },
    },
}
"""Differences from the defaults."""

# Tasks whose goal lies anywhere in a region: where the tcp is in it says little, fine scales of it are noise. [M]
PRESETS["tabletop"] = {
    **PRESETS["connector"],
    "features": {
        "crops": 2,
        "position_scales_m": [0.1, 0.02],
        "rotation_scales_rad": [0.3, 0.05],
        "force_scales_n": [15.0, 3.0],
        "torque_scales_nm": [2.0, 0.3],
    },
    "agent": {**PRESETS["connector"]["agent"], "discount": 0.98},
}


def resolve(preset: str, overrides: Mapping[str, Any] | None = None, where: str = "overrides") -> RLConfig:
    """Return a preset with overrides. Raises UserError `where: key.path: reason`."""
    if preset not in PRESETS:
        raise UserError(f"{where}: unknown preset {preset!r}, expected one of {', '.join(PRESETS)}")
    return parse(_merged(PRESETS[preset], overrides or {}, where), where)


def for_task(task: Task, overrides: Mapping[str, Any] | None = None, where: str = "overrides") -> RLConfig:
    """The configuration that suits the task's scene, with overrides on top; their `preset` replaces the scene's choice.

    Raises UserError `where: key.path: reason`.
    """
    values = dict(overrides or {})
    if "preset" in values:
        return resolve(str(values.pop("preset")), values, where)
    scene = dict(task.scene.specialist)
    preset, kind = str(scene.pop("preset", "hil_serl")), f"scene kind {task.scene.kind}: specialist"
    resolve(preset, scene, kind)  # a mistake of the scene is reported as one of the scene
    return resolve(preset, _merged(scene, values, where), where)


def _merged(base: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> dict[str, Any]:
    merged: dict[str, Any] = {key: dict(value) for key, value in base.items()}
    for section, values in overrides.items():
        if not isinstance(values, dict):
            raise UserError(f"{where}: {section}: expected a mapping")
        merged[section] = {**merged.get(section, {}), **values}
    return merged


def parse(value: Any, where: str) -> RLConfig:
    """Validate a JSON or YAML value. Raises UserError `where: key.path: reason` on the first error."""
    return validated(RLConfig, value, where)


def load(path: Path | None, task: Task) -> RLConfig:
    """Read a YAML (or JSON) file of overrides: keys of RLConfig plus an optional `preset` (default: the scene's).

    Raises UserError naming file and key.
    """
    if path is None:
        return for_task(task)
    value = read_yaml(path, MAX_CONFIGURATION_BYTES)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a mapping with the keys of RLConfig")
    return for_task(task, value, str(path))


def with_learner(config: RLConfig, **changes: Any) -> RLConfig:
    """Return a copy with changed learner values; None and 0 keep the configured value. Raises UserError."""
    value = config.model_dump(mode="json")
    value["learner"] |= {key: change for key, change in changes.items() if change}
    return parse(value, "parameters")
