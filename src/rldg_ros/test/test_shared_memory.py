"""Participants of a test process share no memory with the nodes that tests kill (conftest.py of the repository)."""

from __future__ import annotations

from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.node import Node

DOMAIN = 230


def test_participant_of_a_test_process_maps_no_shared_memory_of_dds() -> None:
    context = Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    node = Node("probe", context=context, use_global_arguments=False)
    try:
        mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if "/dev/shm/fast" in line]
        assert mapped == []
    finally:
        node.destroy_node()
        context.try_shutdown()
