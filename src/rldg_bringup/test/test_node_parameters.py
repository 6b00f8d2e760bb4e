"""`ros2 param describe` and `set` on every node of the stacks, through their services, and its name on /diagnostics."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from time import monotonic

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import ParameterType
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter

from rldg_ros.reporting import Reporter

DOMAIN = 138
PACKAGES = ("rldg_control", "rldg_data", "rldg_policy", "rldg_rl", "rldg_sim")
NEEDS = {"recorder": ["-p", "bag_dir:={tmp}/bags"]}
SLOW = ("learner", "reward")
"""Compile a network at the start; their declarations are read in rldg_ros/test/test_parameters.py,
their reports in rldg_rl/test/test_learner_node.py and test_reward_node.py."""
TYPES_WITH_RANGE = (ParameterType.PARAMETER_INTEGER, ParameterType.PARAMETER_INTEGER_ARRAY)
ROS_OWN = {"use_sim_time", "start_type_description_service"}


def executables() -> list[tuple[str, str]]:
    """Return name and module of every node executable of the workspace."""
    found = []
    for package in PACKAGES:
        for script in distribution(package).entry_points.select(group="console_scripts"):
            if ".nodes." in script.value and script.name not in SLOW:
                found.append((script.name, script.value.split(":")[0]))
    return found


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    yield
    rclpy.try_shutdown()


@pytest.mark.parametrize(("name", "module"), executables(), ids=lambda value: str(value).rpartition(".")[2])
def test_every_parameter_is_described_and_read_only_and_the_node_reports(
    name: str, module: str, domain: None, tmp_path: Path
) -> None:
    arguments = [argument.format(tmp=tmp_path) for argument in NEEDS.get(name, [])]
    rclpy.init(args=["--ros-args", *arguments] if arguments else None)
    loaded = importlib.import_module(module)
    (make,) = [
        item
        for _, item in inspect.getmembers(loaded, inspect.isclass)
        if issubclass(item, Node) and item.__module__ == module
    ]
    node = make()
    try:
        names = [n for n in node.list_parameters([], 0).names if n not in ROS_OWN and not n.startswith("qos_")]
        assert names[:3] == (["task", "task_dirs", "lockstep"] if name != "exporter" else [])
        for descriptor in node.describe_parameters(names):
            assert descriptor.description.endswith("."), descriptor.name
            assert descriptor.read_only, descriptor.name
            if descriptor.type in TYPES_WITH_RANGE:
                assert descriptor.integer_range, f"{descriptor.name}: an integer without a range"
            same = Parameter(descriptor.name, value=node.get_parameter(descriptor.name).value)
            (result,) = node.set_parameters([same])
            assert not result.successful, descriptor.name
        assert_reports(node)
    finally:
        node.destroy_node()


def assert_reports(node: Node) -> None:
    """The node's one Reporter names it on /diagnostics; called here, since the first report comes after 1 s."""
    if isinstance(node, LifecycleNode) and not list(node.timers):
        node.trigger_configure()
    callbacks = [timer.callback for timer in node.timers]
    (report,) = [callback for callback in callbacks if isinstance(getattr(callback, "__self__", None), Reporter)]
    heard: list[str] = []
    listener = rclpy.create_node("listener")
    listener.create_subscription(DiagnosticArray, "/diagnostics", lambda m: heard.extend(s.name for s in m.status), 10)
    deadline_s = monotonic() + 20.0
    while not heard:
        assert monotonic() < deadline_s
        report()
        rclpy.spin_once(listener, timeout_sec=0.05)
    listener.destroy_node()
    assert set(heard) == {node.get_fully_qualified_name()}


def test_all_nodes_were_found() -> None:
    expected = {"cell", "episode", "gate", "gripper", "observer", "operator", "policy", "recorder", "teleop"}
    assert expected <= {name for name, _ in executables()}
