"""export_plan: all engines give equal bytes, killed exports resume, one export runs at a time, bad bags are named."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.errors import UserError
from rldg_core.image_codec import decode_jpeg
from rldg_data.exporting import staging
from rldg_data.exporting.engines import Engine
from rldg_data.plan import EpisodePlan, Plan
from rldg_data.rlds import export as rlds_export
from rldg_data.rlds import read_dataset
from rldg_data.rlds.export import export_plan, shards_of
from rldg_data.rlds.statistics import rows_of
from rldg_data.testing.exports import content, plan_of, record
from rldg_data.testing.steps import jpeg

SMALL = 20_000
"""Bytes of a shard here: a few episodes."""


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "bags"
    for seed in range(9):
        record(folder, transitions=4 + seed, seed=seed, image_size=64)
    return folder


@pytest.fixture
def plan(bags: Path) -> Plan:
    return plan_of(bags, val=2)


def test_splits_shards_and_contents_follow_the_plan(tmp_path: Path, bags: Path, plan: Plan) -> None:
    calls: list[tuple[int, int]] = []
    result = export_plan(plan, tmp_path, shard_bytes=SMALL, progress=lambda *done: calls.append(done))
    dataset = read_dataset(result.path)
    assert result.path == tmp_path / "insertion/1.0.0"
    assert (dict(result.episodes), dict(dataset.splits)) == ({"train": 7, "val": 2}, {"train": 7, "val": 2})
    assert result.steps == sum(5 + seed for seed in range(9))
    assert (result.bad, result.resumed, calls) == ((), 0, [(n, 9) for n in range(1, 10)])
    assert len(dataset.shard_lengths["train"]) > 1
    found = [e.metadata["seed"] for split in ("train", "val") for e in dataset.episodes(split)]
    assert found == [str(seed) for seed in range(9)]
    assert dict(dataset.image_sizes) == {"image": (64, 64)}
    assert [p.name for p in result.path.parent.iterdir()] == ["1.0.0"]


def test_statistics_are_those_of_the_training_transitions(tmp_path: Path, plan: Plan) -> None:
    dataset = read_dataset(export_plan(plan, tmp_path, shard_bytes=SMALL).path)
    rows = np.concatenate([rows_of(e) for e in dataset.episodes()]).astype(np.float64)
    statistics = dataset.statistics
    assert (statistics["num_transitions"], statistics["num_trajectories"]) == (len(rows), 7)
    assert statistics["action"]["mask"] == [True] * 6 + [False]
    for part, values in (("action", rows[:, :7]), ("proprio", rows[:, 7:])):
        np.testing.assert_array_equal(statistics[part]["q01"], np.quantile(values, 0.01, axis=0))
        np.testing.assert_array_equal(statistics[part]["p99"], np.quantile(values, 0.99, axis=0))
        np.testing.assert_allclose(statistics[part]["mean"], values.mean(0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(statistics[part]["std"], values.std(0), rtol=1e-10, atol=1e-12)


def listening_addresses() -> set[str]:
    """Return the TCP addresses on which the children of this process listen."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            found |= {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return found


@pytest.mark.parametrize(("engine", "workers"), [("processes", 2), ("processes", 3), ("ray", 2)])
def test_every_engine_writes_the_same_bytes(tmp_path: Path, plan: Plan, engine: Engine, workers: int) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    one = export_plan(plan, tmp_path / "one", shard_bytes=SMALL)
    listening: set[str] = set()
    many = export_plan(
        plan,
        tmp_path / "many",
        shard_bytes=SMALL,
        engine=engine,
        workers=workers,
        progress=lambda _done, _all: listening.update(listening_addresses()),
    )
    assert bool(listening) is (engine == "ray")
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert content(one.path) == content(many.path)
    assert replace(one, path=many.path) == many


def test_failure_in_ray_gives_the_same_error(tmp_path: Path, bags: Path) -> None:
    pytest.importorskip("ray")
    shutil.copytree(bags / "episode_000000", tmp_path / "run/bags/episode_000000")
    shutil.copytree(bags / "episode_000001", tmp_path / "run/bags/episode_000001")
    plan = plan_of(tmp_path / "run/bags")
    damage(plan.episodes[1].bags[0])
    lines = []
    for engine in ("processes", "ray"):
        with pytest.raises(UserError) as caught:
            export_plan(plan, tmp_path, engine=engine, workers=1)
        lines.append(str(caught.value))
    assert lines[0] == lines[1]
    assert type(caught.value) is UserError


def test_missing_ray_is_a_user_error(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"engine ray: Ray is not installed: pip install -r requirements/ray\.txt"):
        export_plan(plan, tmp_path, engine="ray")


def test_location_of_the_runs_changes_no_byte(tmp_path: Path, bags: Path, plan: Plan) -> None:
    shutil.copytree(bags, tmp_path / "moved" / bags.parent.name / "bags")
    moved = plan_of(tmp_path / "moved" / bags.parent.name / "bags", val=2)
    assert content(export_plan(plan, tmp_path / "a").path) == content(export_plan(moved, tmp_path / "b").path)


@pytest.mark.parametrize("size_px", [32, 64, 96])
def test_images_are_resized_only_where_needed(tmp_path: Path, bags: Path, size_px: int) -> None:
    result = export_plan(plan_of(bags, size_px=size_px), tmp_path)
    episode = next(read_dataset(result.path).episodes())
    for index, data in enumerate(episode.images["image"]):
        assert (data == jpeg(64, index)) == (size_px == 64)
        image = decode_jpeg(data)
        assert image.shape == (size_px, size_px, 3)
        # The sample consists of squares of 8 px, so its mean survives resizing.
        assert abs(image.mean() - decode_jpeg(jpeg(64, index)).mean()) < 2


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 100), max_size=30), target=st.integers(1, 150))
def test_shards_hold_every_episode_once_in_order(sizes: list[int], target: int) -> None:
    episodes = [EpisodePlan("train", (Path(str(i)),), num_bytes=size) for i, size in enumerate(sizes)]
    parts = shards_of(episodes, target)
    assert [e for part in parts for e in part] == episodes
    assert all(parts)
    assert all(sum(e.num_bytes for e in part) <= target + max(sizes) for part in parts)


KILLED = """
import os, signal, sys
from pathlib import Path
from rldg_data.testing.exports import plan_of
import rldg_data.{module} as module
from rldg_data.rlds.export import export_plan
left, original = int(sys.argv[3]), module.{function}
def dying(*arguments, **options):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return original(*arguments, **options)
module.{function} = dying
export_plan(plan_of(Path(sys.argv[1]), val=2), Path(sys.argv[2]), shard_bytes={size}, overwrite=True)
"""


def killed(bags: Path, root: Path, module: str, function: str, calls: int) -> None:
    """Run an export in a process that is killed at the given call of a function."""
    code = KILLED.format(module=module, function=function, size=SMALL)
    folders = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code, str(bags), str(root), str(calls)],
        env={**os.environ, "PYTHONPATH": folders},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize(
    ("module", "function", "calls", "resumes"),
    [
        ("rlds.export", "write_record", 0, False),
        ("rlds.export", "write_record", 5, True),
        ("rlds.export", "write_json", 1, True),
        ("rlds.export", "dataset_statistics", 0, True),
        ("exporting.staging", "fsync", 2, False),
        ("rlds.export", "publish", 0, False),
    ],
)
def test_killed_export_resumes(
    tmp_path: Path, bags: Path, plan: Plan, module: str, function: str, calls: int, resumes: bool
) -> None:
    whole = export_plan(plan, tmp_path / "whole", shard_bytes=SMALL)
    root = tmp_path / "root"
    killed(bags, root, module, function, calls)
    (aside,) = (p for p in (root / "insertion").iterdir() if p.suffix == ".partial")
    assert not (root / "insertion/1.0.0").exists()
    left = {p.name: p.stat().st_ino for p in aside.glob("*.tfrecord")} if resumes else {}
    result = export_plan(plan, root, shard_bytes=SMALL)
    assert content(result.path) == content(whole.path)
    assert (result.resumed > 0) == resumes
    assert len({p.stat().st_ino for p in result.path.iterdir()} & set(left.values())) >= resumes
    assert [p.name for p in result.path.parent.iterdir()] == ["1.0.0"]


def test_replaced_dataset_survives_a_kill_between_the_renames(tmp_path: Path, plan: Plan) -> None:
    path = export_plan(plan, tmp_path).path
    before = content(path)
    path.rename(path.with_name(".1.0.0.old"))
    with pytest.raises(UserError, match="already exists"):
        export_plan(plan, tmp_path)
    assert content(path) == before
    assert [p.name for p in path.parent.iterdir()] == ["1.0.0"]


def interrupt(tmp_path: Path, plan: Plan, after: int = 6) -> Path:
    """Cancel an export after some episodes and return its partial folder."""

    def cancel(done: int, total: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_plan(plan, tmp_path, shard_bytes=SMALL, progress=cancel)
    (aside,) = (tmp_path / "insertion").iterdir()
    return aside


def test_changed_plan_discards_the_partial_export(tmp_path: Path, bags: Path, plan: Plan) -> None:
    aside = interrupt(tmp_path, plan)
    assert any(aside.glob("*.json"))
    other = replace(plan, description="other words")
    result = export_plan(other, tmp_path, shard_bytes=SMALL)
    assert (result.resumed, aside.exists()) == (0, False)


def test_changed_bag_or_shard_is_written_again(tmp_path: Path, bags: Path) -> None:
    mine = tmp_path / "run/bags"
    shutil.copytree(bags, mine)
    plan = plan_of(mine)
    whole = export_plan(plan, tmp_path / "whole", shard_bytes=SMALL)
    for spoil in (
        lambda aside: os.utime(next((mine / "episode_000000").glob("*.mcap")), ns=(1, 1)),
        lambda aside: (aside / "train-00000.tfrecord").write_bytes(b"rubbish"),
        lambda aside: (aside / "train-00000.json").write_text("{"),
        lambda aside: (aside / "train-00000.rows").unlink(),
    ):
        aside = interrupt(tmp_path / "root", plan)
        complete = sum(json.loads(p.read_text())["episodes"] for p in aside.glob("*.json"))
        first = json.loads((aside / "train-00000.json").read_text())["episodes"]
        spoil(aside)
        result = export_plan(plan, tmp_path / "root", shard_bytes=SMALL)
        assert result.resumed == complete - first
        assert content(result.path) == content(whole.path)
        shutil.rmtree(tmp_path / "root")


@pytest.mark.parametrize("workers", [1, 2])
def test_cancelled_export_leaves_no_dataset(tmp_path: Path, plan: Plan, workers: int) -> None:
    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_plan(plan, tmp_path, shard_bytes=SMALL, workers=workers, progress=cancel)
    assert not (tmp_path / "insertion/1.0.0").exists()


def test_second_export_of_the_same_dataset_fails(tmp_path: Path, plan: Plan) -> None:
    failures = []

    def again(done: int, total: int) -> None:
        if done == 1:
            with pytest.raises(UserError) as caught:
                export_plan(plan, tmp_path)
            failures.append(str(caught.value))
            export_plan(replace(plan, version="2.0.0"), tmp_path)

    export_plan(plan, tmp_path, progress=again)
    assert failures == [f"{tmp_path}/insertion/1.0.0: another export is writing it"]
    assert sorted(p.name for p in (tmp_path / "insertion").iterdir()) == ["1.0.0", "2.0.0"]


def damage(bag: Path) -> None:
    (file,) = bag.glob("*.mcap")
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_bags_end_the_export_or_are_listed(tmp_path: Path, bags: Path, workers: int) -> None:
    mine = tmp_path / "run/bags"
    shutil.copytree(bags, mine)
    bad = [mine / f"episode_{n:06d}" for n in (0, 4)]
    plan = replace(plan_of(mine), left_out={"success": 3}, bad=((Path("elsewhere"), "elsewhere: no metadata"),))
    for bag in bad:
        damage(bag)
    with pytest.raises(UserError, match=r"episode_00000[04]\S*\.mcap: ") as caught:
        export_plan(plan, tmp_path, workers=workers, shard_bytes=SMALL)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "insertion/1.0.0").exists()
    result = export_plan(plan, tmp_path, workers=workers, shard_bytes=SMALL, skip_bad=True)
    assert dict(result.episodes) == {"train": 7}
    assert [bag for bag, _ in result.bad] == [Path("elsewhere"), *bad]
    assert [int(e.metadata["seed"]) for e in read_dataset(result.path).episodes()] == [1, 2, 3, 5, 6, 7, 8]
    report = json.loads((result.path / "export_report.json").read_text())
    assert (report["episodes"], report["left_out"]) == ({"train": 7}, {"success": 3})
    assert [entry["bag"] for entry in report["bad"]] == ["elsewhere", *map(str, bad)]
    assert all(entry["reason"] for entry in report["bad"])


def test_shard_without_a_good_episode_is_omitted(tmp_path: Path, bags: Path) -> None:
    mine = tmp_path / "run/bags"
    shutil.copytree(bags, mine)
    plan = plan_of(mine, val=1)
    damage(plan.episodes[3].bags[0])
    damage(plan.episodes[8].bags[0])
    result = export_plan(plan, tmp_path, shard_bytes=1, skip_bad=True)
    assert dict(read_dataset(result.path).splits) == {"train": 7}
    assert sorted(p.name for p in result.path.glob("*.tfrecord*")) == [
        f"insertion-train.tfrecord-{n:05d}-of-00007" for n in range(7)
    ]
    assert dict(result.episodes) == {"train": 7}


def test_no_readable_episode_is_refused(tmp_path: Path, bags: Path) -> None:
    shutil.copytree(bags / "episode_000000", tmp_path / "run/bags/episode_000000")
    plan = plan_of(tmp_path / "run/bags")
    damage(plan.episodes[0].bags[0])
    with pytest.raises(UserError, match=r"none of 1 episodes can be read, first: .*\.mcap"):
        export_plan(plan, tmp_path, skip_bad=True)


def test_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    for size in (32, 64, 32):
        record(tmp_path / "bags", image_size=size)
    plan = plan_of(tmp_path / "bags")
    with pytest.raises(UserError, match="episode_000001: image image is 64x64 px, in the first episode it has 32x32"):
        export_plan(plan, tmp_path)
    assert dict(export_plan(plan, tmp_path / "skipped", skip_bad=True).episodes) == {"train": 2}
    sized = export_plan(plan_of(tmp_path / "bags", size_px=48), tmp_path)
    assert dict(read_dataset(sized.path).image_sizes) == {"image": (48, 48)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: replace(p, name="../up"), "dataset name '../up'"),
        (lambda p: replace(p, name="a\n"), r"dataset name 'a\\n'"),
        (lambda p: replace(p, version="1/0"), "dataset version '1/0'"),
        (lambda p: replace(p, version="1.0.0\n"), r"dataset version '1\.0\.0\\n'"),
        (lambda p: replace(p, episodes=()), "no episode in split train"),
        (
            lambda p: replace(p, episodes=(replace(p.episodes[0], split="../x"), *p.episodes)),
            r"split '\.\./x', expected",
        ),
        (lambda p: replace(p, episodes=(replace(p.episodes[0], cameras=(("../i", ""),)),)), r"image key '\.\./i'"),
        (lambda p: replace(p, episodes=(replace(p.episodes[0], cameras=(("state", ""),)),)), "image key 'state'"),
        (lambda p: replace(p, episodes=(p.episodes[0], replace(p.episodes[1], cameras=()))), "cameras differ from"),
    ],
)
def test_inconsistent_plan_is_refused(tmp_path: Path, plan: Plan, change: Callable[[Plan], Plan], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        export_plan(change(plan), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_existing_dataset_is_not_replaced_without_overwrite(tmp_path: Path, plan: Plan) -> None:
    path = export_plan(plan, tmp_path).path
    (path / "dataset_statistics_0123.json").write_text("cached by OpenVLA or Octo")
    with pytest.raises(UserError, match="already exists"):
        export_plan(plan, tmp_path)
    assert (path / "dataset_statistics_0123.json").exists()
    export_plan(plan, tmp_path, overwrite=True)
    assert not (path / "dataset_statistics_0123.json").exists()
    assert [p.name for p in path.parent.iterdir()] == ["1.0.0"]


def test_unrelated_folder_is_never_replaced(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "insertion/1.0.0").mkdir(parents=True)
    (tmp_path / "insertion/1.0.0/thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a dataset"):
        export_plan(plan, tmp_path, overwrite=True)
    assert (tmp_path / "insertion/1.0.0/thesis.txt").read_text() == "mine"


def test_full_disk_is_a_user_error(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(rlds_export, "write_record", full)
        with pytest.raises(UserError, match=r"train-00000\.tfrecord: cannot write: No space left on device"):
            export_plan(plan, tmp_path)
    assert list((tmp_path / "insertion").iterdir()) == []
    monkeypatch.setattr(staging, "fsync", full)
    with pytest.raises(UserError, match=r"insertion/1\.0\.0: cannot write: No space left on device"):
        export_plan(plan, tmp_path)
    assert not (tmp_path / "insertion/1.0.0").exists()


def test_unwritable_target_is_a_user_error(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "insertion").write_text("a file")
    with pytest.raises(UserError, match=r"insertion/1\.0\.0: cannot write: (File exists|Not a directory)"):
        export_plan(plan, tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_file_size_limit_is_a_user_error(tmp_path: Path, bags: Path, workers: int) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from rldg_data.testing.exports import plan_of\n"
        "from rldg_core.errors import UserError; from rldg_data.rlds.export import export_plan\n"
        "if __name__ == '__main__':\n"
        f"    plan, root = plan_of(Path({str(bags)!r})), Path({str(tmp_path)!r})\n"
        f"    try: export_plan(plan, root, workers={workers}, shard_bytes=1)\n"
        "    except UserError as error: sys.exit(str(error))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))

    folders = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, str(script)],
        preexec_fn=limit,
        env={**os.environ, "PYTHONPATH": folders},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith(".tfrecord: cannot write: File too large")
    assert "\n" not in done.stderr.strip()


def test_workers_end_with_their_parent(tmp_path: Path, bags: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from rldg_data.testing.exports import plan_of\n"
        "from rldg_data.rlds.export import export_plan\n"
        "if __name__ == '__main__':\n"
        "    def progress(done, total):\n"
        "        import multiprocessing\n"
        "        pids = [p.pid for p in multiprocessing.active_children()]\n"
        "        if done: print(*pids, flush=True); sys.stdin.read()\n"
        f"    export_plan(plan_of(Path({str(bags)!r})), Path({str(tmp_path)!r}), workers=2, shard_bytes=1,"
        " progress=progress)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    folders = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": folders},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    process.kill()
    process.communicate()
    assert workers
    deadline = time.monotonic() + 20
    while any(running(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        os.sched_yield()


def running(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
