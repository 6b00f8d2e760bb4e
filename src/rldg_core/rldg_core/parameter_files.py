"""ROS parameter files: which node each section is for, and a name in it that the node does not have. Without ROS."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rldg_core.configuration import MAX_CONFIGURATION_BYTES, read_yaml
from rldg_core.errors import UserError, quoted
from rldg_core.limits import either

PARAMETERS = "ros__parameters"
SIMILAR = 0.9
"""From this similarity on, a name that is meant for any node is a misspelt one. No two nodes have such names."""
SIMILAR_NODE = 0.75
"""The same for names of nodes, which are short."""


@dataclass(frozen=True)
class Section:
    """Parameters of the nodes that `key` matches, such as `/rldg/gate` or `/**`; nested names are joined by dots."""

    key: str
    names: tuple[str, ...]

    @property
    def node(self) -> str:
        """Name of the node; "" for a wildcard, which matches several."""
        name = self.key.rpartition("/")[2]
        return "" if "*" in name else name


def read_sections(path: Path) -> list[Section]:
    """Read a ROS parameter file. Raises UserError naming it when it is none."""
    content = read_yaml(path, MAX_CONFIGURATION_BYTES)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected node names, each with {PARAMETERS}")
    return list(_sections(path, content, ""))


def _sections(path: Path, content: Mapping[Any, Any], key: str) -> Iterator[Section]:
    for name, value in content.items():
        if not isinstance(value, dict):
            raise UserError(f"{path}: {key}/{name}: expected node names, each with {PARAMETERS}")
        if name == PARAMETERS:
            yield Section(key, tuple(_names(value, "")))
        else:
            yield from _sections(path, value, f"{key}/{str(name).strip('/')}")


def _names(values: Mapping[Any, Any], prefix: str) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def check_node_names(path: Path, known: Sequence[str]) -> None:
    """Raise UserError for a section whose node resembles one of `known` and is none: it would have no effect.

    A file may hold other nodes' names, too.
    """
    for section in read_sections(path):
        near = get_close_matches(section.node, known, 1, SIMILAR_NODE)
        if section.node and section.node not in known and near:
            raise UserError(f"{path}: {section.key}: no node {quoted(section.node)}, expected {either(near)}")


def check_parameter_names(path: Path, node: str, unknown: Iterable[str], known: Sequence[str]) -> None:
    """Raise UserError for a parameter of a node that it does not have.

    unknown: names that ROS matched to the node and that it did not declare. Under a wildcard they may be meant for
    another node: there, only those are refused that resemble one of `known`.
    """
    sections = read_sections(path)
    for name in unknown:
        for section in (one for one in sections if name in one.names):
            near = get_close_matches(name, known, 3, SIMILAR)
            if near or section.node == node:
                listed = either(near or sorted(known))
                raise UserError(
                    f"{path}: {section.key}: node {node} has no parameter {quoted(name)}, expected {listed}"
                )
