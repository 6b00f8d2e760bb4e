"""The specialist back-end, features and configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rl_samples import insertion, observation, random_episodes, small

from rldg_core.errors import UserError
from rldg_core.frames import rotation_of
from rldg_core.image_codec import encode_jpeg
from rldg_core.policy import TrainablePolicy
from rldg_core.types import Observation
from rldg_rl import agent
from rldg_rl import config as configuration
from rldg_rl.checkpoint import write_specialist_of
from rldg_rl.config import PRESETS, FeatureConfig, resolve
from rldg_rl.features import input_spec, policy_inputs, proprioception, stored_inputs
from rldg_rl.learner import Learner
from rldg_rl.specialist import SpecialistPolicy
from rldg_rl.step_reader import grasp_penalty
from rldg_rl.weights import flatten, pack


@pytest.fixture(scope="module")
def learner() -> Learner:
    """Return a connector learner; SpecialistPolicy(None) expects its preset."""
    return Learner(resolve("connector"), insertion(), 0)


def seen_at(offset: list[float]) -> Observation:
    """Return an observation with a grey wrist image."""
    image = encode_jpeg(np.full((128, 128, 3), 120, np.uint8), 90)
    return replace(observation(offset), images={"wrist": image})


def test_policy_waits_for_weights_and_follows_them(learner: Learner) -> None:
    policy = SpecialistPolicy(None, insertion(), explore=False)
    assert isinstance(policy, TrainablePolicy)
    assert policy.spec_hash == learner.spec_hash
    assert not policy.ready
    with pytest.raises(UserError, match="no weights yet"):
        policy.act(seen_at([0.0] * 6))
    policy.update_weights(learner.first_weights().data, 5)
    assert policy.ready
    assert policy.spec.version == 5
    action = policy.act(seen_at([0.01] * 6))
    assert action.shape == (1, 6)
    assert action.dtype == np.float32
    with pytest.raises(UserError, match="policy weights version 6"):
        policy.update_weights(b"nonsense", 6)
    assert np.array_equal(policy.act(seen_at([0.01] * 6)), action)


def test_exploration_depends_only_on_the_seed_of_the_episode(learner: Learner) -> None:
    policy = SpecialistPolicy(None, insertion(), explore=True)
    policy.update_weights(learner.first_weights().data, 0)
    seen = seen_at([0.0] * 6)

    def actions(seed: int) -> list[list[float]]:
        policy.reset("", seed)
        return [policy.act(seen)[0].tolist() for _ in range(3)]

    first = actions(1)
    assert actions(2) != first
    assert actions(1) == first
    assert first[0] != first[1]
    assert np.abs(first).max() <= 1.0


def test_folder_survives_a_round_trip_and_has_the_action_dimension(tmp_path: Path) -> None:
    trained = Learner(small(), insertion(), 0)
    for step in random_episodes(2, 9):
        trained.consume(step)
    write_specialist_of(trained, tmp_path / "specialist")
    policy = SpecialistPolicy(tmp_path / "specialist", insertion(), explore=False)
    live = SpecialistPolicy(config_file(tmp_path), insertion(), explore=False)
    live.update_weights(trained.first_weights().data, 1)
    seen = observation([0.01, -0.02, 0.03, 0.0, 0.01, 0.05])
    assert np.array_equal(policy.act(seen), live.act(seen))
    gripper = insertion().model_copy(update={"action": insertion().action.model_copy(update={"gripper": True})})
    with pytest.raises(UserError, match="made for 6 actions, task insertion has 7"):
        SpecialistPolicy(tmp_path / "specialist", gripper, explore=False)
    with pytest.raises(UserError, match=r"nowhere/config\.json: cannot read"):
        SpecialistPolicy(tmp_path / "nowhere", insertion(), explore=False)


def config_file(folder: Path) -> Path:
    """Write a YAML file that resolves to `small()`."""
    path = folder / "overrides.yaml"
    network = "network: {hidden: [16, 16], state_bottleneck: 0}"
    path.write_text(f"preset: hil_serl\nfeatures: {{image_encoder: none}}\n{network}\n")
    return path


def test_features_are_of_order_one_and_fine_near_the_target() -> None:
    config, task = resolve("connector").features, insertion()
    rng = np.random.default_rng(0)
    values = [proprioception(observation(rng.uniform(-1, 1, 6) * 0.05), task, config) for _ in range(50)]
    assert np.abs(values).max() <= 3.0
    assert values[0].shape == (input_spec(task, config).state_dim,)
    centre = proprioception(observation([0.0] * 6), task, config)
    moved = proprioception(observation([2e-4, 0, 0, 0, 0, 0]), task, config)
    assert np.abs(moved - centre).max() > 0.15  # 0.2 mm
    with pytest.raises(ValueError, match="not finite"):
        proprioception(replace(observation([0.0] * 6), wrench_tcp=np.full(6, np.nan)), task, config)


def test_twist_changes_axes_without_a_lever_arm() -> None:
    """At x = 0.6 m a lever arm would turn 1 rad/s into 0.6 m/s."""
    config, task = FeatureConfig(), insertion()
    offset = [0.1, 0.0, 0.0, 0.0, 0.0, 0.0]
    turning = observation(offset, twist=(0, 0, 0, 0, 0, 1.0))
    start = 3 * len(config.position_scales_m) + 3 * len(config.rotation_scales_rad)
    twist = proprioception(turning, task, config)[start : start + 6]
    np.testing.assert_allclose(twist[:3], 0.0, atol=1e-6)
    expected = rotation_of(turning.pose_base_tcp).inv().apply([0, 0, 1.0])
    np.testing.assert_allclose(twist[3:], expected, atol=1e-6)


def seen_with_image(seed: int = 0) -> Observation:
    """Return an observation with a random wrist image."""
    image = np.random.default_rng(seed).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    return replace(observation([0.0] * 6, stamp_ns=5), images={"wrist": encode_jpeg(image)})


def test_cached_features_equal_those_of_the_policy_and_of_few_crops() -> None:
    config = FeatureConfig(image_encoder="random_conv", crops=3)
    spec = input_spec(insertion(), config)
    acting, storing = policy_inputs(insertion(), config), stored_inputs(insertion(), config)
    inputs, stored = acting(seen_with_image()), storing(seen_with_image())
    assert spec.image_shape == inputs.image.shape == (512,)
    assert stored.image.shape == (3, 512)
    assert stored.image.dtype == np.float16 == np.dtype(spec.image_dtype)
    np.testing.assert_allclose(stored.image[0], inputs.image, atol=2e-3)
    assert not np.allclose(stored.image[1], stored.image[0], atol=2e-2)
    assert np.array_equal(stored.image, storing(seen_with_image()).image)
    assert not np.allclose(inputs.image, acting(seen_with_image(1)).image, atol=2e-2)


def test_pixels_are_passed_on_unchanged() -> None:
    config = FeatureConfig(image_encoder="small_cnn")
    spec = input_spec(insertion(), config)
    inputs = stored_inputs(insertion(), config)(seen_with_image())
    assert spec.pixels and spec.crops == 1
    assert inputs.image.shape == spec.image_shape == (128, 128, 3)
    assert inputs.image.dtype == np.uint8


@pytest.mark.parametrize("encoder", ["random_conv", "small_cnn"])
def test_missing_image_or_other_shape_is_refused_by_name(encoder: str) -> None:
    inputs = policy_inputs(insertion(), FeatureConfig(image_encoder=encoder))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no image of camera 'wrist'"):
        inputs(observation([0.0] * 6))
    oblong = encode_jpeg(np.zeros((64, 128, 3), np.uint8))
    with pytest.raises(ValueError, match="image of camera 'wrist' is 128x64, expected a square"):
        inputs(replace(observation([0.0] * 6), images={"wrist": oblong}))
    with pytest.raises(UserError, match="no camera 'side'"):
        policy_inputs(insertion(), FeatureConfig(image_encoder=encoder, camera="side"))  # type: ignore[arg-type]


def test_task_with_a_gripper_has_its_width_and_command(tmp_path: Path) -> None:
    task = insertion().model_copy(update={"action": insertion().action.model_copy(update={"gripper": True})})
    config = configuration.load(config_file(tmp_path), insertion())
    spec = input_spec(task, config.features)
    assert spec.state_dim == input_spec(insertion(), config.features).state_dim + 1
    assert proprioception(observation([0.0] * 6), task, config.features)[-1] == pytest.approx(2 * 0.01 / 0.08 - 1)
    with pytest.raises(ValueError, match="gripper width that is not finite"):
        proprioception(replace(observation([0.0] * 6), gripper_width_m=float("nan")), task, config.features)
    policy = SpecialistPolicy(config_file(tmp_path), task)
    policy.update_weights(pack(flatten(agent.policy_params(agent.init(config, spec, 7, 0)))), 1)
    action = policy.act(observation([0.0] * 6))
    assert action.shape == (1, 7)
    assert action[0, 6] in (-1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("command", "width_m", "expected"),
    [(-1, 0.08, -0.02), (-1, 0.03, 0.0), (1, 0.03, -0.02), (1, 0.08, 0.0), (0, 0.08, 0.0), (0, 0.0, 0.0)],
)
def test_grasp_penalty_applies_where_the_gripper_changes(command: float, width_m: float, expected: float) -> None:
    action = np.array([0.0] * 6 + [command], np.float32)
    assert grasp_penalty(action, width_m, -0.02) == expected
    assert grasp_penalty(action[:6], width_m, -0.02) == 0.0


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_and_the_hash_identifies_matching_weights(preset: str) -> None:
    features = {"image_encoder": "random_conv"}
    config = resolve(preset, {"features": features})
    changed = resolve(preset, {"features": features, "network": {"hidden": [7]}})
    learning = resolve(preset, {"features": features, "agent": {"discount": 0.5}})
    assert config.spec_hash(6) != resolve(preset, {"features": {"image_encoder": "none"}}).spec_hash(6)
    assert config.spec_hash(6) != changed.spec_hash(6)
    assert config.spec_hash(6) != config.spec_hash(7)
    assert config.spec_hash(6) == learning.spec_hash(6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agent: {batch_size: 3}", "agent: batch_size must be even"),
        ("agent: {speed: 3}", r"agent\.speed: Extra inputs"),
        ("network: {critics: 2}\nagent: {critic_subset: 3}", "critic_subset 3 exceeds network.critics 2"),
        ("features: {image_encoder: resnet10}", "features: encoder_weights names the file"),
        ("preset: best", "unknown preset 'best'"),
        ("agent: 3", "agent: expected a mapping"),
        ("- 1", "expected a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_bad_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        configuration.load(path, insertion())
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_policy_can_act_on_images_alone(tmp_path: Path) -> None:
    settings = tmp_path / "image_only.yaml"
    settings.write_text("features: {proprioception: none, image_encoder: random_conv}\n")
    learner = Learner(configuration.load(settings, insertion()), insertion(), 0)
    policy = SpecialistPolicy(settings, insertion(), explore=False)
    policy.update_weights(learner.first_weights().data, 0)
    assert np.array_equal(policy.act(seen_at([0.0] * 6)), policy.act(seen_at([0.03] * 6)))
    with pytest.raises(UserError, match="leave no input"):
        resolve("hil_serl", {"features": {"proprioception": "none", "image_encoder": "none"}})
