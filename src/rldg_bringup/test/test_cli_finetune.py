"""`rldg finetune`: options set the configuration of the training, and no existing folder is replaced."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generalist_samples import INSTRUCTION, insertion_dataset, picture
from typer.testing import CliRunner

from rldg_bringup.cli import app
from rldg_core.errors import UserError
from rldg_core.registry import load_policy
from rldg_core.task import load_task
from rldg_core.types import Observation
from rldg_policy.compact.config import TrainConfig
from rldg_policy.octo.config import OctoTrainConfig
from rldg_policy.openvla.config import OpenVLATrainConfig

TASK_FILE = Path(__file__).parents[1] / "config" / "tasks" / "insertion.yaml"


@dataclass(frozen=True)
class Result:
    """Short form of the result of a training."""

    steps: int
    losses: tuple[float, ...]
    checkpoint: Path


class Trainings:
    """Replace the `finetune` of every back-end and store its arguments."""

    def __init__(self) -> None:
        self.config: Any = None
        self.more: dict[str, Any] = {}

    def __call__(self, dataset: Path, out: Path, config: Any, **more: Any) -> Result:
        self.config, self.more = config, {"dataset": dataset, "out": out, **more}
        more["progress"](1, config.steps)
        return Result(config.steps, (2.0, 1.5, 0.25), out)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    called = Trainings()
    for name in ("compact", "openvla", "octo"):
        monkeypatch.setattr(import_module(f"rldg_policy.{name}.train"), "finetune", called)
    return called


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Folder with a dataset, a base checkpoint per back-end, and the checkpoint to write."""
    (tmp_path / "data").mkdir()
    configs = {"openvla": {"model_type": "openvla"}, "octo": {"model": {"observation_tokenizers": {}}}}
    for name, config in configs.items():
        (tmp_path / "bases" / name).mkdir(parents=True)
        (tmp_path / "bases" / name / "config.json").write_text(json.dumps(config))
    return tmp_path / "data", tmp_path / "bases", tmp_path / "out"


def rldg(*arguments: object) -> str:
    """Return the standard output of the command. Exceptions pass through."""
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_defaults_are_those_of_the_training(trainings, folders):
    data, bases, out = folders
    rldg("finetune", "compact", data, "--out", out)
    assert trainings.config == TrainConfig() and trainings.more["seed"] == 0
    rldg("finetune", "openvla", data, "--out", out, "--base", bases / "openvla")
    assert trainings.config == OpenVLATrainConfig() and trainings.more["base"] == bases / "openvla"
    rldg("finetune", "octo", data, "--out", out, "--base", bases / "octo")
    assert trainings.config == OctoTrainConfig() and trainings.more["resume"] is False
    assert (trainings.more["dataset"], trainings.more["out"]) == (data, out)


def test_options_reach_compact(trainings, folders):
    data, _, out = folders
    options = (
        "--head diffusion --horizon 2 --window 2 --steps 7 --batch 3 --learning-rate 1e-4 --shuffle-buffer 50 "
        "--save-every 2 --mirror 0.5"
    )
    rldg("finetune", "compact", data, "--out", out, *options.split())
    model = {"head": "diffusion", "horizon": 2, "window": 2}
    assert trainings.config == TrainConfig.model_validate(
        {
            "steps": 7, "batch": 3, "learning_rate": 1e-4, "mirror": 0.5, "shuffle_buffer": 50, "save_every": 2,
            "model": model,
        }
    )  # fmt: skip


def test_options_reach_openvla(trainings, folders):
    data, bases, out = folders
    options = (
        "--steps 7 --batch 1 --accumulation 2 --learning-rate 1e-4 --rank 8 --alpha 4 --decoding parallel --head l1 "
        "--horizon 8 --precision fp32 --no-gradient-checkpointing --no-augment --shuffle-buffer 50 --save-every 3"
    )
    rldg("finetune", "openvla", data, "--out", out, "--base", bases / "openvla", "--seed", 5, *options.split())
    assert trainings.config == OpenVLATrainConfig(
        steps=7, batch=1, accumulation=2, learning_rate=1e-4, rank=8, alpha=4, decoding="parallel", head="l1",
        horizon=8, precision="fp32", gradient_checkpointing=False, augment=False, shuffle_buffer=50, save_every=3,
    )  # fmt: skip
    assert trainings.more["seed"] == 5


def test_options_reach_octo(trainings, folders):
    data, bases, out = folders
    (out / ".training").mkdir(parents=True)
    options = (
        "--steps 70 --batch 8 --learning-rate 1e-4 --warmup-steps 3 --mode head_only --freeze *.stem.* --freeze x "
        "--window 2 --shuffle-buffer 50 --save-every 3 --resume"
    )
    rldg("finetune", "octo", data, "--out", out, "--base", bases / "octo", *options.split())
    assert trainings.config == OctoTrainConfig(
        steps=70, batch=8, learning_rate=1e-4, warmup_steps=3, mode="head_only", frozen=("*.stem.*", "x"),
        window=2, shuffle_buffer=50, save_every=3,
    )  # fmt: skip
    assert trainings.more["resume"] is True


def test_result_is_printed_as_text_or_json(trainings, folders):
    data, _, out = folders
    printed = json.loads(rldg("finetune", "compact", data, "--out", out, "--steps", 3, "--json"))
    assert printed == {"steps": 3, "losses": [2.0, 1.5, 0.25], "checkpoint": str(out)}
    assert "2 -> 0.25" in rldg("finetune", "compact", data, "--out", out)


def test_compact_generalist_from_dataset_to_action(tmp_path):
    """Without replacements: train, check the checkpoint, load it, act."""
    data = insertion_dataset(tmp_path / "data", episodes=2, transitions=4, size=256)
    out = tmp_path / "out"
    printed = json.loads(rldg("finetune", "compact", data, "--out", out, "--steps", 3, "--batch", 2, "--json"))
    assert printed["steps"] == 3 and printed["checkpoint"] == str(out) and len(printed["losses"]) == 1
    info = json.loads(rldg("checkpoint", "info", out, "--json"))
    assert (info["backend"], info["tasks"], info["statistics_key"]) == ("compact", ["insertion"], "made_up")
    assert info["version"] == 3 and info["rate_hz"] == 10.0 and 0.005 < info["largest_step_m"] <= 0.01
    task = load_task(TASK_FILE)
    policy = load_policy("x", "compact", out, False, task)
    policy.reset(INSTRUCTION, 0)
    still = np.zeros(6)
    seen = Observation(0, {"wrist": picture(3, 4, 256, 0)}, np.ones(7), still, still, np.zeros(7), 0.02)
    assert policy.act(seen).shape == (4, 6)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("openvla", "--horizon", 3), "finetune openvla: horizon above 1 and head l1 need decoding parallel"),
        (("octo", "--steps", 100), "finetune octo: warmup_steps"),
        (("octo", "--base", "nowhere"), "nowhere: no such file or folder"),
        (("octo", "--base", "OUT"), "--out and --base are the same folder"),
        (("openvla", "--base", "octo"), "bases/octo: a checkpoint of Octo, which `rldg finetune octo` takes"),
        (("octo", "--base", "openvla"), "bases/openvla: a checkpoint of OpenVLA, which `rldg finetune openvla` takes"),
        (("octo", "--base", "."), "bases: no config.json in it, not a checkpoint of Octo"),
        (("openvla", "--resume"), r"no unfinished training to resume: no \.training in it"),
    ],
)
def test_inconsistent_options_are_refused_before_the_training(trainings, folders, arguments, reason):
    data, bases, out = folders
    name, *options = arguments
    if "--base" in options:
        options[-1] = out if options[-1] == "OUT" else bases / options[-1]
    needed = [] if name == "compact" or "--base" in options else ["--base", bases / name]
    if out in options:
        out.mkdir()
    with pytest.raises(UserError, match=reason) as error:
        rldg("finetune", name, data, "--out", out, *needed, *options)
    assert "\n" not in str(error.value) and not trainings.more


def test_only_a_checkpoint_is_replaced(trainings, folders):
    data, _, out = folders
    with pytest.raises(UserError, match="nothing: no such file"):
        rldg("finetune", "compact", data / "nothing", "--out", out)
    out.mkdir()
    (out / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="out: exists and is not a checkpoint of a generalist: it would be replaced"):
        rldg("finetune", "compact", data, "--out", out)
    with pytest.raises(UserError, match="exists and is not a checkpoint"):
        rldg("finetune", "compact", data, "--out", out / "thesis.tex")
    (out / "rldg.json").write_text("{}")
    rldg("finetune", "compact", data, "--out", out)
    (out / ".training").mkdir()
    with pytest.raises(UserError, match="holds an unfinished training: continue with --resume"):
        rldg("finetune", "compact", data, "--out", out)
