"""The `rldg` command. Bad input: exit code 2 and one clear line, never a traceback."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rldg_bringup import (
    cli_bags,
    cli_checkpoint,
    cli_data,
    cli_dataset,
    cli_episodes,
    cli_finetune,
    cli_running,
    cli_sim,
    cli_train,
)
from rldg_bringup.cli_classifier import app as classifier_app
from rldg_bringup.cli_common import Commands, Json, Seed, console, print_tables, progress_maker
from rldg_bringup.cli_policy import policy_app
from rldg_core.errors import DEBUG_VARIABLE, UserError, report
from rldg_core.limits import check_name
from rldg_core.network import stay_on_this_machine

app = typer.Typer(
    name="rldg",
    cls=Commands,
    help="RLDG for ROS 2: specialists by RL, generalists by distillation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for module in (cli_episodes, cli_train, cli_data, cli_running):
    app.add_typer(module.app)
app.add_typer(cli_bags.app, name="bag")
app.add_typer(cli_dataset.app, name="dataset")
app.add_typer(cli_checkpoint.app, name="checkpoint")
app.add_typer(cli_finetune.app, name="finetune")
app.add_typer(cli_sim.app, name="sim")
app.add_typer(policy_app, name="policy")
app.add_typer(classifier_app, name="classifier")


@app.command()
def up(
    stack: Annotated[str, typer.Argument(help="Stack to start: insertion, or robot (only the drivers of the arm).")],
    arguments: Annotated[list[str] | None, typer.Argument(help="name:=value, as with ros2 launch.")] = None,
    show_args: Annotated[bool, typer.Option("--show-args", help="List the arguments and exit.")] = False,
    log_dir: Annotated[Path, typer.Option(help="Folder for the output of the nodes.")] = Path("log/rldg"),
) -> None:
    """Start a stack as `ros2 launch rldg_bringup <stack>.launch.py` would; Ctrl-C ends it."""
    from rldg_bringup.arguments import StackArguments, arguments_from_pairs
    from rldg_bringup.stack import STACKS

    check_name("stack", stack, tuple(STACKS))
    if show_args:
        _show_arguments(StackArguments)
        return
    values = arguments_from_pairs(arguments or [])
    from rldg_bringup.client import connected, refuse_second_stack
    from rldg_bringup.pipeline import share_dir
    from rldg_bringup.runner import running_stack

    declared = STACKS[stack](values, share_dir())
    log_dir.mkdir(parents=True, exist_ok=True)
    with connected(values.namespace) as client:
        refuse_second_stack(client)
    with running_stack(declared, log_dir, values.params_file, values.log_level) as process:
        names = ", ".join(n.name for n in process.nodes)
        console.print(f"started {names}; logs in {log_dir}; Ctrl-C ends everything")
        with connected(values.namespace, process.check) as client:
            client.wait(lambda: False, float("inf"), "")


def _show_arguments(arguments: Any) -> None:
    from dataclasses import fields

    table = Table("argument", "default", "meaning")
    for field in fields(arguments):
        table.add_row(field.name, "" if field.default is None else str(field.default), field.metadata["help"])
    print_tables(table)


@app.command()
def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Few episodes and steps: a smoke test in under 3 minutes.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/demo or runs/demo-quick.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run the whole RLDG loop on the simulated cell. An interrupted run is resumed."""
    from rldg_bringup.client import connected, refuse_second_stack
    from rldg_bringup.demo import Demo
    from rldg_bringup.demo_plan import FULL, QUICK

    run_dir = out or Path("runs/demo-quick" if quick else "runs/demo")
    with connected() as client:
        refuse_second_stack(client)
    with progress_maker() as make:
        run = Demo(run_dir, QUICK if quick else FULL, seed, make)
        total = len(run.stages())
        report = run.run(lambda stage, index: console.print(f"{index + 1}/{total} {stage.name}", style="bold"))
    if as_json:
        print(json.dumps(report))
    else:
        _print_report(report, run_dir)


def _print_report(report: Any, run_dir: Path) -> None:
    table = Table("policy", "connectors", "success", "cycle time [s]", title="RLDG on the simulated cell")

    def row(name: str, group: str, value: Any) -> None:
        cycle = value["cycle_time_s"]
        rate = f"{value['success']}/{value['episodes']}"
        table.add_row(name, group, rate, "-" if cycle is None else f"{cycle:.1f}")

    row("RL specialist", "seen", report["specialist"])
    for name, label in (("scripted", "generalist, scripted data"), ("rldg", "generalist, RL data")):
        for group in ("seen", "unseen"):
            row(label, group, report["generalists"][name][group])
    print_tables(table)
    minutes = sum(s["wall_s"] for s in report["stages"]) / 60
    swap = report["swap"]
    console.print(
        f"{swap['attempts']} swaps at 10 Hz, {swap['missed_ticks']} missed ticks; {minutes:.1f} minutes in all"
    )
    console.print(f"report, plots and GIFs: {run_dir}/report.json, {run_dir}/plots, {run_dir}/media")


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(help="Run folder of a demo.")] = Path("runs/demo"),
) -> None:
    """Plot a finished demo again."""
    from rldg_bringup.demo import Demo
    from rldg_bringup.demo_plan import DemoPlan
    from rldg_bringup.pipeline import TrainingLimits
    from rldg_core.files import read_json

    report = read_json(run / "report.json")
    try:
        plan = dict(report["plan"])
        plan["training"] = TrainingLimits(**plan["training"])
        plan["unseen_objects"] = tuple(plan["unseen_objects"])
        demo_plan, seed = DemoPlan(**plan), int(report["seeds"]["base"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run / 'report.json'}: not the report of a demo: {error}") from error
    folder = run / "plots"
    folder.mkdir(exist_ok=True)
    result = Demo(run, demo_plan, seed, lambda _name: lambda _done, _total: None).plot(folder)
    console.print(f"{folder}: {', '.join(result['files'])}")


@app.command()
def doctor(
    robot: Annotated[str, typer.Option(help="Check this robot profile and its drivers, too: name or .yaml file.")] = "",
    as_json: Json = False,
) -> None:
    """Check this machine for hardware and software, and say how to get what is missing."""
    from rldg_bringup.doctor import run

    raise typer.Exit(run(as_json, robot))


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors, also of nodes.")] = False,
) -> None:
    """RLDG for ROS 2: specialists by RL, generalists by distillation."""
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


def main() -> None:
    """Run `rldg`. SIGTERM is handled like Ctrl-C, so that the nodes of a stack end in order."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        stay_on_this_machine()
        app(standalone_mode=True)
    except KeyboardInterrupt:
        print("rldg: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        sys.exit(report("rldg", error))
