"""Sphinx extension: writes the reference pages that the code is the source of, before Sphinx reads the documents.

reference/generated/: interfaces.md (rldg_msgs), parameters.md (every node), launch_arguments.md (rldg_bringup.stack),
command_line.md (the typer application) and api/ (a page for each folder of pure modules). Needs the sourced workspace.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rosidl_adapter import parser as rosidl
from typer.cli import get_docs_for_click

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "rldg_core": "frames, types, tasks, files and the Policy protocol; knows nothing of ROS",
    "rldg_ros": "rclpy glue: QoS profiles, messages, parameters, start and stop of nodes",
    "rldg_sim": "the simulated Franka cell and the scripted operators",
    "rldg_data": "bags, episodes, datasets, lint",
    "rldg_rl": "RLPD: agent, replay, image encoders, learner, reward classifier",
    "rldg_policy": "policy server, generalists, fine-tuning",
    "rldg_control": "observer, gate, teleoperation, gripper, episodes",
    "rldg_bringup": "stacks, launch, the command line, the demo",
}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; pipes and line breaks in cells are escaped."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(value: Any) -> str:
    return f"`{value}`" if str(value) else ""


# --- interfaces ---------------------------------------------------------------------------------


def _comment(annotations: dict[str, Any]) -> str:
    """The comment of a message or field; rosidl takes the unit out of its brackets, here it stands at the end."""
    text = " ".join(annotations.get("comment", [])).lstrip(", ")
    return f"{text} [{annotations['unit']}]" if "unit" in annotations else text


def _prose(text: str) -> str:
    return text.replace("<", "&lt;")


def _section(message: Any, title: str = "") -> str:
    parts = [f"**{title}**\n"] if title else []
    if _comment(message.annotations):
        parts.append(_prose(_comment(message.annotations)) + "\n")
    rows = [[_code(f"{c.type} {c.name} = {c.value}"), _prose(_comment(c.annotations))] for c in message.constants]
    rows += [[_code(f"{f.type} {f.name}"), _prose(_comment(f.annotations))] for f in message.fields]
    parts.append(table(("field", "meaning"), rows) if rows else "Empty.\n")
    return "\n".join(parts)


def interfaces_page(package: Path) -> str:
    """Return the page of all messages, services and actions of an interface package."""
    name = package.name
    text = f"# Messages, services and actions\n\nInterfaces of `{name}`.\n"
    text += "\n## Messages\n"
    for path in sorted((package / "msg").glob("*.msg")):
        text += f"\n### {path.stem}\n\n{_section(rosidl.parse_message_file(name, str(path)))}"
    text += "\n## Services\n"
    for path in sorted((package / "srv").glob("*.srv")):
        service = rosidl.parse_service_file(name, str(path))
        text += f"\n### {path.stem}\n\n{_section(service.request, 'Request')}\n{_section(service.response, 'Response')}"
    text += "\n## Actions\n"
    for path in sorted((package / "action").glob("*.action")):
        action = rosidl.parse_action_file(name, str(path))
        parts = (("Goal", action.goal), ("Result", action.result), ("Feedback", action.feedback))
        text += f"\n### {path.stem}\n\n" + "\n".join(_section(message, title) for title, message in parts)
    return text


# --- parameters, launch arguments, command line -----------------------------------------------------


def parameters_page(declared: dict[str, list[dict[str, Any]]]) -> str:
    """Return the page of all node parameters from the output of node_parameters.py."""
    text = (
        "# Node parameters\n\nWhat each node declares when it is made with its defaults. Parameters are read once and "
        "are read-only afterwards; `ros2 param describe` shows the same descriptions and ranges. Every node also has "
        "`use_sim_time`; the lifecycle nodes `gate` and `policy` have `autostart`.\n"
    )
    for node, parameters in declared.items():
        text += f"\n## {node}\n\n"
        rows = [
            [
                _code(p["name"]),
                p["type"],
                _code(json.dumps(p["default"])),
                p.get("limits", ""),
                p.get("description", ""),
            ]
            for p in parameters
        ]
        text += table(("parameter", "type", "default", "range", "meaning"), rows) if rows else "No parameters.\n"
    return text


def _limits(metadata: Any) -> str:
    limits = metadata["limits"]
    if limits["choices"]:
        return ", ".join(limits["choices"])
    low, high = limits["low"], limits["high"]
    if low is None and high is None:
        return ""
    if high is None:
        return f"{low} or more"
    return f"{high} or less" if low is None else f"{low} to {high}"


def _default(value: Any) -> str:
    return "" if value is None else json.dumps(value).strip('"')


def launch_arguments_page(arguments: type[Any]) -> str:
    """Return the page of the launch arguments, from the dataclass that declares them."""
    rows = [
        [_code(f.name), _code(_default(f.default)), _limits(f.metadata), f.metadata["help"]] for f in fields(arguments)
    ]
    return (
        "# Launch arguments\n\nArguments of `ros2 launch rldg_bringup insertion.launch.py` and of `rldg up insertion`, "
        "written `name:=value`. `robot.launch.py` and `rldg up robot` take the same names.\n\n"
        + table(("argument", "default", "range", "meaning"), rows)
    )


def command_line_page() -> str:
    """Return the page of the `rldg` command tree."""
    from rldg_bringup.cli import app

    command = typer.main.get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command), name="rldg", title="Command line")


def node_parameters(cache: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what the nodes declare. `cache` is used while it is newer than every source file."""
    script = Path(__file__).with_name("node_parameters.py")
    newest = max(path.stat().st_mtime for path in (script, *ROOT.glob("src/rldg_*/rldg_*/**/*.py")))
    if not cache.exists() or cache.stat().st_mtime < newest:
        result = subprocess.run([sys.executable, str(script)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        write(cache, result.stdout)
    found: dict[str, list[dict[str, Any]]] = json.loads(cache.read_text())
    return found


# --- Python API ---------------------------------------------------------------------------------


def pure_modules(package: str) -> Iterator[str]:
    """Yield the public modules of a package in order; nodes are described by their parameters."""
    folder = ROOT / "src" / package / package
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        private = any(part.startswith("_") and part != "__init__" for part in parts)
        if "nodes" not in parts and not private and path.read_text().strip():
            yield ".".join(part for part in parts if part != "__init__")


def api_pages() -> dict[str, str]:
    """Return name -> text of the API pages: an index, and a page for each folder of modules."""
    index = "# Python API\n\nThe pure modules of each package, from their docstrings.\n\n"
    groups: dict[str, list[str]] = {}
    for package, what in PACKAGES.items():
        index += f"* [`{package}`]({package}.md): {what}\n"
        for module in pure_modules(package):
            is_folder = (ROOT / "src" / package / module.replace(".", "/")).is_dir()
            groups.setdefault(module if is_folder else module.rpartition(".")[0], []).append(module)
    pages = {}
    for group, modules in groups.items():
        text = f"# {group}\n"
        for module in modules:
            text += f"\n## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :ignore-module-all:\n```\n"
        pages[group] = text
    listed = "\n".join(pages)
    pages["index"] = f"{index}\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"
    return pages


_SPAN = re.compile(r"(`+[^`]*`+)")


def _as_rst(text: str) -> str:
    """Escape what is markup to reStructuredText and nothing to the authors; `code` becomes ``code``."""
    parts = _SPAN.split(text)
    result = ""
    for i, part in enumerate(parts):
        code = part.strip("`").strip()
        if i % 2 and code:
            # Inline markup must be set off from letters; an escaped blank does it and is not printed.
            before = "\\ " if re.search(r"[^\s([{<'\"/:-]$", result) else ""
            after = "\\ " if re.match(r"[^\s)\]}>'\"/:.,;!?-]", parts[i + 1]) else ""
            result += f"{before}``{code}``{after}"
        else:
            result += re.sub(r"([\\*_|`])", r"\\\1", part)
    return re.sub(r"(?<=\S) {2,}", " ", result).strip()


def plain_text_docstring(*arguments: Any) -> None:
    """autodoc-process-docstring: our docstrings are plain text with `code`; paragraphs, lists and indented blocks."""
    lines: list[str] = arguments[-1]
    blocks = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    result: list[str] = []
    for block in blocks:
        rows = [row for row in block.split("\n") if row.strip()]
        if not rows:
            continue
        if all(row.startswith("    ") for row in rows):
            result += ["::", "", *rows, ""]
            continue
        items: list[str] = []
        for row in rows:
            bullet = re.match(r"\s*([*-]|\d+\.) ", row)
            if bullet or not items:
                items.append(row.strip())
            else:
                items[-1] += " " + row.strip()
        for item in items:
            bullet = re.match(r"([*-]|\d+\.) (.*)", item)
            if bullet:
                result += ["", f"* {_as_rst(bullet[2])}"]
            else:
                result += ["", _as_rst(item)]
        result.append("")
    lines[:] = result


# --- Sphinx -------------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    """Write a page unless it is there already: Sphinx reads again what has a new time."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def generate(app: Sphinx) -> None:
    """builder-inited: write all pages and remove those of modules that are gone."""
    from rldg_bringup.arguments import StackArguments

    folder = Path(app.srcdir) / "reference/generated"
    pages = {
        "interfaces": interfaces_page(ROOT / "src/rldg_msgs"),
        "parameters": parameters_page(node_parameters(folder / "parameters.json")),
        "launch_arguments": launch_arguments_page(StackArguments),
        "command_line": command_line_page(),
        **{f"api/{name}": text for name, text in api_pages().items()},
    }
    for path in folder.rglob("*.md"):
        if path.relative_to(folder).with_suffix("").as_posix() not in pages:
            path.unlink()
    for name, text in pages.items():
        write(folder / f"{name}.md", text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Entry point of Sphinx."""
    app.connect("builder-inited", generate)
    app.connect("autodoc-process-docstring", plain_text_docstring)
    return {"parallel_read_safe": True}
