"""Every node refuses a malformed task file with one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

DOMAIN = 39


@pytest.mark.parametrize("node", ["observer", "gate", "teleop", "gripper", "episode"])
def test_malformed_task_is_refused(make_rig: Callable[..., Any], node: str) -> None:
    rig = make_rig(DOMAIN)
    rig.task.write_text("name: x\ndefault_object: [\n")
    process = rig.start(node)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 2
    assert len(output.strip().splitlines()) == 1
    assert "bench.yaml: line 3: not valid YAML" in output
