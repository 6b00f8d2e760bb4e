"""Reward classifier: frames and labels, split, calibration, training, files, hysteresis, bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_samples import episode, insertion

from rldg_core.errors import UserError
from rldg_core.files import read_json, write_json
from rldg_core.image_codec import decode_jpeg, encode_jpeg
from rldg_core.task import BoxConfig
from rldg_core.types import Step
from rldg_data.bags.recording import write_episode
from rldg_rl.classifier.calibration import (
    auc,
    balanced_nll,
    choose_threshold,
    fit_temperature,
    judge_episode,
    measure,
)
from rldg_rl.classifier.checkpoint import write_classifier
from rldg_rl.classifier.collecting import Collector
from rldg_rl.classifier.evaluate import evaluate_frames
from rldg_rl.classifier.frames import Frame, frames_of_steps, read_frames, split_by_episode, write_frame
from rldg_rl.classifier.model import ClassifierConfig
from rldg_rl.classifier.reward import RewardClassifier, SuccessJudge
from rldg_rl.classifier.success import Hysteresis, in_box, learn_box
from rldg_rl.classifier.train import predict, train

PERIOD_NS = 100_000_000
CONFIG = ClassifierConfig(encoder="random_conv", crops=2, learning_rate=1e-3, epochs=8, batch_per_class=16)


def picture(success: bool, seed: int) -> bytes:
    """Draw a bright square, in the middle for success and in a corner for failure; the background varies."""
    rng = np.random.default_rng(seed)
    image = np.full((64, 64, 3), rng.integers(20, 120), np.uint8)
    image[::8] = rng.integers(0, 60)
    row, column = (22, 22) if success else (4, 38)
    image[row : row + 20, column : column + 20] = rng.integers(180, 255, 3)
    return encode_jpeg(np.kron(image, np.ones((4, 4, 1), np.uint8)), 90)  # the size of the task's camera


def steps_with_images(name: str, length: int, success: bool, seed: int) -> list[Step]:
    """Return an episode whose last observation shows the success."""
    steps = []
    for step in episode(name, np.zeros((length + 1, 6)), success=success, truncated=not success, seed=seed):
        image = picture(success and step.is_last, seed * 100 + step.index)
        seen = replace(step.observation, stamp_ns=step.index * PERIOD_NS, images={"wrist": image})
        steps.append(replace(step, observation=seen))
    return steps


def frames(episodes: int = 12, length: int = 5) -> list[Frame]:
    """Return frames of episodes of which half succeed."""
    made = [steps_with_images(f"run/{k:06d}", length, k % 2 == 0, k) for k in range(episodes)]
    return [f for steps in made for f in frames_of_steps(steps, "wrist", "somewhere")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a classifier and return its folder."""
    path = tmp_path_factory.mktemp("run") / "classifier"
    write_classifier(path, *train(frames(), insertion(), CONFIG, seed=3))
    return path


# --- labels -----------------------------------------------------------------------------------------


def test_only_the_last_frame_of_a_success_is_positive() -> None:
    good, bad = steps_with_images("a", 5, True, 0), steps_with_images("b", 5, False, 1)
    assert [f.success for f in frames_of_steps(good, "wrist", "x")] == [False] * 5 + [True]
    assert [f.success for f in frames_of_steps(bad, "wrist", "x")] == [False] * 6
    left = frames_of_steps(good, "wrist", "x", ignored_before_success=2)
    assert [f.stamp_ns // PERIOD_NS for f in left] == [0, 1, 2, 5]
    with pytest.raises(UserError, match="bag_1: Step 0 holds no image of camera 'side'"):
        frames_of_steps(good, "side", "bag_1")


def test_bags_and_folders_of_frames_give_the_same_frames(tmp_path: Path) -> None:
    made = [steps_with_images(f"run/{k}", 3, k == 0, k) for k in range(2)]
    for steps in made:
        write_episode(tmp_path / "bags", steps, insertion())
    from_bags = read_frames([tmp_path / "bags", tmp_path / "bags"], insertion(), "wrist")
    assert len(from_bags) == 8, "a bag given twice counts once"
    for frame in from_bags:
        write_frame(tmp_path / "frames", frame)
    from_folder = read_frames([tmp_path / "frames"], insertion(), "wrist")
    key = sorted((f.episode_id, f.stamp_ns, f.success, f.jpeg) for f in from_bags)
    assert sorted((f.episode_id, f.stamp_ns, f.success, f.jpeg) for f in from_folder) == key


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.floats(0.05, 0.9), st.integers(0, 9))
def test_no_episode_is_in_both_splits(good: int, bad: int, share: float, seed: int) -> None:
    made = [Frame(f"g{k}", i, b"", i == 2, "", "") for k in range(good) for i in range(3)]
    made += [Frame(f"b{k}", i, b"", False, "", "") for k in range(bad) for i in range(3)]
    split = split_by_episode(made, share, seed)
    train_ids, held_ids = {f.episode_id for f in split.train}, {f.episode_id for f in split.held_out}
    assert not train_ids & held_ids
    assert len(split.train) + len(split.held_out) == len(made)
    for part in split:
        assert {f.success for f in part} == {True, False}
    again = split_by_episode(made[::-1], share, seed)
    assert {f.episode_id for f in again.held_out} == held_ids


def test_collector_labels_by_the_button_and_omits_frames_near_its_edges(tmp_path: Path) -> None:
    collector = Collector(tmp_path, "session", margin=2)
    jpegs = [picture(False, k) for k in range(12)]
    for k, pressed in enumerate([0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0]):
        collector.take(k, jpegs[k], bool(pressed), "")
    collector.close()
    saved = {f.stamp_ns: f.success for f in read_frames([tmp_path], insertion(), "wrist")}
    assert saved == {0: False, 1: False, 4: True, 5: True, 6: True, 9: False, 10: False, 11: False}
    groups = {f.stamp_ns: f.episode_id for f in read_frames([tmp_path], insertion(), "wrist")}
    assert groups[4] != groups[9], "every press and release starts a new episode"
    assert (collector.positive, collector.negative) == (3, 5)


# --- calibration ------------------------------------------------------------------------------------


def test_metrics_of_a_small_case() -> None:
    probabilities, labels = np.array([0.1, 0.9, 0.8, 0.4, 0.6]), np.array([False, True, False, True, True])
    metrics = measure(probabilities, labels, 0.5)
    assert (metrics.precision, metrics.recall, metrics.auc) == pytest.approx((2 / 3, 2 / 3, 4 / 6))
    counts = (metrics.true_positives, metrics.false_positives, metrics.true_negatives, metrics.false_negatives)
    assert counts == (2, 1, 1, 1)
    assert measure(probabilities, labels, 0.99).precision is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=40))
def test_auc_counts_pairs(pairs: list[tuple[int, bool]]) -> None:
    scores, labels = np.array([s for s, _ in pairs], float), np.array([b for _, b in pairs], bool)
    if labels.all() or not labels.any():
        return
    p, n = scores[labels][:, None], scores[~labels][None]
    assert auc(scores, labels) == pytest.approx(((p > n) + 0.5 * (p == n)).mean())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.6, 0.9, 0.99]))
def test_threshold_reaches_the_requested_precision_where_possible(seed: int, wanted: float) -> None:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[True, False], rng.random(60) < 0.3])
    probabilities = np.clip(rng.normal(np.where(labels, 0.7, 0.4), 0.15), 0.001, 0.999)
    threshold = choose_threshold(probabilities, labels, wanted)
    assert 0.5 <= threshold < 1
    reached = [measure(probabilities, labels, p - 1e-9).precision or 0.0 for p in probabilities if p >= 0.5]
    precision = measure(probabilities, labels, threshold).precision or 0.0
    assert precision >= wanted or precision == pytest.approx(max(reached, default=0.0))


def test_temperature_corrects_overconfident_logits() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, 4000)
    labels = rng.random(4000) < 1 / (1 + np.exp(-honest))
    assert fit_temperature(5 * honest, labels) == pytest.approx(5, rel=0.15)
    assert balanced_nll(honest, labels) < balanced_nll(5 * honest, labels)


# --- hysteresis -------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5), st.lists(st.tuples(st.booleans(), st.sampled_from([1, 1, 1, 2])), max_size=40))
def test_hysteresis_needs_n_consecutive_frames_without_a_gap(wanted: int, moves: list[tuple[bool, int]]) -> None:
    hysteresis, stamp, run = Hysteresis(wanted, PERIOD_NS), 0, 0
    for over, periods in moves:
        stamp += periods * PERIOD_NS
        run = (run if periods == 1 else 0) + 1 if over else 0
        assert hysteresis.update(stamp, over) == (run >= wanted)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.lists(st.booleans(), min_size=1, max_size=20), st.lists(st.booleans(), max_size=20))
def test_hysteresis_restarts_whenever_start_arrives(wanted: int, before: list[bool], after: list[bool]) -> None:
    """START may arrive before or after the first frames; in lock-step the jump of the clock is enough."""
    fresh = Hysteresis(wanted, PERIOD_NS)
    expected = [fresh.update(k * PERIOD_NS, over) for k, over in enumerate(after)]
    first = (len(before) + 1) * PERIOD_NS
    for start_at in range(len(after) + 1):
        hysteresis = Hysteresis(wanted, PERIOD_NS)
        for k, over in enumerate(before):
            hysteresis.update(k * PERIOD_NS, over)
        got = []
        for k, over in enumerate(after):
            if k == start_at:
                hysteresis.start(first)
            got.append(hysteresis.update(first + k * PERIOD_NS, over))
        assert got == expected
    with pytest.raises(ValueError, match="consecutive_frames"):
        Hysteresis(0, PERIOD_NS)


def test_episode_results_are_compared_with_ground_truth() -> None:
    truth, stamps = [False, False, True, True], [k * PERIOD_NS for k in range(4)]

    def verdict(over: list[bool], wanted: int) -> tuple[int | None, bool, bool]:
        found = judge_episode(over, truth, stamps, wanted, PERIOD_NS)
        return found.fired, found.false_positive, found.false_negative

    assert verdict([False, False, True, True], 2) == (3, False, False)
    assert verdict([False, True, False, True], 1) == (1, True, False)
    assert verdict([False, True, False, True], 2) == (None, False, True)


# --- training ---------------------------------------------------------------------------------------


def test_trained_classifier_separates_and_survives_a_round_trip(folder: Path) -> None:
    classifier = RewardClassifier.load(folder, insertion())
    fresh = [steps_with_images(f"fresh/{k}", 4, True, 50 + k) for k in range(4)]
    for steps in fresh:
        probabilities = [classifier.probability(s.observation) for s in steps]
        assert [p > classifier.threshold for p in probabilities] == [False] * 4 + [True]
        np.testing.assert_allclose(
            probabilities, predict(classifier.saved, frames_of_steps(steps, "wrist", "x")), rtol=1e-3, atol=1e-4
        )
    report = classifier.saved.report
    assert report["train"]["episodes"] + report["held_out"]["episodes"] == 12
    assert len(report["held_out_loss"]) == CONFIG.epochs
    assert report["held_out_metrics"]["auc"] == 1.0
    assert decode_jpeg((folder / "errors.png").read_bytes()).shape == (2 * 3 * (128 + 26), 8 * 128, 3)


def test_training_repeats_bit_for_bit() -> None:
    a, b = (train(frames(6, 3), insertion(), CONFIG, seed=1)[0] for _ in range(2))
    assert all(np.array_equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
    assert (a.threshold, a.temperature) == (b.threshold, b.temperature)


def test_success_needs_n_frames_and_the_success_box(folder: Path) -> None:
    task = insertion()
    classifier = RewardClassifier.load(folder, task)
    judge = SuccessJudge(classifier, task, 2)
    last = steps_with_images("x", 2, True, 60)[-1].observation
    at = [replace(last, stamp_ns=k * PERIOD_NS) for k in range(3)]
    assert [judge(o) for o in at] == [False, True, True]
    box = BoxConfig(low=(0.01,) + (-1,) * 5, high=(0.02,) + (1,) * 5)
    boxed = task.model_copy(update={"reward": task.reward.model_copy(update={"success_box": box})})
    judgement = SuccessJudge(classifier, boxed, 1).judge(at[0])
    assert judgement.probability > classifier.threshold
    assert not judgement.over and not judgement.success


def test_learned_success_box_contains_the_successes_only(folder: Path) -> None:
    task, saved = insertion(), RewardClassifier.load(folder, insertion()).saved
    assert saved.success_box is not None
    at, width = np.array(task.target_pose_base_tcp), np.array(saved.success_box.high) - np.array(saved.success_box.low)
    np.testing.assert_allclose(width, [2e-3] * 3 + [0.04] * 3, atol=1e-9)
    assert in_box(saved.success_box, task, at) and in_box(None, task, at + 1.0)
    assert not in_box(saved.success_box, task, at + np.array([0, 0, 0.002, 0, 0, 0, 0]))
    made = frames(4, 3)
    assert learn_box([replace(made[0], success=True, pose_base_tcp=None), *made], task) is None
    # With a classifier that always fires, the box prevents frames far from the target from ending episodes.
    certain = np.ones(len(made))
    far = [f if f.success else replace(f, pose_base_tcp=at + np.array([0, 0, 0.01, 0, 0, 0, 0])) for f in made]
    boxed = evaluate_frames(far, certain, 0.5, task, saved.success_box)
    assert (boxed.episodes, boxed.successful_episodes, boxed.false_positive_episodes) == (4, 2, 0)
    assert boxed.false_negative_episodes == 0 and boxed.frames.false_positives == len(made) - 2
    assert evaluate_frames(far, certain, 0.5, task, None).false_positive_episodes == 4
    with pytest.raises(UserError, match="no positive frame to measure on"):
        evaluate_frames([f for f in made if not f.success], np.zeros(len(made) - 2), 0.5, task, None)


# --- bad input --------------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_missing_class_or_single_positive_episode_is_refused() -> None:
    made = frames(4, 3)
    for kept, reason in (
        ([f for f in made if not f.success], "no positive frames: a classifier needs both classes"),
        ([f for f in made if f.success], "no negative frames"),
        ([f for f in made if f.episode_id != "run/000000"], "all positive frames are of episode run/000002"),
    ):
        with pytest.raises(UserError, match=reason) as error:
            train(kept, insertion(), CONFIG, 0)
        one_line(error)


def test_corrupt_jpeg_is_refused_by_name(tmp_path: Path) -> None:
    made = frames(6, 3)
    for frame in made:
        path = write_frame(tmp_path, frame)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=f"{path.name}: frame at .* corrupt JPEG") as error:
        train(read_frames([tmp_path], insertion(), "wrist"), insertion(), CONFIG, 0)
    one_line(error)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoder_sha256": "0" * 64}, "trained on encoder random_conv 000000000000, this one is"),
        ({"task": "pick"}, "classifier of task 'pick', not of 'insertion'"),
        ({"task_hash": "0"}, "trained on another crop, size or quality of camera 'wrist'"),
        ({"sha256": "0"}, r"head\.safetensors: SHA-256 differs"),
        ({"features": 3}, "dense/w is"),
        ({"config": {"hidden": 0}}, r"config\.json: config: Input should be"),
        ({"threshold": "high"}, r"config\.json: not a classifier's configuration"),
    ],
)
def test_unsuitable_classifier_folder_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    for name in ("config.json", "head.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    write_json(tmp_path / "config.json", {**read_json(folder / "config.json"), **change})
    with pytest.raises(UserError, match=reason) as error:
        RewardClassifier.load(tmp_path, insertion())
    one_line(error)


def test_sources_without_frames_are_refused(tmp_path: Path) -> None:
    def check_refused(reason: str) -> None:
        with pytest.raises(UserError, match=reason) as error:
            read_frames([tmp_path / "x"], insertion(), "wrist")
        one_line(error)

    check_refused("x: no such folder of bags or frames")
    (tmp_path / "x").mkdir()
    check_refused("holds neither bags nor folders positive and negative")
    pick = insertion().model_copy(update={"name": "pick"})
    steps = [replace(s, task="pick") for s in steps_with_images("a", 2, True, 0)]
    write_episode(tmp_path / "x", steps, pick)
    check_refused("episode of task 'pick', the classifier is for 'insertion'")
    (tmp_path / "x" / "positive").mkdir()
    (tmp_path / "x" / "positive" / "holiday.jpg").write_bytes(b"")
    check_refused(r"holiday\.jpg: expected <episode>__<stamp>\.jpg")
