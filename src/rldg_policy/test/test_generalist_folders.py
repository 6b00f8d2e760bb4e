"""--out and --base of every fine-tuning, called from Python: the same error for the same fault, and no file is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rldg_core.errors import UserError
from rldg_policy.octo import training_state as octo_state
from rldg_policy.training import torch_state

BACKENDS = ("compact", "openvla", "octo")
CONFIGS = {
    "openvla": {"config.json": {"model_type": "openvla"}},
    "octo": {"config.json": {"model": {"observation_tokenizers": {}}}},
}
"""What tells the back-end of a checkpoint of upstream."""
NO_DATASET = "no dataset: not a dataset: no dataset_info.json"


def folder_of(path: Path, files: Mapping[str, Any]) -> Path:
    path.mkdir(parents=True)
    for name, value in files.items():
        (path / name).write_text(json.dumps(value))
    return path


def base_of(path: Path, backend: str) -> Path | None:
    return None if backend == "compact" else folder_of(path / "bases" / backend, CONFIGS[backend])


def finetune(backend: str, out: Path, base: Path | None = None, resume: bool = False) -> Any:
    """Call the fine-tuning of a back-end; it must fail before it reads the missing dataset."""
    config = import_module(f"rldg_policy.{backend}.config")
    kind = {"compact": "TrainConfig", "openvla": "OpenVLATrainConfig", "octo": "OctoTrainConfig"}[backend]
    train = import_module(f"rldg_policy.{backend}.train")
    return train.finetune(out / "no dataset", out, getattr(config, kind)(), base=base, resume=resume)


def refusal_of(call: Callable[[], Any]) -> str:
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
            "{out}: holds an unfinished training: continue with --resume, or remove the folder",
        ),
        (("out/thesis",), "out", False, "{out}: exists and is not a checkpoint of a generalist: it would be replaced"),
        (("thesis",), "thesis", False, "{out}: exists and is not a checkpoint of a generalist: it would be replaced"),
        (("thesis",), "thesis/a/out", False, "{out}: cannot be written: {out.parent.parent} is not a folder"),
    ],
)
def test_unusable_output_is_refused_before_anything_is_written(tmp_path, backend, there, name, resume, reason):
    for file in there:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("years of work")
    base = base_of(tmp_path, backend)
    before, out = contents(tmp_path), tmp_path / name
    assert refusal_of(lambda: finetune(backend, out, base, resume)) == reason.format(out=out)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("there", ["nothing", "empty", "checkpoint"])
def test_usable_output_is_accepted(tmp_path, backend, there):
    out = tmp_path / "out"
    if there != "nothing":
        out.mkdir()
    if there == "checkpoint":
        (out / "rldg.json").write_text("{}")
    assert NO_DATASET in refusal_of(lambda: finetune(backend, out, base_of(tmp_path, backend)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("begun", "name"), [("compact", "the compact generalist"), ("openvla", "OpenVLA"), ("octo", "Octo")]
)
def test_unfinished_training_of_another_kind_is_kept(tmp_path, backend, begun, name):
    """Octo must not remove it and start again."""
    out, base = tmp_path / "out", base_of(tmp_path, backend)
    state = out / ".training"
    if begun == "compact":
        torch_state.write_state(state / "state", 1, {}, {})
    elif begun == "openvla":
        torch_state.write_state(state, 1, {}, {})
    else:
        state.mkdir(parents=True)
        octo_state.write_state(state, {}, {})
    before = contents(out)
    message = refusal_of(lambda: finetune(backend, out, base, resume=True))
    if backend == begun:
        assert NO_DATASET in message
    else:
        assert message == f"{out}: an unfinished training of {name}: continue with `rldg finetune {begun} --resume`"
    assert contents(out) == before


@pytest.mark.parametrize("backend", ["openvla", "octo"])
def test_output_equal_to_the_base_is_refused(tmp_path, backend):
    base = tmp_path / "base"
    base.mkdir()
    reason = "--out and --base are the same folder"
    assert refusal_of(lambda: finetune(backend, tmp_path / "x" / ".." / "base", base)).endswith(reason)


def test_accelerate_launch_gives_the_same_error(tmp_path, capsys):
    from rldg_policy.openvla.train import main

    (tmp_path / "thesis").write_text("years of work")
    assert main(["data", "--base", str(tmp_path / "base"), "--out", str(tmp_path / "thesis")]) == 2
    reason = "exists and is not a checkpoint of a generalist: it would be replaced"
    assert capsys.readouterr().err == f"error: {tmp_path / 'thesis'}: {reason}\n"


MANIFEST = {"image_size": 64, "window": 1, "horizon": 1, "rate_hz": 10, "statistics_key": "x", "version": 3}
COMPACT = "a checkpoint of the compact generalist: `rldg finetune compact` takes no base"
OPENVLA, OCTO = (f"a checkpoint of {n}, which `rldg finetune {n.lower()}` takes" for n in ("OpenVLA", "Octo"))
NOT = "not a checkpoint of"


def manifest(backend: str) -> dict[str, Any]:
    return {"rldg.json": {**MANIFEST, "backend": backend, "statistics_sha256": "0" * 64}}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (manifest("openvla"), f"base: {OPENVLA}"),
        (manifest("octo"), f"base: {OCTO}"),
        (manifest("compact"), f"base: {COMPACT}"),
        (CONFIGS["openvla"], f"base: {OPENVLA}"),
        (CONFIGS["octo"], f"base: {OCTO}"),
        ({"config.json": {"format": "rldg-compact-2", "model": {}}}, f"base: {COMPACT}"),
        ({"config.json": {"model_type": "llama"}}, f"base: of 'llama' by its config.json, {NOT} "),
        ({"config.json": {"backend": "specialist"}}, f"base: of 'specialist' by its config.json, {NOT} "),
        ({"config.json": {"model": {}}}, f"base/config.json: {NOT} "),
        ({"config.json": [1]}, f"base/config.json: {NOT} "),
        ({"features.json": {}}, f"base: no config.json in it, {NOT} "),
        ({}, f"base: an empty folder, {NOT} "),
        (None, f"base: a file, {NOT} "),
    ],
)
@pytest.mark.parametrize(("backend", "name"), [("openvla", "OpenVLA"), ("octo", "Octo")])
def test_base_of_another_kind_is_named(tmp_path, backend, name, files, reason):
    base = tmp_path / "base"
    if files is None:
        base.write_text("")
    else:
        folder_of(base, files)
    message = refusal_of(lambda: finetune(backend, tmp_path / "out", base))
    if f"finetune {backend}" in reason:  # of the right kind: the dataset is read next
        reason = f"{NO_DATASET} (expected <root>/<name>/<version>)"
    assert message.endswith(reason + name if reason.endswith(" ") else reason) and str(tmp_path) in message
    assert not (tmp_path / "out").exists()
