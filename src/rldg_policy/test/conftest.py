"""Fixtures of rldg_policy's tests, and the path to their sample modules.

pytest's importlib mode does not put the test folder on the path.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from rldg_core.image_codec import encode_jpeg
from rldg_core.task import Task, load_task
from rldg_core.types import Observation

sys.path.insert(0, str(Path(__file__).parent))

TASK_FILE = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks" / "insertion.yaml"
STATISTICS = {
    "action": {
        "q01": [-0.01] * 3 + [-0.05] * 3 + [0.0],
        "q99": [0.012] * 3 + [0.05] * 3 + [0.0],
        "mask": [True] * 6 + [False],
    }
}


@pytest.fixture(scope="session")
def openvla_golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the tiny OpenVLA of the golden references, whose outputs the original classes gave; read only."""
    from golden_references import write_openvla

    folder = tmp_path_factory.mktemp("golden") / "openvla"
    write_openvla(folder)
    return folder


@pytest.fixture(scope="session")
def octo_golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the tiny Octo of the golden references, whose outputs the original classes gave; read only."""
    from golden_references import write_octo

    folder = tmp_path_factory.mktemp("golden") / "octo"
    write_octo(folder)
    return folder


@pytest.fixture
def task() -> Task:
    return load_task(TASK_FILE)


@pytest.fixture
def observe(task: Task):
    """Return a function: stamp_ns, offset from the reset pose -> Observation with a grey wrist image."""
    image = encode_jpeg(np.full((256, 256, 3), 90, dtype=np.uint8))

    def make(stamp_ns: int = 0, offset=(0.0, 0.0, 0.0), force_n: float = 0.0) -> Observation:
        pose = np.array(task.reset.pose_base_tcp)
        pose[:3] += offset
        wrench = np.array([0.0, 0.0, force_n, 0.0, 0.0, 0.0])
        return Observation(stamp_ns, {"wrist": image}, pose, np.zeros(6), wrench, np.zeros(7), 0.02)

    return make


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Write a compact checkpoint with random weights."""
    from rldg_core.files import sha256_hex
    from rldg_policy.checkpoint.manifest import Manifest
    from rldg_policy.compact.checkpoint import write_checkpoint
    from rldg_policy.compact.config import ModelConfig
    from rldg_policy.compact.model import random_model

    path = tmp_path / "compact"
    statistics = json.dumps({"toy": STATISTICS}).encode()
    manifest = Manifest(
        backend="compact",
        tasks=("insertion",),
        image_size=256,
        window=1,
        horizon=4,
        rate_hz=10.0,
        statistics_key="toy",
        statistics_sha256=sha256_hex(statistics),
        version=7,
    )
    write_checkpoint(path, random_model(ModelConfig(), 0), statistics, manifest, {"steps": 7})
    return path
