"""--out and --base of every fine-tuning, called from Python: the same line for the same fault, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rldg_core.errors import UserError

BACKENDS = ("compact", "openvla", "octo")


def finetune(backend: str, out: Path, base: Path | None = None, resume: bool = False) -> Any:
    """Call the back-end's; it must end before the dataset, which is not there, is looked for."""
    config = import_module(f"rldg_policy.{'compact.config' if backend == 'compact' else f'{backend}.train_config'}")
    kind = {"compact": "TrainConfig", "openvla": "OpenVLATrainConfig", "octo": "OctoTrainConfig"}[backend]
    train = import_module(f"rldg_policy.{backend}.train")
    return train.finetune(out / "no dataset", out, getattr(config, kind)(), base=base, resume=resume)


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("there", "name", "resume", "reason"),
    [
        ((), "out", True, "{out}: no unfinished training to resume: no .training in it"),
        (("out/rldg.json",), "out", True, "{out}: no unfinished training to resume: no .training in it"),
        (
            ("out/.training/state",),
            "out",
            False,
            "{out}: holds an unfinished training: go on with --resume, or remove the folder",
        ),
        (("out/thesis",), "out", False, "{out}: exists and is no checkpoint of a generalist: it would be replaced"),
        (("thesis",), "thesis", False, "{out}: exists and is no checkpoint of a generalist: it would be replaced"),
        (("thesis",), "thesis/a/out", False, "{out}: cannot be written: {out.parent.parent} is no folder"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_else(tmp_path, backend, there, name, resume, reason):
    for file in there:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("years of work")
    before, out = contents(tmp_path), tmp_path / name
    base = None if backend == "compact" else tmp_path / "base"
    assert refused(lambda: finetune(backend, out, base, resume)) == reason.format(out=out)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("there", ["nothing", "empty", "checkpoint"])
def test_what_can_be_written_goes_on_to_the_dataset(tmp_path, backend, there):
    out = tmp_path / "out"
    if there != "nothing":
        out.mkdir()
    if there == "checkpoint":
        (out / "rldg.json").write_text("{}")
    base = None if backend == "compact" else tmp_path / "base"
    assert "no dataset: not a dataset" in refused(lambda: finetune(backend, out, base))


@pytest.mark.parametrize("backend", ["openvla", "octo"])
def test_a_base_is_not_replaced_by_what_is_made_of_it(tmp_path, backend):
    base = tmp_path / "base"
    base.mkdir()
    reason = "--out and --base are the same folder"
    assert refused(lambda: finetune(backend, tmp_path / "x" / ".." / "base", base)).endswith(reason)


def test_accelerate_launch_says_the_same(tmp_path, capsys):
    from rldg_policy.openvla.train import main

    (tmp_path / "thesis").write_text("years of work")
    assert main(["data", "--base", str(tmp_path / "base"), "--out", str(tmp_path / "thesis")]) == 2
    reason = "exists and is no checkpoint of a generalist: it would be replaced"
    assert capsys.readouterr().err == f"error: {tmp_path / 'thesis'}: {reason}\n"
