"""Check the files and back-ends named by the arguments of a stack before any process starts.

Files are read only by the bounded readers of `rldg_core`, without torch, jax or ROS. Errors that only loading can show,
such as damaged weights, are reported by the node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rldg_core.errors import UserError, quoted
from rldg_core.files import read_json
from rldg_core.parameter_files import check_node_names, read_sections
from rldg_core.registry import check_backend, check_before_start
from rldg_core.task import Task
from rldg_rl import config as learner


@contextmanager
def _argument(name: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"argument {name}: {error}") from error


def check_policy(backend: str, checkpoint: str, preload: Iterable[str], task: Task) -> None:
    """Raise UserError for an unknown back-end, and for a checkpoint of another back-end or task."""
    with _argument("policy"):
        check_backend(backend)
    with _argument("checkpoint"):
        check_before_start(backend, Path(checkpoint) if checkpoint else None, task)
    for name in preload:
        with _argument("preload"):
            check_backend(name)


def check_classifier(folder: Path, task: Task) -> None:
    """Raise UserError for a folder without a reward classifier, and for a classifier of another task."""
    path = folder / "config.json"
    with _argument("classifier"):
        described = read_json(path)
        found = described.get("task") if isinstance(described, dict) else None
        if found != task.name:
            raise UserError(f"{path}: task: found {quoted(found)}, expected {task.name!r}")


def check_learner_config(file: Path, task: Task) -> None:
    """Raise UserError naming file and key of an invalid override."""
    with _argument("learner_config"):
        learner.load(file, task)


def check_params_file(file: Path) -> None:
    """Raise UserError for a file that is not a ROS parameter file (node names, each with `ros__parameters`)."""
    with _argument("params_file"):
        read_sections(file)


def check_params_nodes(file: Path, nodes: Iterable[str]) -> None:
    """Raise UserError for a section whose node has a misspelt name of one of the stack."""
    with _argument("params_file"):
        check_node_names(file, sorted(set(nodes)))


def check_output_folder(name: str, folder: Path) -> None:
    """Raise UserError when the folder or one of its parents exists as a file."""
    for path in (folder, *folder.parents):
        if path.exists():
            if not path.is_dir():
                raise UserError(f"argument {name}: {path} is a file, expected a folder")
            return
