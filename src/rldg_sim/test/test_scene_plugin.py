"""A scene of another distribution is found, validated, simulated, demonstrated and trained for like built-in ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib

from rldg_core.errors import UserError
from rldg_core.scenes import default_scene, scene_class, scene_kinds
from rldg_core.task import Task, find_task, load_task
from rldg_sim.cell import Cell
from rldg_sim.operators.config import OperatorConfig
from rldg_sim.scene import make_operator

EXAMPLE = Path(__file__).parents[3] / "examples" / "touch_scene"
TASKS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks"


def install(site: Path, name: str, source: str, entry_points: dict[str, str]) -> None:
    """Write what pip would install into `site` for a distribution of one module."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{kind} = {value}" for kind, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[rldg.scenes]", *lines, ""]))
    (site / f"{name}.py").write_text(source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder on sys.path outside the repository; modules imported from it are removed afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    scene_class.cache_clear()
    yield folder
    scene_class.cache_clear()
    for name in [name for name, module in sys.modules.items() if str(folder) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


@pytest.fixture
def touch(site: Path, tmp_path: Path) -> Task:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    install(site, "touch_scene", (EXAMPLE / "touch_scene.py").read_text(), project["entry-points"]["rldg.scenes"])
    shutil.copy(EXAMPLE / "touch.yaml", tmp_path)
    return load_task(tmp_path / "touch.yaml")


def test_scene_of_another_distribution_is_found_and_simulated(touch: Task) -> None:
    assert "touch" in scene_kinds() and touch.scene.kind == "touch"
    assert touch.model_dump()["scene"]["disc_xy_m"] == 0.02, "its own keys are part of the configuration"
    cell = Cell(touch)
    first, again = cell.reset(3), cell.reset(3)
    assert first.image is not None and (first.image == again.image).all() and first.image.std() > 10
    assert cell.step([0.0] * 6).stamp_ns == touch.period_ns
    cell.close()


def test_operator_of_the_plugin_demonstrates(touch: Task) -> None:
    cell, operator = Cell(touch, render=False), make_operator(OperatorConfig(), touch)
    successes = 0
    for seed in range(8):
        frame = cell.reset(seed)
        operator.reset(seed)
        while not frame.success and frame.time_s < touch.episode.max_steps * touch.period_s:
            truth = frame.object_to_goal, frame.object_to_tcp
            action, _ = operator.act(frame.pose_base_tcp, frame.wrench_tcp, *truth, frame.gripper_width_m, frame.time_s)
            frame = cell.step(action)
        successes += frame.success
    assert successes >= 6


def test_mistakes_in_keys_of_the_plugin_are_refused_with_file_and_key(touch: Task, tmp_path: Path) -> None:
    path, text = tmp_path / "wrong.yaml", (tmp_path / "touch.yaml").read_text()
    for old, new, expected in (
        ("disc_xy_m: 0.02", "disc_xy_m: 7", f"{path}: scene.disc_xy_m: Input should be less than or equal to 0.05"),
        ("disc_xy_m", "disc_m", f"{path}: scene.disc_m: Extra inputs are not permitted"),
        ("kind: touch", "kind: press", f"{path}: scene.kind: unknown scene kind 'press', expected one of "),
        ("kind: touch, ", "", f"{path}: scene.kind: unknown scene kind '', expected one of "),
        ("{kind: touch, disc_xy_m: 0.02}", "touch", f"{path}: scene: expected a mapping, got str"),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(UserError) as caught:
            load_task(path)
        assert str(caught.value).startswith(expected)
    with pytest.raises(UserError, match="object 'peg': no such object, expected rod"):
        Cell(touch.model_copy(update={"objects": {"peg": touch.objects["rod"]}, "default_object": "peg"}))


def test_task_without_its_distribution_is_refused(tmp_path: Path) -> None:
    scene_class.cache_clear()
    with pytest.raises(UserError, match=r"touch\.yaml: scene\.kind: unknown scene kind 'touch', expected one of"):
        load_task(EXAMPLE / "touch.yaml")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import nowhere_at_all", "cannot be imported: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("", "cannot be imported: AttributeError: "),
        ("Kind = 7", "is not a subclass of rldg_core.scenes.SceneConfig"),
        (
            "from rldg_core.scenes import SceneConfig\nclass Kind(SceneConfig):\n    kind: str = 'other'",
            "has the kind 'other'; both must be the same",
        ),
    ],
)
def test_broken_distribution_is_refused(site: Path, tmp_path: Path, source: str, expected: str) -> None:
    install(site, "broken_scene", source, {"broken": "broken_scene:Kind"})
    path = tmp_path / "task.yaml"
    path.write_text((EXAMPLE / "touch.yaml").read_text().replace("kind: touch, disc_xy_m: 0.02", "kind: broken"))
    with pytest.raises(UserError) as caught:
        load_task(path)
    assert str(caught.value).startswith(f"{path}: scene.kind: scene kind 'broken' (broken_scene:Kind) {expected}")


def test_scene_without_a_simulation_is_refused_only_by_the_cell(site: Path, tmp_path: Path) -> None:
    source = "from rldg_core.scenes import SceneConfig\nclass Bare(SceneConfig):\n    kind: str = 'bare'"
    install(site, "bare_scene", source, {"bare": "bare_scene:Bare"})
    path = tmp_path / "task.yaml"
    path.write_text((EXAMPLE / "touch.yaml").read_text().replace("kind: touch, disc_xy_m: 0.02", "kind: bare"))
    task = load_task(path)
    with pytest.raises(UserError, match=r"task touch: scene kind 'bare' \(bare_scene.Bare\) cannot be simulated"):
        Cell(task)


def test_tasks_without_a_scene_have_the_default() -> None:
    task = find_task("insertion_franka", [TASKS])
    assert task.scene == default_scene() and task.scene.kind == "connector"
    assert "default" not in scene_kinds()


HASHES = {
    "fmb_assembly": "777ac6f6f4f336e5",
    "fmb_insertion": "af780d1332ec1292",
    "fmb_insertion_region": "6de736d880922246",
    "insertion": "2019c0dc9e50b610",
    "insertion_franka": "e1bc54b4d52db5aa",
    "pick_and_place": "4a9dbc521925e388",
}
"""Recordings, checkpoints and runs carry these: a change of them needs an entry in the change log."""


@pytest.mark.parametrize("name", sorted(HASHES))
def test_shipped_tasks_have_the_stored_hashes(name: str) -> None:
    assert find_task(name, [TASKS]).config_hash() == HASHES[name]


def test_task_is_validated_without_the_simulator() -> None:
    code = (
        "import sys; from pathlib import Path; from rldg_core.task import find_task\n"
        f"for name in {sorted(HASHES)}: find_task(name, [Path({str(TASKS)!r})])\n"
        "print([name for name in ('mujoco', 'scipy', 'torch', 'jax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
