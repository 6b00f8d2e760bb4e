"""One export per session, made by a process in .venv, and what our own reader returns for it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


@dataclass(frozen=True)
class Made:
    """path: <root>/<name>/<version>; expected: split -> one mapping of arrays per episode, as dump.py writes them."""

    path: Path
    expected: dict[str, list[dict[str, np.ndarray]]]
    image_px: dict[str, int]
    dump: Path

    @property
    def statistics(self) -> Any:
        return json.loads((self.path / "dataset_statistics.json").read_text())


def run_in_venv(*arguments: object) -> None:
    """Run a script of this folder in .venv."""
    command = f"source {ROOT}/scripts/env.sh && exec python"
    subprocess.run(["bash", "-c", command + ' "$@"', "bash", *map(str, arguments)], check=True, cwd=ROOT)


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compat")
    run_in_venv(HERE / "make_dataset.py", folder)
    return folder


@pytest.fixture(scope="session", params=["two_cameras/1.0.0", "resized/2.1.0"])
def made(request: pytest.FixtureRequest, out: Path) -> Made:
    path = out / "data" / request.param
    dump = out / "dump" / path.parent.name
    run_in_venv(HERE / "dump.py", path, dump)
    sizes = {"image": 64, "image_side": 96} if path.parent.name == "two_cameras" else {"image": 56}
    return Made(path, load_dump(dump), sizes, dump)


def load_dump(folder: Path) -> dict[str, list[dict[str, np.ndarray]]]:
    """Return split -> arrays of every episode."""
    expected: dict[str, list[dict[str, np.ndarray]]] = {}
    for file in sorted(folder.iterdir()):
        with np.load(file) as arrays:
            expected.setdefault(file.name.split("_")[0], []).append(dict(arrays))
    return expected
