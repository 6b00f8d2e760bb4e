"""LeRobot v3: bags to dataset to episodes and bags, read by our reader and by OpenCV's decoder; statistics."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.image_codec import decode_jpeg
from rldg_core.types import Source
from rldg_data.bags.reading import find_bags, read_episode
from rldg_data.episodes.build import build_episode
from rldg_data.episodes.episode import Episode
from rldg_data.lerobot import layout
from rldg_data.lerobot.export import export_plan
from rldg_data.lerobot.importing import import_dataset
from rldg_data.lerobot.reading import read_dataset
from rldg_data.lerobot.stats import QUANTILES, count_pixels, image_stats, number_stats
from rldg_data.testing.lerobot import files_of, make_plan, psnr_db, write_bags
from rldg_data.testing.steps import make_task

ARRAYS = ("timestamp_s", "state", "twist", "wrench", "action", "reward", "is_first", "is_last", "is_terminal")
MIN_PSNR_DB = 22.0
"""For synthetic images: blocks of noise 8 px wide, unlike a camera's (43.8 dB on average). Another image has 8 dB."""

options = st.fixed_dictionaries(
    {
        "transitions": st.integers(1, 4),
        "seed": st.integers(0, 20),
        "source": st.sampled_from([Source.POLICY, Source.HUMAN, Source.SCRIPTED]),
        "success": st.booleans(),
        "object_name": st.sampled_from(["usb_a", "hdmi"]),
    }
)


def assert_equal(got: Episode, expected: Episode) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)
        assert getattr(got, name).dtype == getattr(expected, name).dtype, name
    assert got.instruction == expected.instruction
    assert list(got.images) == list(expected.images)
    for key, jpegs in expected.images.items():
        assert len(got.images[key]) == len(jpegs)
        assert min(map(psnr_db, got.images[key], jpegs)) > MIN_PSNR_DB


@settings(max_examples=6, deadline=None)
@given(st.lists(options, min_size=1, max_size=3), st.booleans(), st.integers(0, 1))
def test_exported_dataset_is_read_and_imported_unchanged(
    episodes: list[dict[str, Any]], gripper: bool, val: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bags = write_bags(root / "bags", [{**o, "gripper": gripper} for o in episodes])
        val = min(val, len(bags) - 1)
        plan = make_plan(bags, val)
        built = [build_episode(e) for e in plan.episodes]
        result = export_plan(plan, root)
        dataset = read_dataset(result.path)
        splits = {"train": len(bags) - val, "val": val}
        assert result.episodes == dataset.splits == {k: n for k, n in splits.items() if n}
        assert result.steps == sum(map(len, built))
        read = list(dataset.episodes())
        for got, expected in zip(read, built, strict=True):
            assert_equal(got, expected)
            assert got.metadata == expected.metadata
        assert [e.metadata for s in dataset.splits for e in dataset.episodes(s)] == [e.metadata for e in built]

        imported = import_dataset(result.path, root / "imported", make_task(gripper))
        assert (imported.episodes, imported.skipped, imported.clipped) == (len(bags), (), 0)
        assert imported.steps == sum(map(len, built))
        again = make_plan(find_bags(root / "imported"))
        for planned, expected, bag in zip(again.episodes, built, bags, strict=True):
            got = build_episode(planned)
            np.testing.assert_allclose(got.action, expected.action, rtol=1e-6, atol=1e-9)
            assert_equal(got, Episode(**{**vars(expected), "action": got.action}))
            same = set(got.metadata) - {"file_path", "provenance", "config_hash"}
            assert {k: got.metadata[k] for k in same} == {k: expected.metadata[k] for k in same}
            for now, then in zip(read_episode(planned.bags[0]), read_episode(bag), strict=True):
                for flag in ("index", "terminated", "truncated", "is_first", "is_last", "success", "reward", "seed"):
                    assert getattr(now, flag) == getattr(then, flag), flag
                assert now.action.source == then.action.source


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Episode]]:
    """Export a dataset of three episodes (3, 5 and 4 frames); return it and its source episodes."""
    root = tmp_path_factory.mktemp("exported")
    bags = write_bags(
        root / "bags",
        [
            {"transitions": 3, "seed": 1},
            {"transitions": 5, "seed": 10, "object_name": "hdmi", "success": False},
            {"transitions": 4, "seed": 20},
        ],
    )
    plan = make_plan(bags, 1)
    return export_plan(plan, root).path, [build_episode(e) for e in plan.episodes]


def rows_of(path: Path, name: str) -> Any:
    return pq.read_table(path / "data/chunk-000/file-000.parquet", columns=[name], partitioning=None)[name].to_pylist()


def test_tables_have_the_layout_of_lerobot(exported: tuple[Path, list[Episode]]) -> None:
    path, episodes = exported
    info = json.loads((path / layout.INFO_PATH).read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["fps"], info["total_episodes"], info["total_frames"], info["total_tasks"]) == (10, 3, 12, 2)
    assert info["splits"] == {"train": "0:2", "val": "2:3"}
    table = pq.read_table(path / "data/chunk-000/file-000.parquet", partitioning=None)
    stored = {name for name, spec in info["features"].items() if spec["dtype"] != "video"}
    assert set(table.column_names) == stored
    for name, spec in info["features"].items():
        if spec["names"] and spec["dtype"] != "video":
            assert spec["shape"] == [len(spec["names"])], name
            assert table.schema.field(name).type.list_size == len(spec["names"]), name
    assert rows_of(path, "index") == list(range(12))
    assert rows_of(path, "episode_index") == [0] * 3 + [1] * 5 + [2] * 4
    assert rows_of(path, "task_index") == [0] * 3 + [1] * 5 + [0] * 4
    assert rows_of(path, "frame_index") == [*range(3), *range(5), *range(4)]
    # lerobot finds a frame by its timestamp, within 0.1 ms.
    np.testing.assert_array_equal(rows_of(path, "timestamp"), np.float32([k / 10 for n in (3, 5, 4) for k in range(n)]))
    assert rows_of(path, "next.done") == [i in (2, 7, 11) for i in range(12)]
    assert rows_of(path, "next.truncated") == [i == 7 for i in range(12)]
    assert rows_of(path, "next.success") == rows_of(path, "next.reward") == [i in (2, 11) for i in range(12)]
    meta = pq.read_table(path / "meta/episodes/chunk-000/file-000.parquet", partitioning=None).to_pylist()
    assert [(m["dataset_from_index"], m["dataset_to_index"]) for m in meta] == [(0, 3), (3, 8), (8, 12)]
    video = f"videos/{layout.IMAGE_PREFIX}image"
    assert [m[f"{video}/from_timestamp"] for m in meta] == [0.0, 0.3, 0.8]
    assert [m["tasks"] for m in meta] == [[e.instruction] for e in episodes]
    assert [m["final/observation.images.image"] for m in meta] == [e.images["image"][-1] for e in episodes]


def test_task_table_has_the_pandas_index(exported: tuple[Path, list[Episode]]) -> None:
    table = pq.read_table(exported[0] / layout.TASKS_PATH)
    assert table.to_pydict() == {"task_index": [0, 1], "task": ["insert the usb_a plug", "insert the hdmi plug"]}
    pandas = json.loads(table.schema.metadata[b"pandas"])
    assert pandas["index_columns"] == ["task"]


def test_opencv_decodes_every_frame_at_its_index(exported: tuple[Path, list[Episode]]) -> None:
    path, episodes = exported
    capture = cv2.VideoCapture(str(path / f"videos/{layout.IMAGE_PREFIX}image/chunk-000/file-000.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 10
    for index, jpeg in enumerate(jpeg for e in episodes for jpeg in e.images["image"][:-1]):
        done, frame = capture.read()
        assert done
        assert capture.get(cv2.CAP_PROP_POS_MSEC) == pytest.approx(index * 100, abs=0.1)
        difference = frame[..., ::-1].astype(float) - decode_jpeg(jpeg)
        assert 10 * np.log10(255**2 / np.mean(difference**2)) > MIN_PSNR_DB
    assert not capture.read()[0]


def test_statistics_equal_those_of_numpy(exported: tuple[Path, list[Episode]]) -> None:
    path, episodes = exported
    stats = json.loads((path / layout.STATS_PATH).read_text())
    assert set(stats) == {*layout.NUMERIC, f"{layout.IMAGE_PREFIX}image"}
    states = np.concatenate([e.state[:-1] for e in episodes]).astype(np.float64)
    pixels = np.stack([decode_jpeg(jpeg) for e in episodes for jpeg in e.images["image"][:-1]]).reshape(-1, 3) / 255
    for key, rows, count in (("observation.state", states, 12), (f"{layout.IMAGE_PREFIX}image", pixels, 12)):
        of = stats[key]
        assert of["count"] == [count]
        expected = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
        expected |= {name: np.quantile(rows, q, axis=0) for name, q in QUANTILES.items()}
        for name, value in expected.items():
            shape = (3, 1, 1) if key.endswith("image") else (8,)
            np.testing.assert_allclose(of[name], value.reshape(shape), atol=1e-12, err_msg=f"{key} {name}")
    meta = pq.read_table(path / "meta/episodes/chunk-000/file-000.parquet", partitioning=None).to_pylist()
    np.testing.assert_allclose(
        meta[1]["stats/action/q90"], np.quantile(episodes[1].action[:-1].astype(float), 0.9, axis=0)
    )
    assert np.shape(meta[1][f"stats/{layout.IMAGE_PREFIX}image/mean"]) == (3, 1, 1)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 2**32 - 1), st.integers(1, 256))
@settings(max_examples=25)
def test_image_statistics_from_histograms_equal_those_of_pixels(
    height: int, width: int, seed: int, values: int
) -> None:
    image = np.random.default_rng(seed).integers(0, values, (height, width, 3), dtype=np.uint8)
    expected, got = number_stats(image.reshape(-1, 3) / 255), image_stats(count_pixels(image), 1)
    for name in ("min", "max", "mean", "std", *QUANTILES):
        np.testing.assert_allclose(np.ravel(got[name]), expected[name], atol=1e-12, err_msg=name)


def test_number_of_workers_changes_no_byte(exported: tuple[Path, list[Episode]], tmp_path: Path) -> None:
    bags = find_bags(exported[0].parents[1] / "bags")
    progress: list[tuple[int, int]] = []
    path = export_plan(make_plan(bags, 1), tmp_path, workers=2, progress=lambda *p: progress.append(p)).path
    assert files_of(path) == files_of(exported[0])
    assert progress == sorted(progress) and progress[-1] == (3, 3)


def test_full_files_are_closed(
    exported: tuple[Path, list[Episode]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "DATA_FILE_MB", 1e-6)
    monkeypatch.setattr(layout, "VIDEO_FILE_MB", 1e-6)
    monkeypatch.setattr(layout, "FILES_PER_CHUNK", 2)
    path = export_plan(make_plan(find_bags(exported[0].parents[1] / "bags")), tmp_path).path
    names = ["chunk-000/file-000", "chunk-000/file-001", "chunk-001/file-000"]
    for folder, suffix in (("data", "parquet"), (f"videos/{layout.IMAGE_PREFIX}image", "mp4")):
        found = sorted(str(p.relative_to(path / folder)) for p in (path / folder).rglob("*.*"))
        assert found == [f"{name}.{suffix}" for name in names]
    for got, expected in zip(read_dataset(path).episodes(), exported[1], strict=True):
        assert_equal(got, expected)


def test_images_are_resized_once(exported: tuple[Path, list[Episode]], tmp_path: Path) -> None:
    path = export_plan(make_plan(find_bags(exported[0].parents[1] / "bags")[:1], size_px=16), tmp_path).path
    (episode,) = read_dataset(path).episodes()
    assert {decode_jpeg(jpeg).shape for jpeg in episode.images["image"]} == {(16, 16, 3)}
    spec = json.loads((path / layout.INFO_PATH).read_text())["features"][f"{layout.IMAGE_PREFIX}image"]
    assert spec["shape"] == [16, 16, 3]
