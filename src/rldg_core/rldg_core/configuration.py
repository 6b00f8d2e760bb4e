"""Configuration files: YAML -> validated pydantic model; whatever is wrong with one is one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from rldg_core.errors import UserError

M = TypeVar("M", bound=BaseModel)


def load_model(model: type[M], path: Path, what: str, overrides: Mapping[str, Any] | None = None) -> M:
    """Read and validate a YAML file that holds one mapping.

    what: what the file is, for messages ("task", "recipe"); overrides: top-level keys that replace those of the
    file. Raises UserError `path: key.path: reason` on the first mistake.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"{path}: cannot read the {what} file: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot read the {what} file: it is no text") from error
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{path}:{line} not valid YAML: {reason}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: a {what} file holds a mapping, this one holds {type(data).__name__}")
    return validated(model, {**data, **(overrides or {})}, str(path))


def validated(model: type[M], data: Mapping[Any, Any], where: str) -> M:
    """Validate a mapping. Raises UserError `where: key.path: reason` on the first mistake."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) if str(part).isprintable() else repr(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {key + ': ' if key else ''}{reason}") from error
