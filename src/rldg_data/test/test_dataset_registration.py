"""The modules written beside a dataset satisfy OpenVLA's and Octo's loaders, here with stand-ins of their tables.
`make test-compat` runs them with the real loaders."""

from __future__ import annotations

import importlib.util
import sys
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rldg_data.rlds import read_dataset
from rldg_data.rlds.export import export_plan
from rldg_data.rlds.registration import image_views
from rldg_data.testing.exports import plan_of, record

OXE = "prismatic.vla.datasets.rlds.oxe"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registered")
    record(folder / "bags")
    return export_plan(plan_of(folder / "bags"), folder).path


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_standardize(standardize: Any) -> None:
    trajectory = {"action": np.arange(4), "observation": {"state": np.ones((4, 8))}, "language_instruction": ["do"] * 4}
    changed = standardize(trajectory)
    assert changed["action"].tolist() == [0, 1, 2]
    assert changed["observation"]["state"].shape == (3, 8)
    assert changed["language_instruction"] == ["do"] * 3
    assert len(trajectory["action"]) == 4


def test_openvla_module_registers_the_dataset(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs, transforms = ModuleType(f"{OXE}.configs"), ModuleType(f"{OXE}.transforms")
    configs.OXE_DATASET_CONFIGS = {}  # type: ignore[attr-defined]
    configs.ActionEncoding = IntEnum("ActionEncoding", ["EEF_POS"])  # type: ignore[attr-defined]
    configs.StateEncoding = IntEnum("StateEncoding", ["POS_EULER", "POS_QUAT"])  # type: ignore[attr-defined]
    transforms.OXE_STANDARDIZATION_TRANSFORMS = {}  # type: ignore[attr-defined]
    packages = [OXE.rsplit(".", count)[0] for count in range(5)]
    for module in [*map(ModuleType, [*packages, OXE]), configs, transforms]:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    load(dataset / "openvla_register.py")
    entry = configs.OXE_DATASET_CONFIGS["insertion"]
    assert entry["image_obs_keys"] == {"primary": "image", "secondary": None, "wrist": None}
    assert entry["state_obs_keys"] == ["state"]
    assert (entry["state_encoding"].name, entry["action_encoding"].name) == ("POS_QUAT", "EEF_POS")
    check_standardize(transforms.OXE_STANDARDIZATION_TRANSFORMS["insertion"])


def test_octo_module_has_the_loader_arguments(dataset: Path) -> None:
    module = load(dataset / "octo_kwargs.py")
    kwargs = module.DATASET_KWARGS
    assert (kwargs["name"], Path(kwargs["data_dir"])) == ("insertion:1.0.0", dataset.parents[1])
    assert kwargs["image_obs_keys"] == {"primary": "image"}
    assert read_dataset(Path(kwargs["dataset_statistics"]).parent).statistics["action"]["p01"]
    spec = kwargs["standardize_fn"]
    assert (spec["module"], set(spec)) == ("octo_kwargs", {"module", "name", "args", "kwargs"})
    check_standardize(getattr(module, spec["name"]))


def test_several_cameras_are_assigned_to_views() -> None:
    assert image_views(["image", "side", "wrist_image"]) == {
        "primary": "image",
        "secondary": "side",
        "wrist": "wrist_image",
    }
    assert image_views(["image"]) == {"primary": "image", "secondary": None, "wrist": None}
