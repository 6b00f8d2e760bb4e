"""Rules for all tests: examples that repeat, `dds` and its rerun, order of files, caches, no shared memory."""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import pytest
import rclpy
from hypothesis import settings
from rclpy.context import Context
from rclpy.node import Node

from rldg_core.network import PROFILE, PROFILE_VARIABLE, RANGE_VARIABLE

# The same examples in every run, so that a failure repeats. HYPOTHESIS_PROFILE=default draws new ones each time.
settings.register_profile("repeats", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeats"))

FIRST_DOMAIN = 231
"""ROS domain of the participant with which each test process reads its Fast DDS profile."""

LONGEST_FIRST = (
    "test_demo_quick",
    "test_resume",
    "test_client_handshake",
    "test_up",
    "test_rlds_export",
    "test_episode_node",
    "test_policy_node",
    "test_octo_train",
    "test_bag_count",
    "test_recorder_node",
    "test_gate_node",
    "test_learner_node",
    "test_bag_commands",
    "test_killed_gate",
    "test_openvla_train",
    "test_interventions",
)
"""Files that take longest. They start first: few processes share the files, and a long one would end alone."""


def pytest_configure(config: pytest.Config) -> None:
    """Make starts of processes and of JAX programs cheap, by variables that nodes and workers of pytest-xdist inherit.

    Nodes start more than two hundred times: they keep bytecode. JAX programs run for milliseconds and compile for
    seconds: all processes share one cache, which is empty at first, and XLA optimises little. Variables that are
    already set win.
    """
    if hasattr(config, "workerinput"):
        return
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")  # as nodes have it
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = TemporaryDirectory(prefix="rldg_jax_")
        config.add_cleanup(folder.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files, and mark every test of a file that states a DOMAIN as `dds`, with one rerun.

    Two processes that miss each other at discovery are not a defect of the code. All other tests must pass at once.
    """
    rank = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item.module, "DOMAIN"):
            item.add_marker(pytest.mark.dds)
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session", autouse=True)
def _no_shared_memory_in_this_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give participants of the test process UDP alone; the nodes that tests start have what users have.

    Many tests kill nodes. Fast DDS shares memory and locks with them, and a lock that a killed process held, or whose
    memory it left half written, takes other processes along (eProsima/Fast-DDS issue 6501): a worker of pytest-xdist
    ended with a segmentation fault. Fast DDS reads its profile once per process, when the first participant is made.
    """
    udp = tmp_path_factory.mktemp("dds") / "udp.xml"
    udp.write_text(without_shared_memory(PROFILE.read_text()))
    context = Context()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PROFILE_VARIABLE, str(udp))
        patch.setenv(RANGE_VARIABLE, "SYSTEM_DEFAULT")
        rclpy.init(context=context, domain_id=FIRST_DOMAIN)
        Node("profile", context=context, use_global_arguments=False).destroy_node()
    context.try_shutdown()


def without_shared_memory(profile: str) -> str:
    """Return the Fast DDS profile without its shared-memory transport."""
    root = ElementTree.fromstring(profile)
    prefix = root.tag.removesuffix("dds")
    ElementTree.register_namespace("", prefix.strip("{}"))
    for parent in list(root.iter()):
        for child in list(parent):
            named = child.findtext(f"{prefix}transport_id") if child.tag.endswith("_descriptor") else child.text
            if named == "rldg_shared_memory":
                parent.remove(child)
    return ElementTree.tostring(root, encoding="unicode")
