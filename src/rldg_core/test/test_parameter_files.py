"""ROS parameter files: sections of every form, and names that no node would take."""

from __future__ import annotations

from pathlib import Path

import pytest

from rldg_core.errors import UserError
from rldg_core.parameter_files import check_node_names, check_parameter_names, read_sections

KNOWN = ("debounce_s", "mode", "open_width_m", "use_sim_time")


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_sections_of_every_form_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "/**: {ros__parameters: {use_sim_time: true}}\n"
        "/rldg/gripper: {ros__parameters: {mode: topic}}\n"
        "rldg: {gate: {ros__parameters: {a: {b: 1, c: {d: 2}}}}}\n"
        "/**/observer: {ros__parameters: {}}\n",
    )
    assert [(one.key, one.node, one.names) for one in read_sections(path)] == [
        ("/**", "", ("use_sim_time",)),
        ("/rldg/gripper", "gripper", ("mode",)),
        ("/rldg/gate", "gate", ("a.b", "a.c.d")),
        ("/**/observer", "observer", ()),
    ]


@pytest.mark.parametrize("text", ["gate: 3", "[1]", "gate: {ros__parameters: 3}", "gate: {mode: topic}"])
def test_what_is_no_parameter_file_is_refused(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError, match=f"^{path}: .*expected node names, each with ros__parameters$"):
        read_sections(path)


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("/rldg/gripper", "debounc_s", "/rldg/gripper: node gripper has no parameter 'debounc_s', expected debounce_s"),
        (
            "gripper",
            "force",
            "/gripper: node gripper has no parameter 'force', expected debounce_s, mode, open_width_m",
        ),
        ("/**", "debounc_s", "/**: node gripper has no parameter 'debounc_s', expected debounce_s"),
        ("/**/gripper", "nonsense", "/**/gripper: node gripper has no parameter 'nonsense', expected debounce_s, mode"),
        ("/**", "box", None),
        ("/rldg/cell", "nonsense", None),
    ],
)
def test_unknown_parameter_is_refused_where_it_is_meant_for_the_node(
    tmp_path: Path, key: str, name: str, message: str | None
) -> None:
    path = written(tmp_path, f"{key}: {{ros__parameters: {{{name}: 1}}}}\n")
    if message is None:
        check_parameter_names(path, "gripper", [name], KNOWN)
        return
    with pytest.raises(UserError) as caught:
        check_parameter_names(path, "gripper", [name], KNOWN)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_misspelt_node_is_refused_and_a_node_of_others_is_not(tmp_path: Path) -> None:
    nodes = ("gate", "gripper", "learner", "observer")
    check_node_names(
        written(tmp_path, "/**: {ros__parameters: {a: 1}}\n/nav/planner: {ros__parameters: {b: 1}}"), nodes
    )
    for wrong, meant in (("observr", "observer"), ("gaet", "gate"), ("Gripper", "gripper")):
        path = written(tmp_path, f"/rldg/{wrong}: {{ros__parameters: {{a: 1}}}}")
        with pytest.raises(UserError, match=f"^{path}: /rldg/{wrong}: no node '{wrong}', expected {meant}$"):
            check_node_names(path, nodes)
