"""Rules for all tests: examples that repeat, the marker `dds` and its rerun, order of files, one compilation cache."""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

# The same examples in every run, so that a failure repeats. HYPOTHESIS_PROFILE=default draws new ones each time.
settings.register_profile("repeats", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeats"))

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
