"""Task files: accepted values, and mistakes refused with their path."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from rldg_core.errors import UserError
from rldg_core.task import at_rate, find_task, load_task

TASKS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks"


def raw() -> dict[str, Any]:
    return yaml.safe_load((TASKS / "insertion.yaml").read_text())


def write(tmp_path: Path, data: Any) -> Path:
    path = tmp_path / "task.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


@pytest.mark.parametrize("path", sorted(TASKS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_task_in_the_repository_is_valid(path: Path) -> None:
    task = load_task(path)
    assert task.name == path.stem
    assert task.instruction()


def test_reference_can_name_an_object() -> None:
    task = find_task("insertion:usb_c", [TASKS])
    assert task.default_object == "usb_c"
    assert "Type-C" in task.instruction()
    assert "USB-A" in task.instruction("usb_a")


def test_reference_can_name_another_rate() -> None:
    for name in ("insertion", "insertion:vga", str(TASKS / "insertion.yaml")):
        plain, slow = find_task(name, [TASKS]), find_task(at_rate(name, 4.0), [TASKS])
        assert (slow.rates.control_hz, slow.period_ns) == (4.0, 250_000_000)
        assert slow.model_copy(update={"rates": plain.rates}) == plain, "the action scale is unchanged"
        assert slow.config_hash() != plain.config_hash()
        assert find_task(at_rate(name, 0.0), [TASKS]) == plain
    assert at_rate("insertion@4", 5.0) == "insertion@5"
    assert at_rate("/home/me@lab/task.yaml", 5.0) == "/home/me@lab/task.yaml@5"
    for bad in ("insertion@", "insertion@fast", "insertion@0.5", "insertion@nan"):
        with pytest.raises(UserError, match=rf"task {bad}: control_hz: "):
            find_task(bad, [TASKS])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"speed": 3}, "speed"),
        (
            {"safety_box": {"low": [0, 0, 0.1, 0, 0, 0], "high": [0, 0, 0.05, 0, 0, 0]}},
            "low[2] = 0.1 exceeds high[2] = 0.05",
        ),
        ({"action": {"scale_m": 15.0}}, "action.scale_m"),
        ({"action": {"scale_rad": -0.1}}, "action.scale_rad"),
        ({"reset": {"pose_base_tcp": [0.5, 0, 0.2, 1, 0, 0, 0], "xy_m": 50}}, "reset.xy_m"),
        ({"reset": {"pose_base_tcp": [0.5, 0, 0.2, 1, 1, 0, 0]}}, "reset.pose_base_tcp"),
        ({"target_pose_base_tcp": [0.5, 0, float("nan"), 1, 0, 0, 0]}, "target_pose_base_tcp"),
        ({"episode": {"max_steps": 0}}, "episode.max_steps"),
        ({"default_object": "banana"}, "banana"),
        ({"objects": {"vga": {"instruction": ""}}}, "objects.vga.instruction"),
        ({"cameras": {"wrist": {"topic": "bad topic"}}}, "cameras.wrist.topic"),
        (
            {
                "cameras": {
                    "wrist": {
                        "topic": "a",
                        "width": 64,
                        "height": 64,
                        "crop": {"x": 1, "y": 0, "width": 64, "height": 64},
                    }
                }
            },
            "crop exceeds the 64x64 image",
        ),
        ({"cameras": {"a": {"topic": "c"}, "b": {"topic": "/c"}}}, "cameras: a and b are both topic /c"),
        ({"reward": {"source": "wish"}}, "reward.source"),
        ({"rates": {"control_hz": 0}}, "rates.control_hz"),
    ],
)
def test_mistake_is_refused_with_its_path(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    path = write(tmp_path, {**raw(), **change})
    with pytest.raises(UserError) as caught:
        load_task(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "name: [unclosed\n", "\x00\x01", "a: b: c\n"])
def test_file_that_is_not_a_task_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError) as caught:
        load_task(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_unknown_task_lists_the_available_ones() -> None:
    with pytest.raises(UserError, match=r"unknown task 'dance', expected one of .*insertion.* or a \.yaml file"):
        find_task("dance", [TASKS])
    with pytest.raises(UserError, match="unknown object"):
        find_task("insertion", [TASKS]).object_or_default("banana")
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        find_task("nowhere.yaml", [TASKS])


def test_hash_follows_the_configuration() -> None:
    a, b = find_task("insertion", [TASKS]), find_task("insertion:usb_a", [TASKS])
    assert a.config_hash() == find_task("insertion", [TASKS]).config_hash() != b.config_hash()


def test_action_scaling_inverts() -> None:
    task = find_task("insertion", [TASKS])
    delta = task.action.to_delta_tcp([1, -1, 0.5, 1, 0, -1])
    assert delta[0] == task.action.scale_m
    assert delta[3] == task.action.scale_rad
    assert list(task.action.from_delta_tcp(delta)) == pytest.approx([1, -1, 0.5, 1, 0, -1])
