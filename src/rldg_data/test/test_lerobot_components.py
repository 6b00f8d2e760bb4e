"""LeRobot datasets of other software: names define the values, and contradictions are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.errors import UserError
from rldg_core.task import RatesConfig
from rldg_data.bags.reading import episode_info, read_episode
from rldg_data.lerobot import layout
from rldg_data.lerobot.components import FeatureNames, components
from rldg_data.lerobot.importing import import_dataset
from rldg_data.testing.lerobot import write_external
from rldg_data.testing.steps import make_task

FRAMES = 8
NAMES = FeatureNames(images={"top": "wrist"}, state="arm", action="control")
STATE = ["x", "y", "z", "qx", "qy", "qz", "qw"]
DELTAS = ["dx", "dy", "dz", "drx", "dry", "drz"]


def dataset(
    root: Path, state_names: Any, action_names: Any, *, state: Any = None, action: Any = None, extra: Any = None
) -> Path:
    """Write a dataset whose features have these names. state, action: (FRAMES, D)."""
    good = np.tile(np.array([0.5, 0.0, 0.2, 1.0, 0, 0, 0], np.float32), (FRAMES, 1))
    good[:, 0] += np.arange(FRAMES) * 0.01
    state = good if state is None else np.asarray(state, np.float32)
    action = np.full((FRAMES, 6), 0.005, np.float32) if action is None else np.asarray(action, np.float32)
    specs = {
        "arm": {"dtype": "float32", "shape": [state.shape[1]], "names": state_names},
        "control": {"dtype": "float32", "shape": [action.shape[1]], "names": action_names},
        **{
            name: {"dtype": "float32", "shape": [values.shape[1]], "names": n}
            for name, (n, values) in (extra or {}).items()
        },
    }
    path = write_external(root, (FRAMES,), action=action, features=specs, success=True)
    file = path / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file, partitioning=None)
    values = {"arm": state, **{name: v for name, (_, v) in (extra or {}).items()}}
    for name, rows in values.items():
        column = pa.array(list(np.asarray(rows, np.float32)))
        place = table.column_names.index(name) if name in table.column_names else -1
        table = table.set_column(place, name, column) if place >= 0 else table.append_column(name, column)
    pq.write_table(table, file)
    return path


def imported(path: Path, out: Path, names: FeatureNames = NAMES, gripper: bool = False) -> list[Any]:
    (bag,) = import_dataset(path, out, make_task(gripper), names).bags
    return read_episode(bag)


def check_refused(path: Path, out: Path, text: str, names: FeatureNames = NAMES, gripper: bool = False) -> None:
    with pytest.raises(UserError, match=text) as caught:
        import_dataset(path, out, make_task(gripper), names)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    assert not list(out.glob("*"))


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(7)), st.permutations(range(6)))
def test_any_order_of_components_is_accepted(state_order: list[int], action_order: list[int]) -> None:
    values = np.arange(7.0)[None]
    found = components("state", [STATE[k] for k in state_order], 7, "here")
    np.testing.assert_array_equal(found.take(values[:, state_order]), values)
    found = components("action", [DELTAS[k] for k in action_order], 6, "here")
    np.testing.assert_array_equal(found.take(values[:, :6][:, action_order]), values[:, :6])


def test_order_and_units_are_converted(tmp_path: Path) -> None:
    state = np.tile([1.0, 0, 0, 0, 500, 10, 200, 30], (FRAMES, 1))
    names = ["qw", "qx", "qy", "qz", "x_mm", "y_mm", "z_mm", "gripper_width_mm"]
    action = np.tile([0.1, 0.2, 0.3, 1, 2, 3], (FRAMES, 1))
    path = dataset(
        tmp_path / "theirs",
        {"motors": names},
        ["delta_roll_deg", "delta_pitch_deg", "delta_yaw_deg", "delta_x_mm", "delta_y_mm", "delta_z_mm"],
        state=state,
        action=action,
    )
    steps = imported(path, tmp_path / "bags")
    np.testing.assert_allclose(steps[0].observation.pose_base_tcp, [0.5, 0.01, 0.2, 0, 0, 0, 1], atol=1e-6)
    assert steps[0].observation.gripper_width_m == pytest.approx(0.03)
    expected = [*(np.array([1, 2, 3]) * 1e-3 / 0.015), *(np.deg2rad([0.1, 0.2, 0.3]) / 0.1)]
    np.testing.assert_allclose(steps[0].action.executed, expected, rtol=1e-4)


@pytest.mark.parametrize(
    "form", ["{}", "dim_{}", "action.{}", "state {}", "observation.state_{}", "feature{}", "Dim{}"]
)
def test_positional_names_keep_the_order(form: str) -> None:
    assert components("action", [form.format(k) for k in range(6)], 6, "here").indices == tuple(range(6))


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["x", "y", "z", "rx", "ry", "rz"], "control: 'x' is absolute, expected deltas dx, dy, dz"),
        (["ee.x", "ee.y", "ee.z", "ee.wx", "ee.wy", "ee.wz"], "control: 'ee.x' is absolute"),
        (["target_x", "target_y", "target_z", "roll", "pitch", "yaw"], "control: 'target_x' is absolute"),
        ([f"joint_{n}.pos" for n in range(6)], r"control: 'joint_0\.pos' is a joint"),
        ([f"motor_{n}" for n in range(6)], "control: 'motor_0' is a joint"),
        (
            [
                "shoulder_pan.pos",
                "shoulder_lift.pos",
                "elbow_flex.pos",
                "wrist_flex.pos",
                "wrist_roll.pos",
                "gripper.pos",
            ],
            "is a joint",
        ),
        ([f"panda_joint{n}" for n in range(1, 7)], "control: 'panda_joint1' is a joint"),
        ([f"j{n}" for n in range(1, 7)], "control: 'j1' is a joint"),
        ([f"arm.J_{n}" for n in range(6)], r"control: 'arm\.J_0' is a joint"),
        ([f"A{n}" for n in range(1, 7)], "control: 'A1' is a joint"),
        ([f"q{n}" for n in range(6)], "control: 'q0' is a joint"),
        ([f"dof_{n}" for n in range(6)], "control: 'dof_0' is a joint"),
        ([f"Axis {n}" for n in range(6)], "control: 'Axis 0' is a joint"),
        ([f"rev{n}" for n in range(6)], "control: 'rev0' is not one of its components"),
        ([f"x{n}" for n in range(6)], "control: 'x0' is not one of its components"),
        (["x.vel", "y.vel", "z.vel", "wx.vel", "wy.vel", "wz.vel"], r"control: 'x\.vel' is a velocity"),
        ([*DELTAS[:5], "dx"], "control: 'dx' and 'dx' are the same component"),
        (DELTAS[:5], "control: 5 names for 6 values"),
        (["base_dx", *DELTAS[1:]], "control: 'base_dx' is in the base frame, expected tcp axes"),
        (["dx_rad", *DELTAS[1:]], "control: 'dx_rad' is in rad, expected m"),
        ({"motors": ["a", "b", "c", "d", "e", "f"]}, "control: 'a' is not one of its components"),
        (5, "control: names are '5', expected a list"),
    ],
)
def test_actions_that_are_not_deltas_are_refused(tmp_path: Path, names: Any, text: str) -> None:
    check_refused(dataset(tmp_path / "theirs", STATE, names), tmp_path / "bags", text)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([f"joint_{n}.pos" for n in range(7)], r"arm: 'joint_0\.pos' is a joint, expected x, y, z \[m\]"),
        (["x", "y", "z", "roll", "pitch", "yaw", "gripper"], "arm: 'roll' is absolute, expected x, y, z"),
        (["x", "y", "z", "qx", "qy", "qz", "qz"], "'qz' and 'qz' are the same component"),
        (["x_deg", *STATE[1:]], "arm: 'x_deg' is in rad, expected m"),
    ],
)
def test_states_without_a_pose_are_refused(tmp_path: Path, names: Any, text: str) -> None:
    check_refused(dataset(tmp_path / "theirs", names, DELTAS), tmp_path / "bags", text)


@pytest.mark.parametrize("names", [None, ["action"], [f"action_{n}" for n in range(6)], [str(n) for n in range(6)]])
def test_values_without_names_keep_the_order(tmp_path: Path, names: Any) -> None:
    steps = imported(dataset(tmp_path / "theirs", None, names), tmp_path / "bags")
    np.testing.assert_allclose(steps[0].action.executed, [1 / 3] * 3 + [0.05] * 3, rtol=1e-5)


def test_names_file_overrides_the_names_of_the_dataset(tmp_path: Path) -> None:
    """Name the components of LIBERO's conversions, which call deltas x, y, z."""
    path = dataset(tmp_path / "theirs", STATE, ["x", "y", "z", "roll", "pitch", "yaw"])
    names = NAMES.model_copy(update={"components": {"control": DELTAS}})
    assert imported(path, tmp_path / "bags", names)
    wrong = NAMES.model_copy(update={"components": {"nothing": DELTAS}})
    check_refused(path, tmp_path / "more", "components: 'nothing' is not one of arm, control", wrong)


def test_pose_is_found_by_name_in_a_longer_state(tmp_path: Path) -> None:
    state = np.tile([*np.arange(7.0), 0.5, 0, 0.2, 1, 0, 0, 0, 0.04], (FRAMES, 1))
    names = [*(f"joint_{n}" for n in range(7)), *STATE, "gripper_width_m"]
    steps = imported(dataset(tmp_path / "theirs", names, DELTAS, state=state), tmp_path / "bags")
    np.testing.assert_allclose(steps[0].observation.pose_base_tcp, [0.5, 0, 0.2, 1, 0, 0, 0], atol=1e-6)
    check_refused(
        dataset(tmp_path / "unnamed", None, DELTAS, state=state), tmp_path / "more", "arm: 15 values without names"
    )


def test_units_with_a_normalised_action_are_refused(tmp_path: Path) -> None:
    path = dataset(tmp_path / "theirs", STATE, ["dx_m", "dy_m", "dz_m", "drx_rad", "dry_rad", "drz_rad"])
    names = NAMES.model_copy(update={"action_unit": "normalised"})
    check_refused(
        path, tmp_path / "bags", "control: dx_m, .* have units, but the names file has `action_unit: normalised`", names
    )


WITH_GRIPPER = np.column_stack([np.full((FRAMES, 6), 0.005), [1, 1, 1, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("name", "closed_open", "refusal"),
    [
        ("gripper", (0.0, 1.0), ""),
        ("gripper_open", (0.0, 1.0), ""),
        ("gripper_closed", (1.0, 0.0), ""),
        ("gripper_closed", (0.0, 1.0), "'gripper_closed' has a direction"),
        ("gripper_open", (1.0, 0.0), "'gripper_open' has a direction"),
        ("gripper", (0.0, 0.1), "gripper: 0 .. 10 of the way from closed to open"),
    ],
)
def test_gripper_values_follow_their_names(tmp_path: Path, name: str, closed_open: Any, refusal: str) -> None:
    path = dataset(tmp_path / "theirs", STATE, [*DELTAS, name], action=WITH_GRIPPER)
    names = NAMES.model_copy(update={"gripper_closed_open": closed_open})
    if refusal:
        check_refused(path, tmp_path / "bags", refusal, names, gripper=True)
        return
    steps = imported(path, tmp_path / "bags", names, gripper=True)
    sign = 1.0 if closed_open[1] > closed_open[0] else -1.0
    assert [s.action.executed[6] for s in steps[:-1]] == [sign] * 3 + [-sign] * 5


def test_partial_widths_become_open_and_close(tmp_path: Path) -> None:
    action = np.column_stack([np.full((FRAMES, 6), 0.005), [0.08] * 4 + [0.03] * 4])
    path = dataset(tmp_path / "theirs", STATE, [*DELTAS, "gripper_width"], action=action)
    steps = imported(
        path, tmp_path / "bags", NAMES.model_copy(update={"gripper_closed_open": (0.0, 0.08)}), gripper=True
    )
    assert [s.action.executed[6] for s in steps[:-1]] == [1.0] * 4 + [-1.0] * 4


def test_gripper_in_only_task_or_dataset_is_refused(tmp_path: Path) -> None:
    path = dataset(tmp_path / "theirs", STATE, DELTAS)
    check_refused(path, tmp_path / "bags", "control: no gripper, task insertion has one", gripper=True)
    path = dataset(tmp_path / "other", STATE, [*DELTAS, "gripper"], action=WITH_GRIPPER)
    check_refused(path, tmp_path / "bags", "its actions move a gripper, task insertion has none")


@pytest.mark.parametrize(
    ("feature", "names", "text"),
    [
        ("wrench", ["tx", "ty", "tz", "fx", "fy", "fz"], ""),
        ("wrench", ["base_fx", "fy", "fz", "tx", "ty", "tz"], "'base_fx' is in the base frame, expected tcp axes"),
        ("wrench", ["a1x", "b", "c", "d", "e", "f"], "'a1x' is not one of its components"),
        ("twist", ["tcp_vx", "vy", "vz", "wx", "wy", "wz"], "'tcp_vx' is in the tcp frame, expected base axes"),
    ],
)
def test_wrench_and_twist_are_found_by_name(tmp_path: Path, feature: str, names: list[str], text: str) -> None:
    values = np.tile(np.arange(6.0), (FRAMES, 1))
    path = dataset(tmp_path / "theirs", STATE, DELTAS, extra={f"observation.{feature}": (names, values)})
    if text:
        check_refused(path, tmp_path / "bags", text)
        return
    steps = imported(path, tmp_path / "bags")
    np.testing.assert_allclose(steps[0].observation.wrench_tcp, [3, 4, 5, 0, 1, 2])


@pytest.mark.parametrize(
    ("state", "action", "text"),
    [
        (None, np.tile([0.5, 0, 0.2, 1, 0, 0], (FRAMES, 1)), "the actions of 8 of 8 steps are beyond the scale"),
        (np.tile([500.0, 0, 200, 1, 0, 0, 0], (FRAMES, 1)), None, "pose_base_tcp: 538.5 m from base"),
        (
            np.tile([50.0, 0, 20, 1, 0, 0, 0], (FRAMES, 1)) * np.linspace(0, 1, FRAMES)[:, None] ** [1]
            + [0, 0, 0, 0, 0, 0, 0],
            None,
            r"arm of frame 0, values 3 to 6: quaternion xyzw \[0, 0, 0, 0\] has length 0, expected 1",
        ),
        (
            np.array([[0.5 + 0.05 * (k > 3), 0, 0.2, 1, 0, 0, 0] for k in range(FRAMES)]),
            None,
            "the arm jumps 0.05 m before step 4",
        ),
    ],
)
def test_implausible_values_are_refused(tmp_path: Path, state: Any, action: Any, text: str) -> None:
    check_refused(dataset(tmp_path / "theirs", None, None, state=state, action=action), tmp_path / "bags", text)


def test_rate_contradicting_the_stamps_is_refused(tmp_path: Path) -> None:
    path = dataset(tmp_path / "theirs", STATE, DELTAS)
    file = path / layout.INFO_PATH
    info = json.loads(file.read_text())
    info["features"]["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    file.write_text(json.dumps({**info, "fps": 30}))
    check_refused(
        path, tmp_path / "bags", r"episode 0: timestamp: 5 steps per second by its stamps, 30 Hz by its description"
    )


def test_imported_bags_state_the_rate_of_the_dataset(tmp_path: Path) -> None:
    path = dataset(tmp_path / "theirs", STATE, DELTAS)
    task = make_task().model_copy(update={"rates": RatesConfig(control_hz=10)})
    (bag,) = import_dataset(path, tmp_path / "bags", task, NAMES).bags
    assert episode_info(bag).rate_hz == 5.0
