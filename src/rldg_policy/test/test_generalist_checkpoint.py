"""Manifest and statistics of a checkpoint: missing, ambiguous and stale contents are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.errors import UserError
from rldg_core.files import sha256_hex
from rldg_policy.checkpoint.manifest import (
    MANIFEST_FILE,
    Manifest,
    check_backend,
    check_task,
    read_manifest,
    write_manifest,
)
from rldg_policy.checkpoint.statistics import (
    STATISTICS_FILE,
    UNNAMED_KEY,
    ActionStatistics,
    check_scale,
    choose_statistics,
    to_unit_actions,
)

ENTRY: dict[str, Any] = {
    "action": {
        "mean": [0.1, -0.2, 0.3, 0.0, 0.5, 0.25, 0.5],
        "std": [0.5, 0.25, 1.0, 2.0, 0.1, 0.0, 0.4],
        "min": [-1.0, -2.0, -3.0, -4.0, -1.0, 0.25, 0.0],
        "max": [1.0, 2.0, 3.0, 4.0, 1.0, 0.25, 1.0],
        "q01": [-0.9, -1.8, -2.7, -3.6, -0.9, 0.25, 0.0],
        "q99": [0.8, 1.6, 2.4, 3.2, 0.7, 0.25, 1.0],
        "mask": [True] * 6 + [False],
    },
    "num_transitions": 7,
}
STATISTICS = ActionStatistics.read(ENTRY["action"], "x")
actions = st.lists(st.floats(-4, 4, width=32), min_size=7, max_size=7)


def write(folder: Path, statistics: Any, **manifest: Any) -> Manifest:
    """Write statistics and, unless given, a matching manifest."""
    data = json.dumps(statistics).encode()
    (folder / STATISTICS_FILE).write_bytes(data)
    values = {
        "backend": "openvla", "image_size": 224, "window": 1, "horizon": 1, "rate_hz": 4.0, "version": 3,
        "statistics_key": "usb", "statistics_sha256": sha256_hex(data), **manifest,
    }  # fmt: skip
    made = Manifest(**values)
    write_manifest(folder, made)
    return made


@settings(max_examples=60)
@given(actions)
def test_bounds_equal_those_of_openvla(values):
    """Source: OpenVLA: clip(2 (x - q01) / (q99 - q01 + 1e-8) - 1, -1, 1) where mask; min == max becomes 0."""
    found = STATISTICS.bounds_normalise(values)
    for index, x in enumerate(values):
        low, high = ENTRY["action"]["q01"][index], ENTRY["action"]["q99"][index]
        expected = min(max(2 * (x - low) / (high - low + 1e-8) - 1, -1), 1)
        if index == 5:
            expected = 0.0
        if index == 6:
            expected = x
        assert found[index] == pytest.approx(expected, abs=1e-5)
    inside = np.clip(values, ENTRY["action"]["q01"], ENTRY["action"]["q99"])
    back = STATISTICS.bounds_denormalise(STATISTICS.bounds_normalise(inside))
    np.testing.assert_allclose(back, inside, atol=1e-5)


@settings(max_examples=60)
@given(actions)
def test_gaussian_equals_that_of_octo(values):
    """Source: Octo: mean/std, the gripper masked."""
    mean, std = np.array(ENTRY["action"]["mean"]), np.array(ENTRY["action"]["std"])
    found = STATISTICS.gaussian_normalise(values)
    np.testing.assert_allclose(found[:5], ((values - mean) / (std + 1e-8))[:5], rtol=1e-5, atol=1e-5)
    assert found[6] == np.float32(values[6])
    back = STATISTICS.gaussian_denormalise(found)
    np.testing.assert_allclose(back[[0, 1, 2, 3, 4, 6]], np.array(values)[[0, 1, 2, 3, 4, 6]], rtol=1e-4, atol=1e-4)


def test_limits_of_the_bounds_map_to_one():
    low, high = (np.array(ENTRY["action"][k], np.float32) for k in ("q01", "q99"))
    assert STATISTICS.bounds_normalise(low)[:5].tolist() == [-1.0] * 5
    np.testing.assert_allclose(STATISTICS.bounds_normalise(high)[:5], 1.0, atol=1e-6)
    assert STATISTICS.bounds_normalise(10 * high)[:5].tolist() == [1.0] * 5
    np.testing.assert_allclose(STATISTICS.bounds_denormalise(np.zeros(7))[:5], ((low + high) / 2)[:5], atol=1e-6)


def test_names_of_octo_without_mask_are_read():
    entry = {k: v for k, v in ENTRY["action"].items() if k not in {"mask", "q01", "q99"}}
    octo = ActionStatistics.read({**entry, "p01": ENTRY["action"]["q01"], "p99": ENTRY["action"]["q99"]}, "x")
    assert octo.mask.all() and np.array_equal(octo.need("q01"), STATISTICS.need("q01"))


def test_missing_statistic_is_refused_on_use():
    only = ActionStatistics.read({"q01": [0.0] * 7, "q99": [1.0] * 7}, "f: k")
    assert only.bounds_denormalise([0.0] * 7).tolist() == [0.5] * 7
    uses = {"mean": only.gaussian_normalise, "std": only.gaussian_denormalise, "min": only.bounds_normalise}
    for name, use in uses.items():
        with pytest.raises(UserError, match=f"f: k: no {name} among the action statistics"):
            use([0.0] * 7)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"q01": [0.0] * 6}, "q01: expected 7 finite numbers, one per component, got 6"),
        ({"q01": [0.0] * 6 + [float("nan")]}, "q01: expected 7 finite numbers"),
        ({"p99": ["a"] * 7}, "p99: expected 7 numbers"),
        ({"q01": [0.0] * 7, "mask": [1] * 7}, "mask: expected 7 booleans"),
        ({"q01": [0.0] * 7, "mask": [True] * 6}, "mask: expected 7 booleans"),
        ({}, "no action statistics"),
    ],
)
def test_malformed_statistics_are_refused(entry, reason):
    with pytest.raises(UserError, match=f"^where: {reason}") as error:
        ActionStatistics.read(entry, "where")
    assert "\n" not in str(error.value)


def test_single_dataset_needs_no_manifest(tmp_path):
    (tmp_path / STATISTICS_FILE).write_text(json.dumps({"usb": ENTRY}))
    assert choose_statistics(tmp_path, None)[0] == "usb"
    (tmp_path / STATISTICS_FILE).write_text(json.dumps(ENTRY))
    key, found = choose_statistics(tmp_path, None)
    assert key == UNNAMED_KEY and np.array_equal(found.need("q99"), STATISTICS.need("q99"))


def test_statistics_of_openvla_are_read_from_its_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"norm_stats": {"bridge": ENTRY}}))
    assert choose_statistics(tmp_path, None)[0] == "bridge"


def test_several_datasets_need_a_manifest(tmp_path):
    high = dict.fromkeys(("q99", "max"), [9.0] * 5 + [0.25, 9.0])
    made = write(tmp_path, {"usb": ENTRY, "vga": {"action": {**ENTRY["action"], **high}}})
    with pytest.raises(UserError, match=r"statistics of 2 datasets \(usb, vga\).*rldg checkpoint adopt"):
        choose_statistics(tmp_path, None)
    assert choose_statistics(tmp_path, made)[1].need("q99")[0] == np.float32(0.8)
    assert choose_statistics(tmp_path, made.model_copy(update={"statistics_key": "vga"}))[1].need("q99")[0] == 9.0


def test_missing_and_stale_keys_are_refused(tmp_path):
    with pytest.raises(UserError, match=f"{STATISTICS_FILE}: missing"):
        choose_statistics(tmp_path, None)
    made = write(tmp_path, {"usb": ENTRY}, statistics_key="vga")
    (tmp_path / STATISTICS_FILE).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"{STATISTICS_FILE}: cannot read: No such file"):
        choose_statistics(tmp_path, made)
    (tmp_path / "elsewhere").rename(tmp_path / STATISTICS_FILE)
    with pytest.raises(UserError, match="no statistics for 'vga', it has usb"):
        choose_statistics(tmp_path, made)
    made = write(tmp_path, {"usb": ENTRY})
    (tmp_path / STATISTICS_FILE).write_text(json.dumps({"usb": ENTRY, "num": {}}))
    with pytest.raises(UserError, match=r"not the file that rldg\.json was written with"):
        choose_statistics(tmp_path, made)
    made = write(tmp_path, {"usb": {"proprio": {}}})
    with pytest.raises(UserError, match="usb: no action statistics"):
        choose_statistics(tmp_path, made)
    made = write(tmp_path, ENTRY)
    assert choose_statistics(tmp_path, made)[0] == "usb"


@pytest.mark.parametrize("content", ["[]", "{}", '{"usb": 3}', "nothing", '"text"'])
def test_files_without_statistics_are_refused(tmp_path, content):
    (tmp_path / STATISTICS_FILE).write_text(content)
    with pytest.raises(UserError, match=STATISTICS_FILE):
        choose_statistics(tmp_path, None)


def test_manifest_survives_a_round_trip(tmp_path):
    assert read_manifest(tmp_path) is None
    made = write(tmp_path, {"usb": ENTRY}, tasks=("insertion",))
    assert read_manifest(tmp_path) == made


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"backend": ""}, "backend: String should have at least 1 character"),
        ({"more": 1}, "more: Extra inputs"),
        ({"image_size": 0}, "image_size"),
        ({"rate_hz": "x"}, "rate_hz"),
        ({"format": "rldg-generalist-2"}, "format"),
        ({"statistics_sha256": "0"}, "statistics_sha256"),
    ],
)
def test_malformed_manifest_is_refused(tmp_path, change, reason):
    write(tmp_path, {"usb": ENTRY})
    path = tmp_path / MANIFEST_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=f"{MANIFEST_FILE}: {reason}") as error:
        read_manifest(tmp_path)
    assert "\n" not in str(error.value)
    path.write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object"):
        read_manifest(tmp_path)


def test_other_tasks_and_back_ends_are_refused(tmp_path, task):
    made = write(tmp_path, {"usb": ENTRY}, tasks=("pick", "place"))
    with pytest.raises(UserError, match="made for task 'pick', 'place', this stack runs 'insertion'"):
        check_task(tmp_path, made, task)
    check_task(tmp_path, made.model_copy(update={"tasks": ()}), task)
    check_task(tmp_path, made.model_copy(update={"tasks": ("pick", "insertion")}), task)
    with pytest.raises(UserError, match=r"rldg.json: backend: a checkpoint of openvla, not of octo"):
        check_backend(tmp_path, made, "octo")
    check_backend(tmp_path, None, "octo")


def test_larger_action_scale_than_the_task_is_refused(task):
    small = {"q01": [-0.015] * 3 + [-0.1] * 3 + [0.0], "q99": [0.01] * 7}
    check_scale("x", ActionStatistics.read(small, "x"), task)
    with pytest.raises(UserError, match=r"x: made for actions up to 0\.0200 m per step"):
        check_scale("x", ActionStatistics.read({**small, "q01": [-0.02] * 7}, "x"), task)
    with pytest.raises(UserError, match=r"up to 0\.2000 rad"):
        check_scale("x", ActionStatistics.read({**small, "q01": [0.0] * 3 + [-0.2] * 4}, "x"), task)


def test_physical_actions_are_converted_to_unit_actions(task):
    physical = [[0.015, -0.03, 0.0, 0.05, 0.0, -0.1, 1.0], [0.0] * 7]
    found = to_unit_actions(physical, task, 7)
    np.testing.assert_allclose(found, [[1, -1, 0, 0.5, 0, -1, 1], [0, 0, 0, 0, 0, 0, -1]], atol=1e-6)
    assert found.dtype == np.float32 and to_unit_actions(physical, task, 6).shape == (2, 6)
