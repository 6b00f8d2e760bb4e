"""`rldg sim`: what the simulated cell is made of."""

from __future__ import annotations

from rldg_bringup.cli_common import Json, TaskArgument, emit, print_tables, sub_app

app = sub_app()


@app.callback()
def _group() -> None:
    """The simulated cell."""


@app.command()
def describe(task: TaskArgument, as_json: Json = False) -> None:
    """Print the errors of arm, hand, sensors and cameras that `scene.realism` of a task chooses."""
    from rich.table import Table

    from rldg_bringup.pipeline import resolve_task
    from rldg_sim.realism.presets import PRESETS

    scene = resolve_task(task).scene
    rows = list(PRESETS[scene.realism].rows())
    if as_json:
        emit({"realism": scene.realism, **{name: value for name, value, _ in rows}}, True, "sim")
        return
    table = Table("setting", "value", "meaning", title=f"{task}: scene.realism {scene.realism}")
    for name, value, meaning in rows:
        table.add_row(name, f"{value:g}" if value else "off", meaning)
    print_tables(table)
