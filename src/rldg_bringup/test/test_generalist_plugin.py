"""A generalist from another distribution is trained, adopted and served without changes to this repository."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from generalist_samples import INSTRUCTION, insertion_dataset, picture
from typer.testing import CliRunner

from rldg_bringup.cli_finetune import finetune_app
from rldg_core.errors import UserError
from rldg_core.registry import backends
from rldg_core.task import load_task
from rldg_core.types import Observation
from rldg_policy.generalist import find_generalist, generalist_names, title_of
from rldg_policy.serving.records import Episode, Settings
from rldg_policy.serving.server import PolicyServer
from rldg_policy.serving.store import load_policy

ROOT = Path(__file__).parents[3]
TASK_FILE = ROOT / "src/rldg_bringup/config/tasks/insertion.yaml"

DECLARATION = '''
"""Predicts the mean action of its dataset, `its_option` times per inference."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from rldg_policy.generalist import Generalist


class Scale(BaseModel):
    factor: Annotated[float, Field(gt=0, le=1, description="Scale of the actions.")] = 1.0
    not_an_option: int = 7


class MineConfig(BaseModel):
    its_option: Annotated[int, Field(ge=1, le=8, description="Actions per chunk.")] = 2
    kind: Annotated[Literal["mean", "min"], Field(description="Which action.")] = "mean"
    loud: Annotated[bool, Field(description="Report progress.")] = True
    names: Annotated[tuple[str, ...], Field(description="Any names.")] = ()
    scale: Scale = Scale()


MINE = Generalist(
    title="my generalist",
    help="Learn the mean action.",
    config=MineConfig,
    finetune="mine.train:finetune",
    training_state=("mine.json",),
)
'''
TRAIN = """
import json
from dataclasses import dataclass

import numpy as np

from rldg_core.files import write_json, writing_aside
from rldg_policy.checkpoint.manifest import write_manifest
from rldg_policy.checkpoint.statistics import STATISTICS_FILE
from rldg_policy.training.dataset import open_training_set
from rldg_policy.training.run import check_out


@dataclass(frozen=True)
class Result:
    checkpoint: str
    losses: tuple[float, ...]


def finetune(dataset, out, config, *, base=None, seed=0, resume=False, progress=None, camera=None):
    check_out(out, "mine", resume=resume)
    data = open_training_set(dataset, camera)
    action = getattr(data.actions, config.kind) * config.scale.factor
    if config.loud:
        progress(1, 1)
    manifest = data.manifest("mine", 1, image_size=data.image_size, window=1, horizon=config.its_option)
    with writing_aside(out) as aside:
        aside.mkdir()
        write_json(aside / "weights.json", action.tolist())
        write_json(aside / "config.json", config.model_dump(mode="json"))
        (aside / STATISTICS_FILE).write_bytes(data.statistics_json)
        write_manifest(aside, manifest)
    return Result(str(out), (1.0, 0.5))
"""
POLICY = """
import numpy as np

from rldg_core.files import read_json
from rldg_core.policy import PolicySpec
from rldg_policy.checkpoint.manifest import check_backend, check_task, read_manifest
from rldg_policy.checkpoint.statistics import to_unit_actions


class MinePolicy:
    def __init__(self, path, task, explore=False):
        manifest = read_manifest(path)
        check_backend(path, manifest, "mine")
        check_task(path, manifest, task)
        self.spec = PolicySpec(
            (manifest.camera,), manifest.image_size, 1, task.action.dim, manifest.horizon,
            manifest.inferences_hz(task), manifest.statistics_key, manifest.version, manifest.control_rates_hz,
        )
        action = np.array(read_json(path / "weights.json"), dtype=np.float32)
        self.chunk = to_unit_actions(np.tile(action, (manifest.horizon, 1)), task, task.action.dim)

    def warm_up(self): ...
    def reset(self, instruction, seed): ...
    def act(self, observation): return self.chunk
    def close(self): ...
"""
ENTRY_POINTS = """[rldg.generalists]
mine = mine.generalist:MINE
broken = mine.nowhere:NOTHING
wrong = mine.policy:MinePolicy

[rldg.policies]
mine = mine.policy:MinePolicy
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as pip installs it: the package `mine` and its metadata."""
    site = tmp_path_factory.mktemp("site")
    files = {"__init__.py": "", "generalist.py": DECLARATION, "train.py": TRAIN, "policy.py": POLICY}
    (site / "mine").mkdir()
    for name, text in files.items():
        (site / "mine" / name).write_text(text)
    (site / "mine-1.0.dist-info").mkdir()
    (site / "mine-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (site / "mine-1.0.dist-info/entry_points.txt").write_text(ENTRY_POINTS)
    return site


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return insertion_dataset(tmp_path_factory.mktemp("data"), episodes=2, transitions=4, size=256)


def rldg(app: typer.Typer, *arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_command_line_trains_the_plugin(site, dataset, tmp_path):
    """Run the installed command with the package on the path."""
    environment = os.environ | {"PYTHONPATH": f"{site}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", "from rldg_bringup.cli import main; main()", "finetune", "mine", str(dataset)]
    options = ["--out", str(tmp_path / "out"), "--its-option", "3", "--factor", "0.5", "--json"]
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"checkpoint": str(tmp_path / "out"), "losses": [1.0, 0.5]}
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["its_option"], config["scale"]) == (3, {"factor": 0.5, "not_an_option": 7})


def test_options_come_from_the_configuration_of_the_plugin(installed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    printed = rldg(finetune_app(), "mine", "--help")
    for words in ("--its-option", "1<=x<=8", "Actions per chunk.", "default: 2", "mean|min", "--no-loud", "--factor"):
        assert words in printed
    assert "--base" not in printed and "not-an-option" not in printed


def test_plugin_is_listed_loaded_and_served(installed, dataset, tmp_path):
    assert "mine" in generalist_names() and "mine" in backends() and title_of("mine") == "my generalist"
    out = tmp_path / "out"
    rldg(finetune_app(), "mine", dataset, "--out", out, "--its-option", 3, "--names", "a", "--names", "b")
    task = load_task(TASK_FILE)
    server = PolicyServer(Settings(task, pace="lock_step"))
    server.add(load_policy("x", "mine", str(out), False, task), activate=True)
    assert [(loaded.policy_id, loaded.backend) for loaded in server.store.all()] == [("x", "mine")]
    server.start(Episode("e", INSTRUCTION, 0, 100, 0))
    still = np.zeros(6)
    seen = Observation(100, {"wrist": picture(3, 4, 256, 0)}, np.ones(7), still, still, np.zeros(7), 0.02)
    server.observe(seen, 0.0)
    action = server.next_action(100)
    assert action is not None and action.policy_id == "x" and action.version == 1
    statistics = json.loads((out / "dataset_statistics.json").read_text())["made_up"]["action"]
    np.testing.assert_allclose(action.values[:3] * task.action.scale_m, statistics["mean"][:3], rtol=1e-5)
    server.store.close()


def test_other_generalists_recognise_its_folders(installed, dataset, tmp_path):
    """Its checkpoint is refused as a base of others, and its unfinished training is not replaced."""
    app, base, out = finetune_app(), tmp_path / "base", tmp_path / "out"
    rldg(app, "mine", dataset, "--out", base)
    with pytest.raises(UserError, match="base: a checkpoint of my generalist: `rldg finetune mine` takes no base"):
        rldg(app, "octo", dataset, "--base", base, "--out", out)
    (out / ".training").mkdir(parents=True)
    (out / ".training/mine.json").write_text("{}")
    with pytest.raises(UserError, match="an unfinished training of my generalist: continue with `rldg finetune mine"):
        rldg(app, "compact", dataset, "--out", out, "--resume")


def test_checkpoint_of_an_uninstalled_generalist_is_named(site, dataset, tmp_path, monkeypatch):
    with monkeypatch.context() as present:
        present.syspath_prepend(str(site))
        importlib.invalidate_caches()
        rldg(finetune_app(), "mine", dataset, "--out", tmp_path / "base")
    importlib.invalidate_caches()
    with pytest.raises(UserError, match="base: a checkpoint of 'mine', which is not installed"):
        rldg(finetune_app(), "octo", dataset, "--base", tmp_path / "base", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken", r"generalist 'broken' \(mine\.nowhere:NOTHING\) cannot be imported: ModuleNotFoundError"),
        ("wrong", r"generalist 'wrong' \(mine\.policy:MinePolicy\): expected a Generalist, found type"),
    ],
)
def test_broken_package_affects_only_its_own_command(installed, name, reason):
    app = finetune_app()
    assert "Learn the mean action." in rldg(app, "--help")
    with pytest.raises(UserError, match=reason):
        rldg(app, name)
    with pytest.raises(UserError, match=reason):
        find_generalist(name)
    with pytest.raises(UserError, match=r"unknown generalist 'nobody', expected one of .*compact, mine, octo"):
        find_generalist("nobody")


def test_two_packages_of_the_same_name_affect_only_that_command(installed, tmp_path, monkeypatch):
    other = tmp_path / "site"
    (other / "other_lab-1.0.dist-info").mkdir(parents=True)
    (other / "other_lab-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: other-lab\nVersion: 1.0\n")
    (other / "other_lab-1.0.dist-info/entry_points.txt").write_text("[rldg.generalists]\nmine = other:MINE\n")
    monkeypatch.syspath_prepend(str(other))
    importlib.invalidate_caches()
    app = finetune_app()
    assert "compact" in rldg(app, "--help")
    with pytest.raises(
        UserError, match=r"generalist 'mine': registered by mine \(mine\.generalist:MINE\) and other-lab"
    ):
        rldg(app, "mine")


@pytest.mark.parametrize(
    ("its_options", "reason"),
    [
        (("--its-option", "9"), "option --its-option: expected 1 to 8, got '9'"),
        (("--its-option", "0"), "option --its-option: expected 1 to 8, got '0'"),
        (("--its-option", "1e400"), "option --its-option: Input should be a valid integer, .*, got '1e400'"),
        (("--kind", "max"), "option --kind: 'max' is not one of 'mean', 'min'"),
        (("--factor", "0"), "finetune mine: option --factor: Input should be greater than 0, got 0.0"),
        (("--factor", "nan"), "option --factor: expected 0 to 1, got 'nan'"),
        (("--factor", "2"), "option --factor: expected 0 to 1, got '2'"),
    ],
)
def test_refused_option_value_is_reported_with_the_option(installed, dataset, tmp_path, its_options, reason):
    arguments = ["mine", str(dataset), "--out", str(tmp_path / "out"), *its_options]
    with pytest.raises(UserError, match=f"^{reason}") as caught:
        rldg(finetune_app(), *arguments)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
