"""A run resumes at its first unfinished stage; a changed plan repeats the stages that depend on it."""

from pathlib import Path

import pytest

from rldg_bringup.stages import Stage, run_stages
from rldg_core.errors import StalledError


def counting(calls: list[str], fail: str = "") -> list[Stage]:
    def make(name: str) -> Stage:
        def run(folder: Path) -> dict[str, object]:
            assert not list(folder.iterdir()), "a stage starts in an empty folder"
            (folder / "half").write_text("x")
            if name == fail:
                raise RuntimeError(name)
            calls.append(name)
            return {"n": len(calls)}

        return Stage(name, run)

    return [make(n) for n in ("a", "b", "c")]


def test_run_resumes_after_a_failed_stage(tmp_path: Path) -> None:
    calls: list[str] = []
    with pytest.raises(RuntimeError):
        run_stages(counting(calls, fail="b"), tmp_path, {"seed": 1})
    assert calls == ["a"]
    records = run_stages(counting(calls), tmp_path, {"seed": 1})
    assert calls == ["a", "b", "c"]
    assert [r.resumed for r in records] == [True, False, False]
    assert records[0].result == {"n": 1}


def test_stalled_stage_is_repeated_once(tmp_path: Path) -> None:
    tries: list[int] = []

    def run(folder: Path) -> dict[str, object]:
        assert not list(folder.iterdir())
        (folder / "half").write_text("x")
        tries.append(1)
        if len(tries) < 2:
            raise StalledError("still")
        return {}

    run_stages([Stage("a", run)], tmp_path, {})
    assert len(tries) == 2


def test_changed_plan_repeats_every_stage(tmp_path: Path) -> None:
    calls: list[str] = []
    run_stages(counting(calls), tmp_path, {"seed": 1})
    run_stages(counting(calls), tmp_path, {"seed": 1})
    assert len(calls) == 3
    run_stages(counting(calls), tmp_path, {"seed": 2})
    assert len(calls) == 6
