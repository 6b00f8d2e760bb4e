"""`rldg sim` from the command line, and texts with brackets in every table."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.table import Table

from rldg_bringup.cli_common import print_tables
from rldg_sim.realism.presets import PRESETS

DOMAIN = 161


def test_describe_prints_every_setting_of_the_preset(
    rldg: Callable[..., subprocess.CompletedProcess[str]], ideal_task: Path
) -> None:
    printed = json.loads(rldg("sim", "describe", "insertion", "--json").stdout)
    assert printed == {"realism": "bench"} | {name: value for name, value, _ in PRESETS["bench"].rows()}
    table = rldg("sim", "describe", ideal_task).stdout
    assert "scene.realism ideal" in table and table.count("off") == len(printed) - 1


def test_unknown_realism_is_refused_with_the_expected_ones(
    rldg: Callable[..., subprocess.CompletedProcess[str]], ideal_task: Path
) -> None:
    ideal_task.write_text(ideal_task.read_text().replace("realism: ideal", "realism: perfect"))
    done = rldg("sim", "describe", ideal_task)
    assert done.returncode == 2
    assert "scene.realism: Input should be 'ideal', 'bench' or 'hard', got 'perfect'" in done.stderr


def test_tables_print_units_in_brackets(
    rldg: Callable[..., subprocess.CompletedProcess[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Rich would take "[s]" for a style."""
    assert "[m] [arm]" in rldg("sim", "describe", "insertion").stdout
    table = Table("cycle time [s]", title="[bold]")
    table.add_row("[/tmp]")
    print_tables(table)
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("cycle time [s]", "[bold]", "[/tmp]"))
