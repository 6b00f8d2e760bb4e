"""Test files run side by side, each in its own ROS domains: a number used by two files would connect them.

A file that joins a domain states it as DOMAIN, which makes its tests `dds` (conftest.py).
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LARGEST = 232
WITHOUT_DDS = {"test_doctor.py"}
"""Files that name a domain and start no node."""


def files() -> list[Path]:
    return [*ROOT.glob("src/*/test/*.py"), *ROOT.glob("tests/*.py")]


def number(node: ast.expr, names: dict[str, int]) -> int | None:
    """Return the value of an integer, a string of digits, a name of one, or such a name plus an integer."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | str) and str(node.value).isdecimal():
        return int(node.value)
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = number(node.left, names), number(node.right, names)
        return parts[0] + parts[1] if parts[0] is not None and parts[1] is not None else None
    return None


def domains(path: Path) -> set[int]:
    """Return the ROS domains that a test file names: *DOMAIN* constants, ROS_DOMAIN_ID in an environment, rigs,
    rclpy.init."""
    names: dict[str, int] = {}
    found: set[int | None] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if "DOMAIN" in name:
                if (own := number(value, names)) is not None:
                    names[name] = own
                    found.add(own)
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "ROS_DOMAIN_ID":
                        found.add(number(value, names))
            case ast.Call(func=ast.Name(id="make_rig" | "Rig"), args=[first, *_]):
                found.add(number(first, names))
            case ast.Call(func=ast.Name(id="ros2_launch"), args=[_, second, *_]):
                found.add(number(second, names))
            case ast.Call(func=ast.Attribute(attr="setenv"), args=[ast.Constant(value="ROS_DOMAIN_ID"), value, *_]):
                found.add(number(value, names))
            case ast.keyword(arg="domain_id", value=value):
                found.add(number(value, names))
    return {one for one in found if one is not None and one <= LARGEST}


def test_no_domain_is_used_by_two_files() -> None:
    users = defaultdict(set)
    for path in files():
        for one in domains(path):
            users[one].add(path.name)
    shared = {one: sorted(names) for one, names in users.items() if len(names) > 1}
    assert len(users) > 30, "the search finds almost no domain: has the way to name one changed?"
    # 232 is the largest accepted domain; its test starts no node.
    assert not {one: names for one, names in shared.items() if one != LARGEST}


def states_domain(path: Path) -> bool:
    return any(
        isinstance(node, ast.Assign)
        and any(isinstance(name, ast.Name) and name.id == "DOMAIN" for name in node.targets)
        for node in ast.parse(path.read_text()).body
    )


def test_file_that_joins_a_domain_states_it() -> None:
    silent = {path.name for path in files() if domains(path) and not states_domain(path)}
    assert silent == WITHOUT_DDS


def test_only_tests_of_a_file_with_a_domain_are_dds(request: pytest.FixtureRequest) -> None:
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    assert request.node in items and request.node.get_closest_marker("dds") is None
    for item in items:
        reruns = item.get_closest_marker("flaky")
        assert (reruns is not None) == (item.get_closest_marker("dds") is not None) == hasattr(item.module, "DOMAIN")
        assert reruns is None or reruns.kwargs == {"reruns": 1}


def test_files_that_start_first_exist(request: pytest.FixtureRequest) -> None:
    shared = request.config.pluginmanager.getplugin(str(ROOT / "conftest.py"))
    assert set(shared.LONGEST_FIRST) <= {path.stem for path in files()}
