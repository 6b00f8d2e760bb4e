"""Lint of datasets: each check finds exactly the dataset that has its fault, and none reports a sound dataset."""

from __future__ import annotations

import io
import json
import re
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from rldg_core.errors import UserError
from rldg_core.frames import compose_delta
from rldg_core.image_codec import decode_jpeg, encode_jpeg
from rldg_data.bags.reading import episode_info
from rldg_data.bags.recording import write_episode
from rldg_data.episodes.build import build_episode
from rldg_data.episodes.episode import Episode
from rldg_data.lint import Finding, Limits, lint, lint_episodes
from rldg_data.lint.episode import no_op_ratio as lint_no_op_ratio
from rldg_data.lint.findings import DESCRIPTIONS
from rldg_data.lint.totals import ImageSizes, Place, Statistics
from rldg_data.plan import EpisodePlan
from rldg_data.recipe import selecting
from rldg_data.rlds import statistics
from rldg_data.rlds.statistics import dataset_statistics, rows_of
from rldg_data.testing.lint import SCALE, good_episode
from rldg_data.testing.steps import driven, jpeg, make_episode, make_task

Placed = list[tuple[str, Episode]]
BAD = 3
"""Number of the episode that is made wrong."""


def dataset(seed: int = 0, count: int = 6, **options: Any) -> Placed:
    return [("val" if 0 < i == count - 1 else "train", good_episode(i, seed=seed, **options)) for i in range(count)]


def statistics_of(placed: Placed) -> dict[str, Any]:
    train = [rows_of(episode) for split, episode in placed if split == "train"]
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(rows.tobytes() for rows in train))
        file.flush()
        return dict(dataset_statistics([Path(file.name)], len(train)))


def findings(placed: Placed, stored: dict[str, Any] | None = None) -> list[Finding]:
    stored = statistics_of(placed) if stored is None else stored
    with tempfile.NamedTemporaryFile() as rows:
        totals = [ImageSizes(Limits()), Statistics(stored, Limits(), rows)]
        source = ((Place(split, f"episode {i}"), e) for i, (split, e) in enumerate(placed))
        return list(lint_episodes(source, Limits(), totals))


def set_rows(values: np.ndarray, index: Any, value: Any) -> np.ndarray:
    changed = values.copy()
    changed[index] = value
    return changed


def in_one(change: Callable[[Episode], Episode]) -> Callable[[Placed], Placed]:
    """Return a dataset with a change in one episode."""
    return lambda placed: [(s, change(e) if i == BAD else e) for i, (s, e) in enumerate(placed)]


def in_all(change: Callable[[Episode], Episode]) -> Callable[[Placed], Placed]:
    """Return a dataset with a change in all episodes."""
    return lambda placed: [(s, change(e)) for s, e in placed]


def with_rows(field: str, index: Any, value: Any) -> Callable[[Episode], Episode]:
    return lambda e: replace(e, **{field: set_rows(getattr(e, field), index, value)})


def still(episode: Episode) -> Episode:
    return replace(episode, action=set_rows(episode.action, (slice(0, 15), slice(0, 6)), 1e-5))


def saturated(episode: Episode) -> Episode:
    return replace(episode, action=set_rows(episode.action, (slice(0, 18), 2), -SCALE[2]))


def pause(extra_s: float) -> Callable[[Episode], Episode]:
    return lambda e: replace(e, timestamp_s=e.timestamp_s + np.float32(extra_s) * (np.arange(len(e)) > 9))


def moved(by_m: float) -> Callable[[Episode], Episode]:
    """Shift the arm from step 10 on."""

    def change(episode: Episode) -> Episode:
        step = episode.state[10, :3] - episode.state[9, :3]
        away = step / np.linalg.norm(step) * by_m
        return replace(episode, state=episode.state + np.pad(away, (0, 5)) * (np.arange(len(episode)) > 9)[:, None])

    return change


def rotated(by_rad: float) -> Callable[[Episode], Episode]:
    def change(episode: Episode) -> Episode:
        pose = compose_delta(episode.state[9, :7], [0, 0, 0, 0, 0, by_rad])
        return replace(episode, state=set_rows(episode.state, (slice(10, None), slice(3, 7)), pose[3:]))

    return change


def scaled(factor: float) -> Callable[[Episode], Episode]:
    return lambda e: replace(e, state=e.state * np.float32([factor] * 3 + [1] * 5))


def with_provenance(**changes: Any) -> Callable[[Episode], Episode]:
    def change(episode: Episode) -> Episode:
        (part,) = json.loads(episode.metadata["provenance"])
        return replace(episode, metadata={**episode.metadata, "provenance": json.dumps([{**part, **changes}])})

    return change


def with_camera(camera: str, view: Any) -> Callable[[Episode], Episode]:
    return with_provenance(images={"image": {"camera": camera, "view": view}})


def with_rate(rate_hz: float) -> Callable[[Episode], Episode]:
    return with_provenance(rate_hz=rate_hz)


def with_actions(factor: float) -> Callable[[Episode], Episode]:
    return lambda e: replace(e, action=e.action * np.float32([factor] * 6 + [1]))


def with_metadata(key: str, value: Any) -> Callable[[Episode], Episode]:
    return lambda e: replace(e, metadata={**e.metadata, key: value})


def failed(episode: Episode) -> Episode:
    return with_metadata("success", False)(replace(episode, is_terminal=episode.is_terminal & False))


_DEG = np.array([1.0] * 3 + [20.0] * 3, np.float32)  # 57 would exceed the speed of any arm


def negated(field: str, *columns: int) -> Callable[[Episode], Episode]:
    def change(episode: Episode) -> Episode:
        values = getattr(episode, field).copy()
        values[:, list(columns)] *= -1
        return replace(episode, **{field: values})

    return change


def reordered(field: str, columns: list[int]) -> Callable[[Episode], Episode]:
    return lambda e: replace(e, **{field: getattr(e, field)[:, columns]})


def with_images(images: Callable[[int], bytes]) -> Callable[[Episode], Episode]:
    return lambda e: replace(e, images={"image": [images(i) for i in range(len(e))]})


def wide(seed: int) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


def grey(_seed: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (64, 64)).save(stream, "JPEG")
    return stream.getvalue()


def covered(seed: int) -> bytes:
    """Return black images with the noise of a sensor."""
    return encode_jpeg(np.random.default_rng(seed).integers(0, 8, (64, 64, 3)).astype(np.uint8))


def encoded_again(seed: int) -> bytes:
    """Encode the same picture as a different file each time."""
    smooth = gaussian_filter(decode_jpeg(jpeg(64, 7)).astype(float), (4, 4, 0))
    return encode_jpeg(smooth.astype(np.uint8), 88 + seed % 10)


def add_copy(split: str) -> Callable[[Placed], Placed]:
    def change(placed: Placed) -> Placed:
        twin = placed[0][1]
        return [*placed, (split, replace(twin, metadata={**twin.metadata, "episode_id": "another"}))]

    return change


def share_bag(placed: Placed) -> Placed:
    """Give the last episode (val) a segment of the first one's bag, as stitching does."""
    first, (split, last) = placed[0][1], placed[-1]
    parts = json.loads(first.metadata["provenance"]) + json.loads(last.metadata["provenance"])
    return [*placed[:-1], (split, replace(last, metadata={**last.metadata, "provenance": json.dumps(parts)}))]


def relabelled_in_val(placed: Placed) -> Placed:
    """Add an episode with the same recording and other actions: not a duplicate, but a leak between splits."""
    return [*placed, ("val", replace(placed[0][1], action=placed[0][1].action * np.float32(0.9)))]


WRONG: dict[str, tuple[Callable[[Placed], Placed], str, str | tuple[str, ...], str]] = {
    # name: (change that causes the fault, severity, check, episode ("" = the dataset))
    "slower": (in_one(lambda e: replace(e, timestamp_s=e.timestamp_s * 2)), "error", "rate", f"episode {BAD}"),
    "unordered": (in_one(with_rows("timestamp_s", 5, 0.0)), "error", "stamps", f"episode {BAD}"),
    "same stamp": (
        in_one(lambda e: replace(e, timestamp_s=set_rows(e.timestamp_s, 5, e.timestamp_s[4]))),
        "error",
        "stamps",
        f"episode {BAD}",
    ),
    "NaN stamp": (in_one(with_rows("timestamp_s", 5, np.nan)), "error", "not_finite", f"episode {BAD}"),
    "gap": (in_one(pause(0.3)), "warning", "gap", f"episode {BAD}"),
    "two episodes in time": (in_one(pause(0.5)), "error", "gap", f"episode {BAD}"),
    "two episodes in space": (in_one(moved(0.05)), "error", "jump", f"episode {BAD}"),
    "a sudden rotation": (in_one(rotated(0.5)), "error", "jump", f"episode {BAD}"),
    "millimetres": (in_one(scaled(1000.0)), "error", "implausible", f"episode {BAD}"),
    "width in millimetres": (in_one(with_rows("state", (7, 7), 40.0)), "error", "implausible", f"episode {BAD}"),
    "a quaternion that is not normalised": (
        in_one(with_rows("state", (7, 3), 2.0)),
        "error",
        "implausible",
        f"episode {BAD}",
    ),
    "a wrench in millinewtons": (in_one(with_rows("wrench", (7, 0), 5e3)), "error", "implausible", f"episode {BAD}"),
    "a twist of 100 m/s": (in_one(with_rows("twist", (7, 0), 100.0)), "error", "implausible", f"episode {BAD}"),
    "no-op": (in_one(still), "warning", "no_op", f"episode {BAD}"),
    "translations opposite to the actions": (in_one(with_actions(-1.0)), "error", "motion", f"episode {BAD}"),
    "actions in another unit": (in_one(with_actions(0.1)), "error", "motion", f"episode {BAD}"),
    "rotations opposite to the actions": (in_one(negated("action", 3, 4, 5)), "error", "motion", f"episode {BAD}"),
    "one rotation with the opposite sign": (in_one(negated("action", 4)), "error", "motion", f"episode {BAD}"),
    "axes of an action swapped": (
        in_one(reordered("action", [1, 0, 2, 3, 4, 5, 6])),
        "error",
        "motion",
        f"episode {BAD}",
    ),
    "rotations swapped": (in_one(reordered("action", [0, 1, 2, 5, 4, 3, 6])), "error", "motion", f"episode {BAD}"),
    "quaternion w first": (
        in_one(reordered("state", [0, 1, 2, 6, 3, 4, 5, 7])),
        "error",
        ("motion", "twist"),
        f"episode {BAD}",
    ),
    "twist swapped": (in_one(reordered("twist", [3, 4, 5, 0, 1, 2])), "error", "twist", f"episode {BAD}"),
    "twist with x and y swapped": (in_one(reordered("twist", [1, 0, 2, 3, 4, 5])), "error", "twist", f"episode {BAD}"),
    "twist with the opposite sign": (in_one(negated("twist", 0)), "error", "twist", f"episode {BAD}"),
    "twist in deg/s": (in_one(lambda e: replace(e, twist=e.twist * _DEG)), "error", "twist", f"episode {BAD}"),
    "twist of zeros": (in_one(lambda e: replace(e, twist=e.twist * 0)), "warning", "twist", f"episode {BAD}"),
    "force and torque swapped": (
        in_one(lambda e: replace(e, wrench=np.roll(e.wrench * np.float32([9, 9, 9, 0.5, 0.5, 0.5]), 3, axis=1))),
        "warning",
        "wrench",
        f"episode {BAD}",
    ),
    "saturated": (in_all(saturated), "warning", "saturation", ""),
    "closed is 1": (
        in_all(lambda e: replace(e, action=e.action * [1, 1, 1, 1, 1, 1, -1] + np.eye(7, dtype=np.float32)[6])),
        "error",
        "gripper",
        "",
    ),
    "gripper -1 .. 1": (
        in_one(lambda e: replace(e, action=set_rows(e.action, (slice(None), 6), e.action[:, 6] * 2 - 1))),
        "error",
        "gripper",
        f"episode {BAD}",
    ),
    "constant action": (in_all(with_rows("action", (slice(None), 4), 0)), "warning", "constant", ""),
    "one constant axis of a sensor": (in_all(with_rows("wrench", (slice(None), 3), 0.3)), "warning", "constant", ""),
    "no sensor": (in_all(with_rows("wrench", slice(None), 0)), "warning", "constant", ""),
    "duplicate": (add_copy("train"), "error", "duplicate", "episode 6"),
    "shared bag": (share_bag, "error", "leakage", "episode 5"),
    "shared recording": (relabelled_in_val, "error", "leakage", "episode 6"),
    "another camera": (in_one(with_camera("side", None)), "error", "camera", f"episode {BAD}"),
    "another view": (in_one(with_camera("wrist", {"width": 320})), "error", "camera", f"episode {BAD}"),
    "declared at 30 Hz": (in_one(with_rate(30.0)), "error", "rate", f"episode {BAD}"),
    "instruction": (in_one(lambda e: replace(e, instruction=" ")), "error", "instruction", f"episode {BAD}"),
    "other size": (in_one(with_images(lambda i: jpeg(72, i))), "error", "image_size", f"episode {BAD}"),
    "not square": (in_all(with_images(wide)), "warning", "image_size", ""),
    "tiny": (in_all(with_images(lambda i: jpeg(32, i))), "warning", "image_size", ""),
    "black": (
        in_one(with_images(lambda i: encode_jpeg(np.zeros((64, 64, 3), np.uint8)))),
        "error",
        "pixels",
        f"episode {BAD}",
    ),
    "a covered lens": (in_one(with_images(covered)), "error", "pixels", f"episode {BAD}"),
    "one image without content": (
        in_one(lambda e: replace(e, images={"image": [*e.images["image"][:-1], covered(1)]})),
        "error",
        "pixels",
        f"episode {BAD}",
    ),
    "frozen": (in_one(with_images(lambda i: jpeg(64, 7))), "error", "frozen", f"episode {BAD}"),
    "frozen, encoded again": (in_one(with_images(encoded_again)), "error", "frozen", f"episode {BAD}"),
    "camera at half the rate": (in_one(with_images(lambda i: jpeg(64, i // 2))), "warning", "frozen", f"episode {BAD}"),
    "grey": (in_one(with_images(grey)), "error", ("image", "frozen"), f"episode {BAD}"),
    "no image": (in_one(with_images(lambda i: b"\xff\xd8nothing")), "error", ("image", "frozen"), f"episode {BAD}"),
    "image missing": (
        in_one(lambda e: replace(e, images={"image": e.images["image"][:-1]})),
        "error",
        "image_size",
        f"episode {BAD}",
    ),
    "no first": (in_one(with_rows("is_first", 0, False)), "error", "flags", f"episode {BAD}"),
    "no last": (in_one(with_rows("is_last", -1, False)), "error", "flags", f"episode {BAD}"),
    "two firsts": (in_one(with_rows("is_first", 4, True)), "error", "flags", f"episode {BAD}"),
    "early terminal": (in_one(with_rows("is_terminal", 4, True)), "error", "flags", f"episode {BAD}"),
    "provenance": (
        in_one(lambda e: replace(e, metadata={**e.metadata, "provenance": '[{"bag": 3}]'})),
        "error",
        "provenance",
        f"episode {BAD}",
    ),
    "no JSON": (
        in_one(lambda e: replace(e, metadata={**e.metadata, "provenance": "run/bags"})),
        "error",
        "provenance",
        f"episode {BAD}",
    ),
    "a failure that ends with a reward": (in_one(failed), "error", "reward", f"episode {BAD}"),
    "a failure with a reward before": (
        in_one(lambda e: failed(replace(e, reward=np.roll(e.reward, -3)))),
        "warning",
        "reward",
        f"episode {BAD}",
    ),
    "a success without reward": (in_one(with_rows("reward", slice(None), 0)), "warning", "reward", f"episode {BAD}"),
    "a success that does not end": (in_one(with_rows("is_terminal", -1, False)), "error", "flags", f"episode {BAD}"),
    "no object": (in_one(with_metadata("object", " ")), "error", "names", f"episode {BAD}"),
    "a task of two lines": (in_one(with_metadata("task", "insert\nion")), "error", "names", f"episode {BAD}"),
    "NaN action": (in_one(with_rows("action", (7, 2), np.nan)), "error", "not_finite", f"episode {BAD}"),
    "Inf wrench": (in_one(with_rows("wrench", (7, 2), np.inf)), "error", "not_finite", f"episode {BAD}"),
}


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(12, 40))
def test_sound_dataset_has_no_findings(seed: int, count: int, steps: int) -> None:
    assert findings(dataset(seed, count, steps=steps)) == []


@pytest.mark.parametrize("name", WRONG)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_fault_gives_exactly_its_finding(name: str, seed: int) -> None:
    change, severity, check, episode = WRONG[name]
    found = findings(change(dataset(seed)))
    assert found
    checks = (check,) if isinstance(check, str) else check
    assert {(f.severity, f.episode) for f in found} == {(severity, episode)}
    assert {f.check for f in found} <= set(checks)
    assert all("\n" not in str(f) and str(f).startswith(f"{severity}: {f.check}: ") for f in found)


def test_copy_in_another_split_is_a_duplicate_and_a_leak() -> None:
    found = findings(add_copy("val")(dataset()))
    assert {(f.severity, f.check) for f in found} == {("error", "duplicate"), ("error", "leakage")}


def test_every_check_is_documented_and_tested() -> None:
    document = Path(__file__).parents[3] / "docs/reference/data.md"
    table = document.read_text().partition("## Lint\n")[2].partition("### Bags\n")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.M)) == DESCRIPTIONS
    source = Path(__file__).read_text()
    assert [name for name in DESCRIPTIONS if f'"{name}"' not in source] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["action"]["q01"].__setitem__(0, s["action"]["q01"][0] * 1.01),
        lambda s: s["proprio"].pop("p99"),
        lambda s: s["action"].__setitem__("mean", "none"),
        lambda s: s["action"].__setitem__("mask", [True] * 7),
        lambda s: s.__setitem__("num_transitions", s["num_transitions"] + 1),
        lambda s: s.pop("action"),
        lambda s: s.clear(),
    ],
    ids=["value", "missing", "text", "mask", "count", "no action", "empty"],
)
def test_statistics_of_other_data_are_an_error(change: Callable[[dict[str, Any]], object]) -> None:
    placed = dataset()
    stored = statistics_of(placed)
    change(stored)
    (found,) = findings(placed, stored)
    assert (found.severity, found.check, found.episode) == ("error", "statistics", "")


def test_statistics_from_before_an_added_episode_are_an_error() -> None:
    placed = dataset()
    found = findings([*placed, ("train", good_episode(99))], statistics_of(placed))
    assert [f.check for f in found] == ["statistics"]


def test_memory_does_not_grow_with_the_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    # Statistics are computed in chunks; with the default size these few rows would all be in the first.
    monkeypatch.setattr(statistics, "_CHUNK_ROWS", 100)

    def peak_bytes(episodes: int) -> int:
        def source() -> Iterator[tuple[Place, Episode]]:
            for i in range(episodes):
                yield Place("train", str(i)), good_episode(i, steps=100)

        good_episode(0, steps=100)  # fill the cache of sample images
        tracemalloc.start()
        with tempfile.NamedTemporaryFile() as rows:
            totals = [ImageSizes(Limits()), Statistics({}, Limits(), rows)]
            assert [f.check for f in lint_episodes(source(), Limits(), totals)] == ["statistics"]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = peak_bytes(3), peak_bytes(30)
    assert many - few < 200_000  # 27 more episodes, 2,700 frames of about 5 kB


def test_no_op_ratio_equals_that_of_the_recipe_filter(tmp_path: Path) -> None:
    steps = make_episode(30, seed=3, image_size=64, gripper=True)
    quiet = [
        replace(s, action=replace(s.action, executed=s.action.executed * [*[0.01 * (i % 3)] * 6, 0 if i < 20 else 1]))
        if not s.is_last
        else s
        for i, s in enumerate(steps)
    ]
    quiet = driven(quiet)
    bag = write_episode(tmp_path, quiet, make_task(gripper=True), wall_time="now")
    ratio = lint_no_op_ratio(build_episode(EpisodePlan("", (bag,))), Limits())
    assert ratio == selecting.no_op_ratio(quiet, episode_info(bag))
    assert 0.2 < ratio < 0.8


def test_folder_of_bags_is_checked(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    for i in range(3):
        write_episode(bags, make_episode(8, seed=10 * i, image_size=64), make_task(), wall_time="now")
    assert list(lint(bags)) == list(lint(bags / "episode_000001")) == []
    steps = make_episode(8, seed=90, image_size=64)
    broken = [replace(s, action=replace(s.action, executed=s.action.executed * np.nan)) for s in steps]
    write_episode(bags, broken, make_task(), wall_time="now")
    (bags / "episode_000004").mkdir()
    found = list(lint(bags))
    assert [(f.severity, f.check, f.episode) for f in found] == [
        ("error", "action", "episode_000003"),
        ("error", "metadata", "episode_000004"),
    ]


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_folder_without_dataset_or_bags_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name):
        list(lint(tmp_path / name))
