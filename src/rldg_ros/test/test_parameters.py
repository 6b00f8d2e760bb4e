"""Every parameter of every node is described, checked and read-only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from rldg_core.errors import UserError
from rldg_ros.parameters import check_given_parameters, parameter
from rldg_ros.runner import LAUNCHER_PID, given_files

DOMAIN = 137
SOURCES = Path(__file__).parents[2]


@pytest.fixture
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    yield context
    rclpy.shutdown(context=context)


def make_node(context: Context, **overrides: Any) -> Node:
    given = [Parameter(name, value=value) for name, value in overrides.items()]
    return Node("probe", context=context, parameter_overrides=given, enable_rosout=False)


def test_parameter_is_described_with_its_range_and_read_only(context: Context) -> None:
    node = make_node(context, port=8000, mode="whole", gain=1.0)
    assert parameter(node, "port", 0, "A port.", low=0, high=65535) == 8000
    assert parameter(node, "mode", "newest", "A rule.", choices=("newest", "whole")) == "whole"
    assert parameter(node, "gain", 0.5, "A gain.", low=0.0) == 1.0
    port, mode, gain = node.describe_parameters(["port", "mode", "gain"])
    assert port.description == "A port."
    assert (port.integer_range[0].from_value, port.integer_range[0].to_value) == (0, 65535)
    assert mode.additional_constraints == "one of: newest, whole"
    assert gain.floating_point_range[0].from_value == 0.0
    for name, value in {"port": 8001, "mode": "newest", "gain": 0.9}.items():
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert not result.successful and "read-only" in result.reason
    assert node.get_parameter("port").value == 8000
    node.destroy_node()


@pytest.mark.parametrize(
    ("default", "value", "limits", "message"),
    [
        (0, 65536, {"low": 0, "high": 65535}, "parameter x: expected 0 to 65535, got 65536"),
        (0, -1, {"low": 0}, "parameter x: expected 0 or more, got -1"),
        (1.0, 2.5, {"high": 2.0}, "parameter x: expected 2.0 or less, got 2.5"),
        (1.0, float("nan"), {}, "parameter x: expected a finite number, got nan"),
        (1.0, float("inf"), {"low": 0.0}, "parameter x: expected a finite number, got inf"),
        ([1.0], [0.0, float("-inf")], {}, "parameter x: expected a finite number, got -inf"),
        ([0, 1], [0, 6], {"low": 0, "high": 5}, "parameter x: expected 0 to 5, got 6"),
        ("a", "c", {"choices": ("a", "b")}, "parameter x: expected a or b, got 'c'"),
        ("a", "", {"choices": ("a", "b", "d")}, "parameter x: expected a, b or d, got ''"),
        (1.0, 2, {}, "parameter x: .*'2' of type 'INTEGER', expecting type 'DOUBLE'.*; write it like 1.0"),
        (1, "one", {}, "parameter x: .*expecting type 'INTEGER'.*; write it like 1"),
        ([""], "one", {}, r"parameter x: .*; write it like \[''\]"),
        (1, None, {}, "parameter x: is empty, expected a value like 1"),
    ],
)
def test_bad_value_is_refused(context: Context, default: Any, value: Any, limits: dict[str, Any], message: str) -> None:
    node = make_node(context, x=value)
    with pytest.raises(UserError, match=f"^{message}") as refused:
        parameter(node, "x", default, "Something.", **limits)
    assert "\n" not in str(refused.value)
    node.destroy_node()


def calls(name: str) -> list[tuple[Path, ast.Call]]:
    """Return the calls of a function or method of this name in all packages."""
    found = []
    for path in sorted(SOURCES.glob("rldg_*/rldg_*/**/*.py")):
        text = path.read_text()
        for item in ast.walk(ast.parse(text)) if f"{name}(" in text else ():
            if isinstance(item, ast.Call) and getattr(item.func, "id", getattr(item.func, "attr", "")) == name:
                found.append((path, item))
    return found


def test_every_declared_parameter_has_a_description() -> None:
    for name in ("declare_parameter", "declare_parameters"):
        elsewhere = [path for path, _ in calls(name) if path.name != "parameters.py"]
        assert not elsewhere, "declare parameters with rldg_ros.parameters.parameter"
    declared = calls("parameter")
    assert len(declared) > 60
    for path, call in declared:
        described = len(call.args) >= 4 or any(k.arg is None for k in call.keywords)
        assert described, f"{path}:{call.lineno}: no description"
        if len(call.args) >= 4 and isinstance(call.args[3], ast.Constant):
            assert str(call.args[3].value).endswith("."), f"{path}:{call.lineno}"


@pytest.mark.parametrize(
    ("key", "name", "refused"),
    [
        ("/**", "open_widht_m", "/**: node probe has no parameter 'open_widht_m', expected open_width_m"),
        ("probe", "other", "/probe: node probe has no parameter 'other', expected gain, "),
        ("/**", "other", None),
        ("/elsewhere", "open_widht_m", None),
        ("probe", "gain", None),
        ("probe", "use_sim_time", None),
        ("probe", "qos_overrides./topic.publisher.depth", None),
    ],
)
def test_parameter_file_names_only_what_the_node_declares(
    context: Context, tmp_path: Path, key: str, name: str, refused: str | None
) -> None:
    file = tmp_path / "mine.yaml"
    value = "false" if name == "use_sim_time" else 1.0
    file.write_text(f'"{key}": {{ros__parameters: {{"{name}": {value}}}}}')
    arguments = ["--ros-args", "--params-file", str(file)]
    node = Node("probe", context=context, cli_args=arguments, enable_rosout=False)
    parameter(node, "gain", 0.5, "A gain.")
    parameter(node, "open_width_m", 0.5, "A width.")
    try:
        if refused is None:
            check_given_parameters(node, [file])
            return
        with pytest.raises(UserError) as caught:
            check_given_parameters(node, [file])
        assert str(caught.value).startswith(f"{file}: {refused}")
    finally:
        node.destroy_node()


def test_parameter_file_that_the_launcher_wrote_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["gate", "--ros-args", "--params-file", "/a.yaml", "--params-file", "/b.yaml", "--log-level", "info"]
    monkeypatch.delenv(LAUNCHER_PID, raising=False)
    assert given_files(arguments) == [Path("/a.yaml"), Path("/b.yaml")]
    monkeypatch.setenv(LAUNCHER_PID, "1")
    assert given_files(arguments) == [Path("/b.yaml")]
