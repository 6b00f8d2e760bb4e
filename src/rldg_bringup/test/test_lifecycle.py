"""Lifecycle nodes with an external manager: clean-up undoes the configuration, reports included."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import rclpy
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from rldg_control.nodes.gate import GateNode
from rldg_policy.nodes.policy import PolicyNode
from rldg_ros.reporting import Reporter

DOMAIN = 139
SUCCESS = TransitionCallbackReturn.SUCCESS


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    rclpy.init(args=["--ros-args", "-p", "autostart:=false"])
    yield
    rclpy.try_shutdown()


def entities(node: LifecycleNode) -> list[str]:
    named = [*node.subscriptions, *node.publishers]
    return sorted(
        [*(e.topic_name for e in named), *(s.srv_name for s in node.services), *("timer" for _ in node.timers)]
    )


def reporters(node: LifecycleNode) -> list[Reporter]:
    owners = (getattr(timer.callback, "__self__", None) for timer in node.timers)
    return [owner for owner in owners if isinstance(owner, Reporter)]


@pytest.mark.parametrize("make", [GateNode, PolicyNode])
def test_clean_up_undoes_the_configuration(make: Callable[[], LifecycleNode], domain: None) -> None:
    node = make()
    before = entities(node)
    for _ in range(2):
        assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
        (reporter,) = reporters(node)
        reporter.publish()
        assert node.trigger_deactivate() == SUCCESS
        assert node._report().message == "inactive"
        assert node.trigger_cleanup() == SUCCESS
        assert entities(node) == before
    node.destroy_node()
