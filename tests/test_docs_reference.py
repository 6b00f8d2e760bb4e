"""The generated reference holds everything that its sources declare. Sphinx is not needed."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

from rldg_bringup.arguments import StackArguments

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """Import docs/_ext/rldg_reference.py, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("rldg_reference", ROOT / "docs/_ext/rldg_reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_interfaces_have_every_field_and_comment(reference: ModuleType) -> None:
    page = reference.interfaces_page(ROOT / "src/rldg_msgs")
    definitions = [path for kind in ("msg", "srv", "action") for path in (ROOT / "src/rldg_msgs" / kind).iterdir()]
    assert len(definitions) > 15
    for path in definitions:
        assert f"\n### {path.stem}\n" in page
        for line in path.read_text().splitlines():
            field = re.match(r"([\w/]+(?:\[\])?) (\w+)", line)
            assert not field or re.search(rf"`(rldg_msgs/)?{re.escape(field[0])}\b", page), f"{path.name}: {line}"
    assert "time spent computing this action [s]" in page
    assert '["wrist"]' in page


def test_all_launch_arguments_are_listed(reference: ModuleType) -> None:
    page = reference.launch_arguments_page(StackArguments)
    for argument in fields(StackArguments):
        assert f"| `{argument.name}` |" in page
        assert argument.metadata["help"].replace("|", "\\|") in page
    assert "| `http_port` | `0` | 0 to 65535 |" in page


def test_every_command_is_listed(reference: ModuleType) -> None:
    page = reference.command_line_page()
    for command in ("up", "train", "bag lint", "dataset lint", "finetune compact", "policy load"):
        assert f"`rldg {command}`" in page


def test_parameters_show_type_default_and_range(reference: ModuleType) -> None:
    parameter = {"name": "rate", "type": "float", "default": 10.0, "limits": "1 to 100", "description": "A | rate."}
    page = reference.parameters_page({"observer": [parameter], "exporter": []})
    assert "## observer\n\n" in page and "| `rate` | float | `10.0` | 1 to 100 | A \\| rate. |" in page
    assert page.endswith("## exporter\n\nNo parameters.\n")


def test_api_has_every_public_module_and_no_node(reference: ModuleType) -> None:
    pages = "".join(reference.api_pages().values())
    documented = set(re.findall(r"automodule:: ([\w.]+)", pages))
    assert {"rldg_core.frames", "rldg_rl.replay", "rldg_bringup.stack"} <= documented
    assert not [name for name in documented if ".nodes" in name or "._" in name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Return `x`, an *array* of a|b_.", r"Return ``x``, an \*array\* of a\|b\_."),
        ("`a`s and (`b`) is un`c`.", r"``a``\ s and (``b``) is un\ ``c``."),
        ("One\n    line.", "One line."),
        ("* one\n  goes on\n* two", "* one goes on\n\n* two"),
        ("Text:\n\n    code `x`", "Text:\n\n::\n\n    code `x`"),
    ],
)
def test_docstrings_become_text_without_markup(reference: ModuleType, text: str, expected: str) -> None:
    lines = text.split("\n")
    reference.plain_text_docstring(None, "module", "x", None, None, lines)
    result = re.sub(r"\n{2,}", "\n\n", "\n".join(lines)).strip()
    assert re.sub(r" +", " ", result.replace("\n    ", "\n____")) == re.sub(
        r" +", " ", expected.replace("\n    ", "\n____")
    )
