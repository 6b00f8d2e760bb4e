"""LeRobot v3 datasets of other software, wrong and damaged input: mappings, one-line errors, no partial
output; fuzzing."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.errors import UserError
from rldg_core.image_codec import decode_jpeg, encode_jpeg
from rldg_core.task import RatesConfig
from rldg_core.types import Source, Step
from rldg_data.bags.reading import find_bags, read_episode
from rldg_data.bags.recording import write_episode
from rldg_data.lerobot import layout
from rldg_data.lerobot.components import FeatureNames, load_feature_names
from rldg_data.lerobot.export import export_plan
from rldg_data.lerobot.importing import import_dataset
from rldg_data.lerobot.reading import read_dataset
from rldg_data.lerobot.video import FrameReader, encode_h264, mux_mp4
from rldg_data.testing.lerobot import files_of, make_plan, write_bags, write_external
from rldg_data.testing.steps import jpeg, make_episode, make_task

NAMES = FeatureNames(images={"top": "wrist"}, state="arm", action="control", action_unit="normalised")


def test_external_dataset_is_imported_with_a_mapping(tmp_path: Path) -> None:
    path = write_external(tmp_path / "external", success=True)
    result = import_dataset(path, tmp_path / "bags", make_task(), NAMES)
    assert (result.episodes, result.steps, result.clipped) == (2, 4 + 6, 0)
    controls = pq.read_table(path / "data/chunk-000/file-000.parquet", partitioning=None)["control"].to_pylist()
    done = 0
    for bag, length in zip(find_bags(tmp_path / "bags"), (3, 5), strict=True):
        steps = read_episode(bag)
        assert len(steps) == length + 1
        for step, expected in zip(steps, controls[done : done + length], strict=False):
            np.testing.assert_allclose(step.action.executed, expected, atol=1e-6)
            assert step.action.source == Source.HUMAN
        assert np.diff([s.observation.stamp_ns for s in steps]) == pytest.approx(0.2e9, rel=1e-6)
        # No observation follows the last action: the previous one is repeated.
        assert steps[-1].observation.images == steps[-2].observation.images
        assert [s.observation.pose_base_tcp[0] for s in steps[:-1]] == pytest.approx(
            [0.01 * k for k in range(done, done + length)]
        )
        assert (steps[-1].success, steps[-2].terminated, steps[-2].truncated) == (True, True, False)
        assert [s.reward for s in steps] == [0.0] * (length - 1) + [1.0, 0.0]
        assert steps[0].instruction == "plug it in"
        assert decode_jpeg(steps[0].observation.images["wrist"]).shape == (256, 256, 3)
        done += length


def test_actions_beyond_the_scale_are_clipped_and_counted(tmp_path: Path) -> None:
    action = np.zeros((40, 6), np.float32)
    action[1, 2], action[24, 5], action[25, 0] = 1.5, -2.0, 1.0
    path = write_external(tmp_path / "external", (20, 20), action=action)
    result = import_dataset(path, tmp_path / "bags", make_task(), NAMES)
    assert result.clipped == 2
    assert read_episode(result.bags[0])[1].action.executed[2] == 1
    metres = NAMES.model_copy(update={"action_unit": "m_rad"})
    assert import_dataset(path, tmp_path / "more", make_task(), metres).clipped == 3


def test_success_defaults_to_false_unless_assumed(tmp_path: Path) -> None:
    path = write_external(tmp_path / "external")
    assert [e.metadata["success"] for e in read_dataset(path, NAMES).episodes()] == [False, False]
    names = NAMES.model_copy(update={"assume_success": True})
    assumed = list(read_dataset(path, names).episodes())
    assert [(e.metadata["success"], e.reward[-2], e.is_terminal[-1]) for e in assumed] == [(True, 1.0, True)] * 2


def test_gripper_values_are_mapped(tmp_path: Path) -> None:
    action = np.zeros((8, 7), np.float32)
    action[:, 6] = [1, -1, 0, 1, 1, -1, -1, -1]
    spec = {"dtype": "float32", "shape": [7], "names": None}
    path = write_external(tmp_path / "external", action=action, features={"control": spec})
    names = NAMES.model_copy(update={"gripper_closed_open": (1.0, -1.0)})
    first = next(read_dataset(path, names).episodes())
    assert first.action[:, 6].tolist() == [0.0, 1.0, 0.5, 0.5]
    imported = import_dataset(path, tmp_path / "bags", make_task(gripper=True), names)
    assert [s.action.executed[6] for s in read_episode(imported.bags[0])[:-1]] == [-1.0, 1.0, 1.0]


def test_feature_names_come_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "names.yaml"
    path.write_text("state: arm\ngripper_closed_open: [1, -1]\n")
    assert load_feature_names(path) == FeatureNames(state="arm", gripper_closed_open=(1.0, -1.0))
    path.write_text("gripper_closed_open: [1, 1]\n")
    with pytest.raises(UserError, match=r"names\.yaml.*same value"):
        load_feature_names(path)
    path.write_text("stat: arm\n")
    with pytest.raises(UserError, match=r"names\.yaml: stat: "):
        load_feature_names(path)


def edit_info(path: Path, **changes: Any) -> None:
    file = path / layout.INFO_PATH
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_data(path: Path, name: str, change: Callable[[list[Any]], list[Any]], file: Any = "") -> None:
    file = path / (file or DATA)
    table = pq.read_table(file, partitioning=None)
    index = table.column_names.index(name)
    values = pa.array(change(table[name].to_pylist()), table.schema.field(index).type)
    pq.write_table(table.set_column(index, table.schema.field(index), values), file)


def truncate(path: Path, file: str) -> None:
    content = (path / file).read_bytes()
    (path / file).write_bytes(content[: len(content) // 2])


VIDEO = f"videos/{layout.IMAGE_PREFIX}image/chunk-000/file-000.mp4"
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no info": (lambda p: (p / layout.INFO_PATH).unlink(), "not a LeRobot dataset: no meta/info.json"),
    "version 2": (partial(edit_info, codebase_version="v2.1"), r"codebase_version 'v2\.1', expected v3\.0: convert it"),
    "future": (partial(edit_info, codebase_version="v4.0"), r"codebase_version 'v4\.0', expected v3\.0"),
    "info is a list": (lambda p: (p / layout.INFO_PATH).write_text("[]"), "codebase_version 'none'"),
    "info is not JSON": (lambda p: (p / layout.INFO_PATH).write_text("{"), "not valid JSON"),
    "info lacks a key": (partial(edit_info, features=None), "not the metadata of a LeRobot dataset"),
    "no rate": (partial(edit_info, fps=0), "fps 0"),
    "path outside the dataset": (partial(edit_info, data_path="../../x"), "is outside the dataset"),
    "path template": (partial(edit_info, data_path="{nothing}"), "unusable path"),
    "no data": (lambda p: (p / DATA).unlink(), r"file-000\.parquet: missing"),
    "no video": (lambda p: (p / VIDEO).unlink(), r"file-000\.mp4: missing"),
    "no episodes": (lambda p: (p / EPISODES).unlink(), "meta/episodes: no parquet files"),
    "more episodes declared": (partial(edit_info, total_episodes=9), "2 episodes, 9 expected"),
    "half a table": (partial(truncate, file=DATA), r"file-000\.parquet: damaged"),
    "half the episodes": (partial(truncate, file=EPISODES), r"file-000\.parquet: damaged"),
    "half a video": (partial(truncate, file=VIDEO), r"file-000\.mp4: frame \d+: damaged"),
    "a video of text": (lambda p: (p / VIDEO).write_text("hello"), r"file-000\.mp4: frame 0: damaged"),
    "rows out of place": (
        partial(edit_data, name="frame_index", change=lambda v: v[::-1]),
        "have different start indices",
    ),
    "NaN": (
        partial(edit_data, name="action", change=lambda v: [[float("nan")] * 7, *v[1:]]),
        "episode 0: action is not finite",
    ),
    "null": (partial(edit_data, name="next.reward", change=lambda v: [None, *v[1:]]), "null values"),
    **{
        f"{name} {value}": (
            partial(edit_data, file=EPISODES, name=name, change=lambda v, value=value: [value] * len(v)),
            message,
        )
        for name, value, message in (
            ("episode_metadata/seed", "x", "seed 'x'"),
            ("episode_metadata/policy_version", -1, "policy_version -1"),
            ("episode_metadata/source", "cat", "source 'cat'"),
            ("final/stamp_s", float("nan"), "final/stamp_s is not finite"),
            ("final/stamp_s", 1e9, "stamp_s: expected"),
            ("final/stamp_s", 0.0, "stamps do not increase"),
            (f"videos/{layout.IMAGE_PREFIX}image/from_timestamp", float("nan"), "cannot convert float NaN"),
            (f"videos/{layout.IMAGE_PREFIX}image/from_timestamp", 9.0, "the video has no more frames"),
            ("tasks", [], "list index out of range"),
            ("tasks", [""], "instruction: must not be empty"),
            ("length", 0, "are missing"),
            ("dataset_from_index", -5, "have different start indices"),
            ("episode_index", 7, "episode_index 7, expected 0"),
        )
    },
    "no quaternion": (
        partial(edit_data, name="observation.state", change=lambda v: [[1.0] * 8 for _ in v]),
        r"values 3 to 6: quaternion xyzw \[1, 1, 1, 1\] has length 2, expected 1",
    ),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    bags = write_bags(root / "bags", [{"transitions": 2, "seed": 1}, {"transitions": 3, "seed": 9}])
    return export_plan(make_plan(bags), root).path


@pytest.mark.parametrize("name", REFUSED)
def test_malformed_dataset_is_refused(name: str, exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(exported, path)
    break_it, message = REFUSED[name]
    break_it(path)
    with pytest.raises(UserError, match=message) as caught:
        import_dataset(path, tmp_path / "bags", make_task())
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("bags/*"))


@pytest.mark.parametrize(
    ("features", "names", "message"),
    [
        ({"arm": None}, NAMES, "no feature 'arm'; it has control, top"),
        (
            {"control": {"dtype": "float32", "shape": [14], "names": None}},
            NAMES,
            "control: 14 values without names, expected 6 or 7",
        ),
        ({"arm": {"dtype": "int64", "shape": [7], "names": None}}, NAMES, "arm: int64 of shape"),
        ({"arm": {"dtype": "float32", "shape": [8], "names": None}}, NAMES, r"arm has shape \(7,\), .* says \(8,\)"),
        ({"top": None}, NAMES, "no image or video feature 'top'"),
        (
            {"top": {"dtype": "image", "shape": [48, 64, 1], "names": None, "info": {"is_depth_map": True}}},
            NAMES,
            "'top' is a depth map, expected colour images",
        ),
        ({"top": None}, NAMES.model_copy(update={"images": {}}), "no image or video feature"),
        ({}, NAMES.model_copy(update={"images": {"arm": "wrist"}}), "no image or video feature 'arm'"),
        ({}, NAMES.model_copy(update={"images": {"top": "side"}}), "no camera 'side', it has wrist"),
        ({}, FeatureNames(), "no feature 'observation.state'"),
    ],
)
def test_unsuitable_features_are_refused_by_name(
    features: dict[str, Any], names: FeatureNames, message: str, tmp_path: Path
) -> None:
    path = write_external(tmp_path / "external", features=features)
    with pytest.raises(UserError, match=message):
        import_dataset(path, tmp_path / "bags", make_task(), names)


@pytest.mark.parametrize("information", [True, 3, "text", [1]])
def test_feature_information_that_is_no_mapping_is_ignored(information: Any, tmp_path: Path) -> None:
    top = {"dtype": "image", "shape": [48, 64, 3], "names": None, "info": information}
    path = write_external(tmp_path / "external", features={"top": top})
    assert import_dataset(path, tmp_path / "bags", make_task(), NAMES)


def test_dataset_of_another_task_is_refused(exported: Path, tmp_path: Path) -> None:
    task = make_task().model_copy(update={"name": "assembly"})
    with pytest.raises(UserError, match="episode 0: has task 'insertion', importing as 'assembly'"):
        import_dataset(exported, tmp_path / "bags", task)


def test_failed_import_removes_its_bags_unless_bad_episodes_are_skipped(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(exported, path)
    edit_data(path, "action", lambda v: [*v[:-1], [float("inf")] * 7])
    write_episode(tmp_path / "bags", make_episode(2), make_task())
    with pytest.raises(UserError, match="episode 1: action is not finite"):
        import_dataset(path, tmp_path / "bags", make_task())
    assert len(find_bags(tmp_path / "bags")) == 1
    result = import_dataset(path, tmp_path / "bags", make_task(), skip_bad=True)
    assert (result.episodes, [number for number, _ in result.skipped]) == (1, [1])
    assert len(find_bags(tmp_path / "bags")) == 2


def with_images(steps: list[Step], images: list[bytes]) -> list[Step]:
    return [
        replace(s, observation=replace(s.observation, images={"wrist": i})) for s, i in zip(steps, images, strict=True)
    ]


def with_stamps(steps: list[Step], stamps_ns: list[int]) -> list[Step]:
    return [replace(s, observation=replace(s.observation, stamp_ns=n)) for s, n in zip(steps, stamps_ns, strict=True)]


RATES_HZ = {"odd rate": 2.5, "other rate": 20.0}
UNFIT: dict[str, tuple[list[Step], str]] = {
    "no transition": (make_episode(0), "no transition"),
    "successive stamps 1 ns apart": (
        with_stamps(make_episode(2), [5, 6, 7]),
        "per second by its stamps, 10 Hz by its description",
    ),
    "odd rate": (with_stamps(make_episode(2), [0, 400_000_000, 800_000_000]), r"2\.50 observations per second"),
    "other rate": (
        with_stamps(make_episode(2), [0, 50_000_000, 100_000_000]),
        "20 steps per second, the first episode has 10",
    ),
    "other size": (make_episode(2, image_size=64), r"height and width in px \[\(64, 64\)\]"),
    "two sizes": (with_images(make_episode(1), [jpeg(32, 0), jpeg(64, 0)]), "step 1"),
    "odd size": (with_images(make_episode(1), [encode_jpeg(np.zeros((31, 31, 3), np.uint8))] * 2), "even sides"),
    "half an image": (with_images(make_episode(1), [jpeg(32, 0), jpeg(32, 1)[:300]]), "step 1"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_unsuitable_episode_ends_the_export_or_is_listed(name: str, tmp_path: Path) -> None:
    steps, message = UNFIT[name]
    bags = tmp_path / "bags"
    for episode in (make_episode(2, seed=1), steps, make_episode(3, seed=2)):
        rates = RatesConfig(control_hz=RATES_HZ.get(name, 10.0) if episode is steps else 10.0)
        write_episode(bags, episode, make_task().model_copy(update={"rates": rates}), wall_time="now")
    plan = make_plan(find_bags(bags))
    with pytest.raises(UserError, match=message) as caught:
        export_plan(plan, tmp_path)
    assert str(find_bags(bags)[1]) in str(caught.value) and "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir() if p.name != "bags"] == ["toy"]
    assert not list((tmp_path / "toy").iterdir())
    result = export_plan(plan, tmp_path, skip_bad=True)
    assert (result.episodes, result.steps) == ({"train": 2}, 3 + 4)
    assert [bag for bag, _ in result.bad] == [find_bags(bags)[1]]
    good = replace(plan, episodes=plan.episodes[::2])
    again = files_of(export_plan(good, tmp_path, overwrite=True).path)
    assert {k: v for k, v in files_of(result.path).items() if k != "export_report.json"} == {
        k: v for k, v in again.items() if k != "export_report.json"
    }


def test_existing_dataset_is_not_replaced_without_overwrite(exported: Path, tmp_path: Path) -> None:
    plan = make_plan(find_bags(exported.parents[1] / "bags"))
    with pytest.raises(UserError, match="already exists"):
        export_plan(plan, exported.parents[1])
    (tmp_path / "toy/1.0.0").mkdir(parents=True)
    with pytest.raises(UserError, match="is not a dataset"):
        export_plan(plan, tmp_path, overwrite=True)
    write_episode(tmp_path / "b", make_episode(0), make_task())
    with pytest.raises(UserError, match="no episode left in split train: 1 bad"):
        export_plan(make_plan(find_bags(tmp_path / "b")), tmp_path / "new", skip_bad=True)


def test_cancelled_export_leaves_nothing(exported: Path, tmp_path: Path) -> None:
    plan = make_plan(find_bags(exported.parents[1] / "bags"))

    def cancel(done: int, _: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_plan(plan, tmp_path, progress=cancel)
    assert not list((tmp_path / "toy").iterdir())
    left = tmp_path / "toy/.1.0.0.0badcafe.partial"
    left.mkdir()
    path = export_plan(plan, tmp_path).path
    assert files_of(path) == files_of(exported)
    assert list((tmp_path / "toy").iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../toy"}, "dataset name"),
        ({"version": "1"}, "dataset version"),
        ({"episodes": ()}, "no episode in split train"),
    ],
)
def test_inconsistent_plan_is_refused(exported: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    plan = replace(make_plan(find_bags(exported.parents[1] / "bags")), **change)
    with pytest.raises(UserError, match=message):
        export_plan(plan, tmp_path)
    assert not list(tmp_path.iterdir())


def test_reader_finds_frames_in_any_order(tmp_path: Path) -> None:
    frames = [np.full((16, 32, 3), 20 * n, np.uint8) for n in range(10)]
    encode_h264(tmp_path / "a.h264", frames, 16, 32, 30)
    mux_mp4(tmp_path / "a.h264", tmp_path / "a.mp4", 30)
    with FrameReader(tmp_path / "a.mp4") as reader:
        for start, count in ((2, 3), (7, 3), (0, 2), (0, 10)):
            got = [round(f.mean() / 20) for f in reader.frames(start, count)]
            assert got == list(range(start, start + count))
        with pytest.raises(UserError, match=r"a\.mp4: frame 10: the video has no more frames"):
            list(reader.frames(8, 3))


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([layout.INFO_PATH, EPISODES, DATA, VIDEO]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3),
)
def test_flipped_bits_are_refused_or_change_no_number(
    exported: Path, file: str, flips: list[tuple[float, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copy"
        shutil.copytree(exported, path)
        content = bytearray((path / file).read_bytes())
        for place, mask in flips:
            content[int(place * len(content))] ^= mask
        (path / file).write_bytes(content)
        message, episodes = "", []
        try:
            episodes = list(read_dataset(path).episodes())
        except UserError as error:
            message = str(error)
        assert "\n" not in message and (message or episodes)
        if file == DATA and episodes:
            for got, expected in zip(episodes, read_dataset(exported).episodes(), strict=True):
                for name in ("state", "twist", "wrench", "action", "reward", "timestamp_s"):
                    np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
