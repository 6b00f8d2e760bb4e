"""Message definitions: text, RIHS01 hashes and decoders.

Writing needs the definitions of the running system (`share/<package>/msg` of every ament prefix);
reading needs none: every bag carries the full text of its schemas.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from rldg_core.errors import UserError
from rldg_core.files import read_json, read_text

STEP_TYPE = "rldg_msgs/msg/Step"
_SEPARATOR = "=" * 80


@lru_cache
def schema_text(type_name: str) -> str:
    """Return the ros2msg schema of `package/msg/Type`: its definition and its dependencies, joined as in rosbag2.

    Raises UserError when a definition is not installed.
    """
    text = read_text(_share_file(type_name, ".msg"))
    for dependency in [h["type_name"] for h in _type_hashes(type_name)][1:]:
        package, _, name = dependency.split("/")
        text += f"\n{_SEPARATOR}\nMSG: {package}/{name}\n" + read_text(_share_file(dependency, ".msg"))
    return text


@lru_cache
def type_hash(type_name: str) -> str:
    """Return the RIHS01 hash (REP-2016) of `package/msg/Type`. Raises UserError when it is not installed."""
    return str(_type_hashes(type_name)[0]["hash_string"])


@lru_cache
def typestore(type_name: str, text: str) -> Typestore:
    """Return a (de)serialiser for a schema. Raises ValueError when the text cannot be parsed."""
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(get_types_from_msg(text, type_name))
    except (TypesysError, ValueError, KeyError) as error:
        raise ValueError(f"schema of {type_name} cannot be parsed") from error
    return store


def _type_hashes(type_name: str) -> list[dict[str, Any]]:
    """Hashes of the type itself and, after it, of all its dependencies."""
    hashes: list[dict[str, Any]] = read_json(_share_file(type_name, ".json"))["type_hashes"]
    return hashes


def _share_file(type_name: str, suffix: str) -> Path:
    package, _, name = type_name.split("/")
    # The ROS wheels install their share folders into the environment itself, which
    # AMENT_PREFIX_PATH does not name.
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    for prefix in filter(None, prefixes):
        path = Path(prefix) / "share" / package / "msg" / f"{name}{suffix}"
        if path.is_file():
            return path
    raise UserError(f"message type {type_name}: no definition found under AMENT_PREFIX_PATH; is the workspace sourced?")
