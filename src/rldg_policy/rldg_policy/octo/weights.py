"""Weights of Octo in a folder <step>/default.

Written as upstream writes them, which its loader (orbax 0.4.4) needs: every array in one msgpack file `checkpoint`,
and their names in `_METADATA`. Read is that, and what orbax writes from several hosts, or today: a database of
tensorstore, with one zarr array a.b.c for each parameter. Without orbax: today's cannot write the former, and leaves
half a megabyte behind whenever it reads the latter.
Source: octo-models/octo, octo/model/octo_model.py (save_pretrained); google/orbax 0.4.4, PyTreeCheckpointHandler.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, BinaryIO

import jax
import msgpack
import numpy as np
import tensorstore as ts
from flax.serialization import msgpack_restore, msgpack_serialize
from flax.traverse_util import flatten_dict, unflatten_dict

from rldg_core.errors import UserError
from rldg_core.files import check_tree, open_regular
from rldg_core.policy_checks import check_finite
from rldg_policy.octo.model import Params

ARRAYS_FILE, NAMES_FILE = "checkpoint", "_METADATA"
STORE_FILE = "manifest.ocdbt"


def write_params(folder: Path, params: Params) -> None:
    """Write the arrays of `params` into a new folder."""
    folder.mkdir(parents=True)
    with (folder / ARRAYS_FILE).open("wb") as file:
        _write_tree(file, params)
    names = {str(path): _described(path) for path in flatten_dict(params)}
    (folder / NAMES_FILE).write_text(json.dumps({"tree_metadata": names}))


def read_params(folder: Path, expected: Mapping[str, jax.ShapeDtypeStruct]) -> Params:
    """Arrays of numpy, whatever devices they were saved from. expected: path a/b/c -> shape and dtype.

    Raises UserError when files are damaged, or hold other arrays.
    """
    try:
        found = _read_one_file(folder / ARRAYS_FILE)
        if found is None:
            found = _read_store(folder, expected)
    except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        raise UserError(f"{folder}: damaged weights: {' '.join(str(error).split())[:200]}") from error
    flat = flatten_dict(found, sep="/")
    _check_names(folder, flat, expected)
    for name, value in flat.items():
        wanted = expected[name]
        if value.shape != wanted.shape or value.dtype != wanted.dtype:
            raise UserError(
                f"{folder}: {name}: {value.dtype} {value.shape}, config.json describes {wanted.dtype} {wanted.shape}"
            )
    check_finite(folder, flat.items())
    return found


def _write_tree(file: BinaryIO, tree: Any) -> None:
    """flax's msgpack, array by array: in memory the whole would be there three times."""
    if not isinstance(tree, Mapping):
        file.write(msgpack_serialize(np.asarray(tree)))
        return
    file.write(msgpack.Packer().pack_map_header(len(tree)))
    for name, value in tree.items():
        file.write(msgpack.packb(name))
        _write_tree(file, value)


def _described(path: tuple[str, ...]) -> dict[str, Any]:
    keys = [{"key": key, "key_type": 2} for key in path]  # 2: a dictionary's
    return {"key_metadata": keys, "value_metadata": {"value_type": "jax.Array", "skip_deserialize": True}}


def _read_one_file(path: Path) -> Params | None:
    """None: the arrays are in tensorstore's files, as a missing file or an array's name in its place tell."""
    if not path.is_file():
        if not (path.parent / STORE_FILE).is_file():
            raise ValueError(f"neither {ARRAYS_FILE} nor {STORE_FILE} is there")
        return None
    with open_regular(path) as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        found: Params = msgpack_restore(data)  # bounded: by its length
    values = list(flatten_dict(found).values())
    if any(isinstance(value, str) for value in values):
        return None
    if not values or not all(isinstance(value, np.ndarray) for value in values):
        raise ValueError(f"{ARRAYS_FILE} does not consist of arrays")
    return found


def _read_store(folder: Path, expected: Mapping[str, Any]) -> Params:
    """The names are compared before any array is read."""
    check_tree(folder)
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    keys = ts.KvStore.open(store).result().list().result()
    names = {key.decode().partition("/")[0].replace(".", "/") for key in keys}
    _check_names(folder, names, expected)
    reading = {
        name: ts.open({"driver": "zarr", "kvstore": {**store, "path": name.replace("/", ".")}}).result().read()
        for name in names
    }
    found: Params = unflatten_dict({name: array.result() for name, array in reading.items()}, sep="/")
    return found


def _check_names(folder: Path, names: Iterable[str], expected: Mapping[str, Any]) -> None:
    found = set(names)
    missing, unknown = sorted(set(expected) - found), sorted(found - set(expected))
    if missing or unknown:
        first = f"first missing: {missing[0]}" if missing else f"first unknown: {unknown[0]}"
        raise UserError(f"{folder}: {len(found)} arrays, config.json describes {len(expected)}: {first}")
