"""Training state of Octo in one file: parameters that learn, moments and counters as safetensors, the rest as JSON.

The file is replaced atomically, so that a killed run finds the last complete one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.flax import load_file
from safetensors.numpy import save_file

from rldg_core.errors import UserError
from rldg_core.files import check_regular, parse_json, writing_aside
from rldg_core.policy_checks import check_finite

STATE_FILE = "state.safetensors"
_META = "rldg"


def write_state(folder: Path, state: Any, meta: dict[str, Any]) -> None:
    """Write the pytree of arrays `state` and `meta` (JSON) to folder/state.safetensors."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(state))
    tensors = {jax.tree_util.keystr(path): np.asarray(value, order="C") for path, value in leaves}
    with writing_aside(folder / STATE_FILE) as aside:
        try:
            save_file(tensors, aside, metadata={_META: json.dumps(meta)})
        except SafetensorError as error:  # hides a full disk
            raise OSError(" ".join(str(error).split())) from error


def read_state(folder: Path, template: Any) -> tuple[Any, dict[str, Any]]:
    """(state, meta) as written. `template`: a pytree of arrays of the same structure, shapes and dtypes.

    Raises UserError when the file is missing, damaged, or of a training with other parameters.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise UserError(f"{path}: no training state to resume")
    check_regular(path)
    try:
        with safe_open(path, framework="flax") as file:  # bounded: checked above
            meta = parse_json((file.metadata() or {})[_META], f"{path}: {_META}")
        tensors = load_file(path)  # bounded: checked above
    except (SafetensorError, LookupError, ValueError, OSError) as error:
        raise UserError(f"{path}: damaged training state: {' '.join(str(error).split())[:200]}") from error
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    expected = {jax.tree_util.keystr(key): value for key, value in leaves}
    for name, value in expected.items():
        found = tensors.get(name)
        if found is None or found.shape != value.shape or found.dtype != value.dtype:
            raise UserError(f"{path}: {name}: not of this training: other parameters, or another base checkpoint")
    if len(tensors) != len(expected):
        raise UserError(f"{path}: holds {len(tensors)} arrays, this training has {len(expected)}")
    check_finite(path, ((name, np.asarray(value)) for name, value in tensors.items()))
    return jax.tree_util.tree_unflatten(structure, [tensors[name] for name in expected]), meta
