"""The interface of a generalist that can be fine-tuned, and the registry that finds one by name.

How a generalist serves is `rldg_core.policy.Policy` (entry points `rldg.policies`). How it is trained is a `Generalist`
(entry points `rldg.generalists`, same name): its configuration, from which `rldg finetune NAME` builds its options, and
what tells its checkpoints and unfinished trainings from those of others. This module imports neither torch nor jax, and
the module that an entry point names must not either: it is imported for every `rldg finetune --help`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Protocol, cast

from pydantic import BaseModel

from rldg_core.errors import UserError
from rldg_core.plugins import Plugins

_GENERALISTS = Plugins("rldg.generalists", "generalist")

Progress = Callable[[int, int], None]
"""(optimiser steps done, steps)."""


class Finetune(Protocol):
    """Train on the RLDS dataset `<root>/<name>/<version>` and write a checkpoint folder to `out`.

    config: an instance of `Generalist.config`; base: checkpoint to start from (None: random weights); resume: continue
    the unfinished training in `out`; camera: which camera took the images, for a dataset that does not say it.
    Returns a dataclass whose fields are shown to the user; tuples of floats are learning curves. Raises UserError on
    input that cannot be used.
    """

    def __call__(
        self,
        dataset: Path,
        out: Path,
        config: Any,
        *,
        base: Path | None = None,
        seed: int = 0,
        resume: bool = False,
        progress: Progress | None = None,
        camera: str | None = None,
    ) -> Any: ...


@dataclass(frozen=True)
class Option:
    """Marks a configuration field (in its `Annotated` type) whose command-line option has another name."""

    name: str


def _never(_config: Mapping[str, Any]) -> bool:
    return False


@dataclass(frozen=True)
class Generalist:
    """One kind of generalist.

    title: its name in messages; help: help text of `rldg finetune NAME`; config: model of the training configuration,
    every field with a description is an option; finetune: "module:function" of a `Finetune`, imported when a training
    starts; training_state: files or folders in an unfinished checkpoint's `.training` that only this kind has; base:
    help text of --base (None: it trains from random weights); recognises: whether a config.json without a manifest
    beside it is of this kind; describe: what an upstream checkpoint's own files say, as members of `Manifest` (None:
    its checkpoints always have a manifest).
    """

    title: str
    help: str
    config: type[BaseModel]
    finetune: str
    training_state: tuple[str, ...]
    base: str | None = None
    recognises: Callable[[Mapping[str, Any]], bool] = _never
    describe: Callable[[Path], dict[str, Any]] | None = None

    def load_finetune(self) -> Finetune:
        """Import the training function (this is where torch or jax gets imported)."""
        return cast(Finetune, resolve_name(self.finetune))


def generalist_names() -> list[str]:
    """Names of the installed generalists, sorted."""
    return _GENERALISTS.names()


def find_generalist(name: str) -> Generalist:
    """Import the declaration of a generalist. Raises UserError when it is unknown or cannot be imported."""
    found = _GENERALISTS.load(name)
    if not isinstance(found, Generalist):
        where = _GENERALISTS.describe(_GENERALISTS.entry_point(name))
        raise UserError(f"{where}: expected a Generalist, found {type(found).__name__}")
    return found


def installed_generalists() -> dict[str, Generalist]:
    """Name -> generalist of all that can be imported; those that cannot are left out."""
    found: dict[str, Generalist] = {}
    for name in generalist_names():
        try:
            found[name] = find_generalist(name)
        except UserError:
            continue
    return found


def adoptable() -> list[str]:
    """Names of the generalists whose upstream checkpoints can be adopted, sorted."""
    return [name for name, generalist in installed_generalists().items() if generalist.describe]


def title_of(name: str) -> str:
    """Name of a generalist in messages; one that is not installed is quoted."""
    try:
        return find_generalist(name).title
    except UserError:
        return repr(name)
