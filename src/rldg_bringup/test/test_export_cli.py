"""`rldg export` and `rldg relabel` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rldg_bringup.cli import app
from rldg_core.errors import UserError
from rldg_core.types import Source
from rldg_data.bags.reading import episode_info, find_bags, read_episode
from rldg_data.rlds import read_dataset
from rldg_data.testing.recipes import record, record_line
from rldg_data.testing.steps import make_task


def rldg(*arguments: object) -> str:
    """Return the standard output. Raises the UserError that `main` prints in one line."""
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def files(dataset: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in dataset.iterdir()}


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    for seed in range(6):
        record(tmp_path / "run/bags", seed=seed, success=seed > 0, object_name="hdmi" if seed > 2 else "usb_a")
    return tmp_path / "run/bags"


def test_recipe_and_its_quick_form_write_the_same_episodes(tmp_path: Path, bags: Path) -> None:
    quick = json.loads(rldg("export", bags, "--out", tmp_path / "quick", "--name", "data", "--seed", 3, "--json"))
    assert (quick["episodes"], quick["splits"], quick["steps"]) == (5, {"train": 5}, 30)
    assert (quick["left_out"], quick["bad"], quick["resumed"]) == ({"filter.success": 1}, [], 0)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: data\nseed: 3\nsources: [{bags: run/bags}]\n")
    runs = {
        name: json.loads(rldg("export", recipe, "--out", tmp_path / name, *more, "--json"))
        for name, more in (("one", ()), ("two", ("--workers", 2)))
    }
    contents = [files(Path(run["path"])) for run in (quick, *runs.values())]
    assert contents[0] == contents[1] == contents[2]
    assert len(read_dataset(Path(runs["one"]["path"]))) == 5
    with pytest.raises(UserError, match="already exists"):
        rldg("export", recipe, "--out", tmp_path / "one")
    assert "filter.success" in rldg("export", recipe, "--out", tmp_path / "one", "--overwrite")


def test_same_recipe_exports_lerobot(tmp_path: Path, bags: Path) -> None:
    pytest.importorskip("pyarrow")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: data\nsources: [{bags: run/bags, max_episodes: 2}]\nimages: {size_px: 64}\n")
    out = json.loads(rldg("export", recipe, "--out", tmp_path / "out", "--format", "lerobot", "--json"))
    assert (out["episodes"], (Path(out["path"]) / "meta/info.json").is_file()) == (2, True)


def test_recipe_with_all_features(tmp_path: Path, bags: Path) -> None:
    """Export with stitching, balance, split, another image size, a template, and a bad bag."""
    for seed in range(4):
        name = "hdmi" if seed % 2 else "usb_a"
        record_line(tmp_path / "human", 0, 0.2, seed=20 + seed, source=Source.HUMAN, object_name=name, gripper=True)
        record_line(tmp_path / "rl", 0.2, 0.3, seed=30 + seed, object_name=name)
    (bags / "episode_000004/metadata.yaml").unlink()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        """
name: assembly
version: 2.0.0
seed: 1
instruction: "{task} the {object}"
balance: object
split: {val_episodes: 2}
images: {size_px: 64, jpeg_quality: 90}
cameras: {image: wrist}
sources:
  - bags: run/bags
  - stitch:
      first: {bags: human, filter: {source: human}}
      second: {bags: rl}
      tolerance_m: 0.01
      tolerance_rad: 0.1
"""
    )
    with pytest.raises(UserError, match="episode_000004"):
        rldg("export", recipe, "--out", tmp_path)
    out = json.loads(rldg("export", recipe, "--out", tmp_path, "--skip-bad", "--json"))
    assert [Path(b["bag"]).name for b in out["bad"]] == ["episode_000004"]
    assert (out["splits"], out["left_out"]) == ({"train": 6, "val": 2}, {"filter.success": 1})
    dataset = read_dataset(Path(out["path"]))
    episodes = [e for split in dataset.splits for e in dataset.episodes(split)]
    assert sorted({e.instruction for e in episodes}) == ["insertion the hdmi", "insertion the usb_a"]
    assert sorted(len(json.loads(e.metadata["provenance"])) for e in episodes) == [1] * 4 + [2] * 4
    assert {e.metadata["object"] for e in dataset.episodes("val")} == {"hdmi", "usb_a"}


def test_relabel_writes_new_bags(tmp_path: Path) -> None:
    for seed in range(2):
        record(tmp_path / "bags", seed=seed, source=Source.HUMAN)
    task = tmp_path / "insertion.yaml"
    task.write_text(json.dumps(make_task().model_dump(mode="json")))
    arguments: tuple[Any, ...] = ("--backend", "hold", "--task", task)
    out = json.loads(rldg("relabel", tmp_path / "bags", "--out", tmp_path / "new", *arguments, "--json"))
    assert (out["episodes"], out["steps"], out["bad"]) == (2, 10, [])
    new, old = ([read_episode(b) for b in find_bags(tmp_path / name)] for name in ("new", "bags"))
    for mine, theirs in zip(new, old, strict=True):
        assert [s.observation.images for s in mine] == [s.observation.images for s in theirs]
        # The synthetic poses lie outside the safety box, so `hold` is clipped to motion back into it.
        assert all(s.action.policy_id == "hold" and s.action.box_clipped for s in mine[:-1])
        np.testing.assert_array_equal([s.action.requested for s in mine[:-1]], np.zeros((5, 6)))
    assert json.loads(episode_info(tmp_path / "new/episode_000000").relabelled_by)["backend"] == "hold"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "bags"), "--name: required for folders of bags: the name of the dataset"),
        (("export", "nowhere"), "nowhere: no such file or folder"),
        (("export", "r.yaml", "--only-success"), "--only-success: set it in the recipe r.yaml"),
        (("export", "r.yaml", "--seed", "1"), "--seed: set it in the recipe r.yaml"),
        (("export", "r.yaml"), "r.yaml: colour: Extra inputs are not permitted"),
        (("export", "bags", "--name", "A"), "dataset: name: 'A': expected lower-case letters"),
        (("export", "bags", "--name", "a", "--version", "1"), "dataset: version: '1': expected MAJOR.MINOR.PATCH"),
        (("export", "bags", "--name", "a", "--source", "robot"), "dataset: filter.source.0: Input should be 'policy'"),
        (("export", "bags", "--name", "a", "--source", "human"), r"dataset a: none of 1 episodes .*filter\.source 1"),
        (("relabel", "bags", "--policy", "x", "--out", "o"), "x: no such file or folder"),
        (("relabel", "bags", "--policy", "bags", "--out", "o", "--backend", "no"), "relabel.backend: 'no': expected"),
        (("relabel", "bags", "--policy", "bags", "--out", "o", "--task", "no"), "relabel.task: unknown task 'no'"),
        (("relabel", "bags", "--policy", "bags", "--out", "o", "--source", "you"), "relabel: sources.0: Input should"),
    ],
)
def test_bad_input_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "bags")
    (tmp_path / "r.yaml").write_text("name: a\ncolour: red\nsources: [{bags: bags}]\n")
    with pytest.raises(UserError, match=message) as caught:
        rldg(*arguments)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bags", "r.yaml"]
