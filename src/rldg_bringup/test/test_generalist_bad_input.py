"""Invalid checkpoints and trainings of every generalist: one line, no partial output."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from generalist_samples import insertion_dataset, make_episode, write_dataset
from safetensors.numpy import load_file, save_file

from rldg_bringup import cli
from rldg_core.errors import UserError
from rldg_core.files import sha256_hex
from rldg_core.registry import factory, load_policy
from rldg_core.task import Task, load_task
from rldg_policy.checkpoint.manifest import MANIFEST_FILE
from rldg_policy.checkpoint.statistics import STATISTICS_FILE

BACKENDS = ("compact", "openvla", "octo")
TASK_FILE = Path(__file__).parents[1] / "config" / "tasks" / "insertion.yaml"


def write_compact(folder: Path) -> None:
    from rldg_policy.compact.checkpoint import write_random
    from rldg_policy.compact.config import ModelConfig

    write_random(folder, ModelConfig(channels=(4, 8, 8), squeeze=2, width=32), 0)


def write_openvla(folder: Path) -> None:
    from rldg_policy.openvla.checkpoint import write_random
    from rldg_policy.openvla.config import OpenVLAConfig

    write_random(folder, OpenVLAConfig.tiny(), 0)


def write_octo(folder: Path) -> None:
    from rldg_policy.octo.checkpoint import write_random
    from rldg_policy.octo.random import TINY_T5, OctoSize

    t5 = TINY_T5.model_copy(update={"num_layers": 1})
    write_random(folder, OctoSize(image_size=64, width=16, heads=2, mlp=16, layers=1, t5=t5), 0)


WRITE: dict[str, Callable[[Path], None]] = {"compact": write_compact, "openvla": write_openvla, "octo": write_octo}


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(TASK_FILE)


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def written(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(backend) / "checkpoint"
    WRITE[backend](folder)
    return folder


@pytest.fixture
def checkpoint(written: Path, tmp_path: Path) -> Path:
    """Return a copy to damage: files are links until a test replaces them."""
    shutil.copytree(written, tmp_path / "checkpoint", copy_function=os.link)
    return tmp_path / "checkpoint"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return insertion_dataset(tmp_path_factory.mktemp("data"), episodes=2, transitions=4)


def change(path: Path, edit: Callable[[Any], None]) -> None:
    """Edit a JSON file."""
    value = json.loads(path.read_text())
    edit(value)
    path.unlink()
    path.write_text(json.dumps(value))


def check_refused(call: Callable[[], Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        call()
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def rldg(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    """Run the command as `main` does and return its one line. The exit code must be 2."""
    monkeypatch.setattr(sys, "argv", ["rldg", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    output = capfd.readouterr()
    lines = [line for line in output.err.splitlines() if line.startswith("rldg: ")]
    assert ended.value.code == 2 and len(lines) == 1 and "Traceback" not in output.err, output.err
    return lines[0]


OPTIONS: dict[str, tuple[object, ...]] = {
    "compact": ("--steps", 12, "--batch", 2),
    "openvla": ("--steps", 6, "--batch", 2, "--accumulation", 1),
    "octo": ("--steps", 6, "--batch", 2, "--warmup-steps", 1),
}
"""Options of a training that takes a second, without compilation."""


def finetuning(backend: str, written: Path, dataset: Path, out: Path) -> list[object]:
    """Return the arguments of the command; the compact generalist has no base."""
    base = [] if backend == "compact" else ["--base", written]
    return ["finetune", backend, dataset, "--out", out, *base, *OPTIONS[backend]]


def drop_a_tensor(folder: Path, backend: str) -> None:
    if backend == "octo":  # a configuration of another layer, instead
        change(folder / "config.json", lambda c: c["model"]["transformer_kwargs"].update(num_layers=2))
        return
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    path.unlink()
    save_file(tensors, path)
    if backend == "compact":
        digest = sha256_hex(path.read_bytes())
        change(folder / "config.json", lambda c: c.update(weights_sha256=digest))


def test_checkpoint_without_statistics_is_refused(checkpoint, backend, task):
    (checkpoint / STATISTICS_FILE).unlink()
    check_refused(lambda: load_policy("x", backend, checkpoint, False, task), rf"{STATISTICS_FILE}: cannot read")


def test_statistics_of_another_checkpoint_are_refused(checkpoint, backend, task):
    change(checkpoint / STATISTICS_FILE, lambda s: s["random"]["action"].update(more=1))
    check_refused(lambda: load_policy("x", backend, checkpoint, False, task), "sha256 differs")


def test_wrong_number_of_tensors_is_refused(checkpoint, backend, task):
    drop_a_tensor(checkpoint, backend)
    reason = r"tensors|arrays|does not fit config\.json: .*Missing key"
    check_refused(lambda: load_policy("x", backend, checkpoint, False, task), reason)


def test_another_image_size_is_refused(checkpoint, backend, task):
    change(checkpoint / MANIFEST_FILE, lambda m: m.update(image_size=512))
    check_refused(lambda: load_policy("x", backend, checkpoint, False, task), "image_size")


def test_checkpoint_for_larger_images_than_the_cameras_is_refused(tmp_path, task):
    from rldg_policy.compact.checkpoint import write_random
    from rldg_policy.compact.config import ModelConfig

    write_random(tmp_path / "c", ModelConfig(image_size=512, channels=(4, 8, 8), squeeze=2, width=32), 0)
    reason = "it needs images of 512 px, camera 'wrist' has 256"
    check_refused(lambda: load_policy("x", "compact", tmp_path / "c", False, task), reason)


def test_another_action_dimension_is_refused(checkpoint, backend, task):
    def widen(statistics: Any) -> None:
        action = statistics["random"]["action"]
        action.update({name: [*values, values[-1]] for name, values in action.items()})

    change(checkpoint / STATISTICS_FILE, widen)
    digest = sha256_hex((checkpoint / STATISTICS_FILE).read_bytes())
    change(checkpoint / MANIFEST_FILE, lambda m: m.update(statistics_sha256=digest))
    check_refused(lambda: load_policy("x", backend, checkpoint, False, task), "expected 7 booleans")


def test_checkpoint_of_another_task_or_back_end_is_refused(checkpoint, backend, task):
    change(checkpoint / MANIFEST_FILE, lambda m: m.update(tasks=["pick"]))
    check_refused(lambda: load_policy("x", backend, checkpoint, False, task), "made for task 'pick'")
    change(checkpoint / MANIFEST_FILE, lambda m: m.update(backend="octo" if backend != "octo" else "openvla"))
    check_refused(lambda: load_policy("x", backend, checkpoint, False, task), "backend: a checkpoint of")


def test_empty_instruction_is_refused(written, backend, task):
    policy = factory(backend)(written, task, False)
    for instruction in ("", "  \n"):
        check_refused(lambda: policy.reset(instruction, 0), "^instruction: must not be empty$")  # noqa: B023
    policy.close()


def test_dataset_with_findings_is_refused(capfd, monkeypatch, tmp_path, written, backend):
    dirty = write_dataset(tmp_path, [make_episode(0), make_episode(1, instruction=" ")])
    out = tmp_path / "out"
    line = rldg(capfd, monkeypatch, *finetuning(backend, written, dirty, out))
    assert "not fit for training: error: instruction: train 1 (made-up-1): must not be empty" in line
    assert not out.exists()


@pytest.mark.parametrize("backend", ["compact", "openvla"], indirect=True)  # Octo: test_octo_train.py (compilation)
def test_non_finite_loss_keeps_the_last_good_checkpoint(tmp_path, written, dataset, backend, task):
    from rldg_policy.compact.config import TrainConfig
    from rldg_policy.openvla.config import OpenVLATrainConfig

    out = tmp_path / "out"
    short = {"steps": 12, "batch": 2, "save_every": 1}
    config = TrainConfig(**short) if backend == "compact" else OpenVLATrainConfig(**short, accumulation=1)
    config = config.model_copy(update={"learning_rate": 1e9})  # validation would refuse such a value
    base = None if backend == "compact" else written
    with pytest.raises(UserError) as error:
        import_module(f"rldg_policy.{backend}.train").finetune(dataset, out, config, base=base)
    match = re.fullmatch(r"step \d+: loss is (nan|inf): .*; last good checkpoint: (\S+)", str(error.value))
    assert match, error.value
    kept = Path(match[2])
    assert kept.is_relative_to(out) and 1 <= json.loads((kept / MANIFEST_FILE).read_text())["version"] < 12
    factory(backend)(kept, task, False).close()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_out_of_memory_is_refused_with_the_options_to_lower(capfd, monkeypatch, tmp_path, written, dataset, backend):
    def exhausted(*_args: object, **_options: object) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99999999999 bytes.")

    inside = {"compact": "take_step", "openvla": "stream_samples", "octo": "fit"}[backend]
    monkeypatch.setattr(import_module(f"rldg_policy.{backend}.train"), inside, exhausted)
    out = tmp_path / "out"
    line = rldg(capfd, monkeypatch, *finetuning(backend, written, dataset, out))
    assert line.startswith("rldg: out of memory: lower batch") and not out.exists()


@contextmanager
def small_disk(file_bytes: int) -> Iterator[None]:
    """Limit the file size, which acts like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("backend", ["compact", "openvla"], indirect=True)  # Octo would compile first
def test_full_disk_at_the_end_of_a_training_leaves_nothing(capfd, monkeypatch, tmp_path, written, dataset, backend):
    out = tmp_path / "out"
    with small_disk(200_000):
        line = rldg(capfd, monkeypatch, *finetuning(backend, written, dataset, out))
    assert re.fullmatch(r"rldg: \S*/out: cannot write: File too large", line), line
    assert not list(tmp_path.iterdir())


def test_full_disk_while_writing_a_checkpoint_leaves_nothing(tmp_path, backend):
    with small_disk(60_000):
        check_refused(lambda: WRITE[backend](tmp_path / "c"), "c: cannot write: File too large")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("backend", "name"),
    [("compact", "openvla"), ("compact", "octo"), ("openvla", "octo"), ("octo", "openvla")],
    indirect=["backend"],
)
@pytest.mark.parametrize("adopted", [True, False])
def test_base_of_another_back_end_is_refused(capfd, monkeypatch, tmp_path, dataset, checkpoint, backend, name, adopted):
    """Use complete checkpoints, with and without rldg.json."""
    if not adopted:
        (checkpoint / MANIFEST_FILE).unlink()
    line = rldg(capfd, monkeypatch, "finetune", name, dataset, "--base", checkpoint, "--out", tmp_path / "out")
    takes = {"compact": "`rldg finetune compact` takes no base"}.get(backend, f"which `rldg finetune {backend}` takes")
    assert line.startswith(f"rldg: {checkpoint}: a checkpoint of ") and line.endswith(takes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["openvla", "octo"])
def test_missing_base_is_refused(capfd, monkeypatch, tmp_path, dataset, name):
    line = rldg(
        capfd, monkeypatch, "finetune", name, dataset, "--base", tmp_path / "nowhere", "--out", tmp_path / "out"
    )
    assert "nowhere: no such file or folder" in line and not (tmp_path / "out").exists()
