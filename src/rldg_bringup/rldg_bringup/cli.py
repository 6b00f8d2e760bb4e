"""The `rldg` command. Bad input: exit code 2 and one clear line, never a traceback."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from rldg_core.errors import UserError

app = typer.Typer(
    name="rldg",
    help="RLDG for ROS 2: specialists by RL, generalists by distillation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
policy_app = typer.Typer(help="Policies of a running stack: list, load, activate, unload.", no_args_is_help=True)
bag_app = typer.Typer(help="Recorded episodes.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")
app.add_typer(bag_app, name="bag")

console = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
TaskArgument = Annotated[str, typer.Argument(help="Task: name, name:object, or a .yaml file.")]
Real = Annotated[bool, typer.Option("--real", help="Drive the robot instead of the simulated cell.")]
Namespace = Annotated[str, typer.Option(help="Namespace of the running stack.")]


@contextmanager
def progress_maker() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Progress bars with time left; yields a function that makes the callback of a named bar."""
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:

        def make(name: str) -> Callable[[int, int], None]:
            for earlier in bars.tasks:
                # A stage may end before its limit; its clock must not run on.
                bars.update(earlier.id, total=earlier.completed)
                bars.stop_task(earlier.id)
            bar = bars.add_task(name, total=None)
            return lambda done, total: bars.update(bar, completed=done, total=total)

        yield make


def _emit(value: Any, as_json: bool, title: str) -> None:
    """Print a flat mapping for machines or for people."""
    if as_json:
        print(json.dumps(value))
        return
    table = Table(title=title, show_header=False)
    for key, item in value.items():
        table.add_row(str(key), str(item))
    Console().print(table)


@app.command()
def up(
    stack: Annotated[str, typer.Argument(help="Stack to start: insertion.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="name:=value, as with ros2 launch.")] = None,
    show_args: Annotated[bool, typer.Option("--show-args", help="List the arguments and end.")] = False,
    log_dir: Annotated[Path, typer.Option(help="Where the nodes' output goes.")] = Path("log/rldg"),
) -> None:
    """Start a stack as `ros2 launch rldg_bringup <stack>.launch.py` would; Ctrl-C ends it."""
    from rldg_bringup.stack import StackArguments, arguments_from_text, insertion_stack

    if stack != "insertion":
        raise UserError(f"unknown stack {stack!r}, expected insertion")
    if show_args:
        _show_arguments(StackArguments)
        return
    pairs = [a.partition(":=") for a in arguments or []]
    for name, separator, _ in pairs:
        if not separator:
            raise UserError(f"argument {name!r}: expected name:=value")
    values = arguments_from_text({name: value for name, _, value in pairs})
    from rldg_bringup.client import connected, refuse_second_stack
    from rldg_bringup.pipeline import share_dir
    from rldg_bringup.runner import running_stack

    declared = insertion_stack(values, share_dir())
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
        table.add_row(field.name, str(field.default), field.metadata["help"])
    Console().print(table)


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="Tiny budgets: a smoke test in under 3 minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/demo or runs/demo-quick.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run the whole loop on the simulated cell. Interrupted runs go on where they stopped."""
    from rldg_bringup.client import connected, refuse_second_stack
    from rldg_bringup.demo import Demo
    from rldg_bringup.demo_plan import FULL, QUICK

    run_dir = out or Path("runs/demo-quick" if quick else "runs/demo")
    with connected() as client:
        refuse_second_stack(client)
    with progress_maker() as make:
        run = Demo(run_dir, QUICK if quick else FULL, seed, make)
        total = len(run.stages())
        report = run.run(lambda stage, index: console.print(f"[bold]{index + 1}/{total} {stage.name}[/bold]"))
    if as_json:
        print(json.dumps(report))
    else:
        _print_report(report, run_dir)


def _print_report(report: Any, run_dir: Path) -> None:
    table = Table("policy", "connectors", "success", "cycle time [s]", title="RLDG on the simulated cell")

    def row(name: str, group: str, value: Any) -> None:
        cycle = value["cycle_time_s"]
        table.add_row(name, group, f"{value['success']}/{value['episodes']}", "-" if cycle is None else f"{cycle:.1f}")

    row("RL specialist", "seen", report["specialist"])
    for name, label in (("scripted", "generalist, scripted data"), ("rldg", "generalist, RL data")):
        for group in ("seen", "unseen"):
            row(label, group, report["generalists"][name][group])
    Console().print(table)
    minutes = sum(s["wall_s"] for s in report["stages"]) / 60
    swap = report["swap"]
    console.print(
        f"{swap['attempts']} swaps at 10 Hz, {swap['missed_ticks']} missed ticks; {minutes:.1f} minutes in all"
    )
    console.print(f"report, plots and GIFs: {run_dir}/report.json, {run_dir}/plots, {run_dir}/media")


@app.command()
def record(
    task: TaskArgument,
    out: Annotated[Path, typer.Option(help="Folder for the bags.")],
    episodes: Annotated[int, typer.Option(min=1)] = 20,
    seed: Seed = 0,
    real: Real = False,
    as_json: Json = False,
) -> None:
    """Record demonstrations: by the SpaceMouse on the robot, by the scripted operator in simulation."""
    from rldg_bringup.pipeline import record_demonstrations, simulated

    with progress_maker() as make:
        outcome = record_demonstrations(
            simulated(task, seed, not real), episodes, out, out / "log", make("demonstrations")
        )
    _emit(_outcome(task, outcome), as_json, "demonstrations")


@app.command()
def train(
    task: TaskArgument,
    demos: Annotated[Path, typer.Option(help="Bags of demonstrations.")],
    out: Annotated[Path, typer.Option(help="Run folder.")],
    max_steps: Annotated[int, typer.Option(min=1, help="Control steps at most.")] = 15_000,
    min_steps: Annotated[int, typer.Option(min=0)] = 6_000,
    success_rate: Annotated[float, typer.Option(help="Stop at this rate over 20 training episodes.")] = 0.95,
    learner_config: Annotated[str, typer.Option(help="YAML with overrides of the learner's configuration.")] = "",
    seed: Seed = 0,
    real: Real = False,
    as_json: Json = False,
) -> None:
    """Train a specialist live, from demonstrations and its own steps."""
    from rldg_bringup.pipeline import TrainingLimits, simulated
    from rldg_bringup.pipeline import train as train_specialist

    _existing(demos)
    arguments = replace(simulated(task, seed, not real), learner_config=learner_config)
    with progress_maker() as make:
        result = train_specialist(
            arguments,
            demos,
            out,
            TrainingLimits(success_rate, min_steps, max_steps),
            out / "log",
            make("control steps"),
        )
    value = {"env_steps": result.env_steps, "updates": result.updates, "specialist": str(result.specialist)}
    _emit({**_outcome(task, result.episodes), **value}, as_json, "specialist")


@app.command()
def collect(
    task: TaskArgument,
    checkpoint: Annotated[Path, typer.Option(help="Specialist folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the bags.")],
    episodes: Annotated[int, typer.Option(min=1)] = 60,
    seed: Seed = 0,
    real: Real = False,
    as_json: Json = False,
) -> None:
    """Roll a specialist out and record every episode; `export --only-success` drops the failures."""
    _roll(task, "specialist", checkpoint, episodes, seed, out / "log", (), out, real, as_json)


@app.command()
def evaluate(
    task: TaskArgument,
    policy: Annotated[str, typer.Option(help="Back-end: specialist, compact, scripted, hold.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder.")] = None,
    episodes: Annotated[int, typer.Option(min=1)] = 20,
    objects: Annotated[str, typer.Option(help="Comma-separated, cycled through; default: the task's.")] = "",
    out: Annotated[Path | None, typer.Option(help="Record bags here.")] = None,
    log_dir: Annotated[Path, typer.Option(help="Where the nodes' output goes.")] = Path("log/rldg"),
    seed: Seed = 0,
    real: Real = False,
    as_json: Json = False,
) -> None:
    """Run a policy and count its successes."""
    names = tuple(o for o in objects.split(",") if o)
    _roll(task, policy, checkpoint, episodes, seed, log_dir, names, out, real, as_json)


def _roll(
    task: str,
    policy: str,
    checkpoint: Path | None,
    episodes: int,
    seed: int,
    log_dir: Path,
    objects: tuple[str, ...],
    out: Path | None,
    real: bool,
    as_json: bool,
) -> None:
    from rldg_bringup.pipeline import resolve_task, roll_out, simulated

    resolved = resolve_task(task)
    for name in objects:
        resolved.object_or_default(name)
    if checkpoint:
        _existing(checkpoint)
    with progress_maker() as make:
        outcome = roll_out(
            simulated(task, seed, not real),
            policy,
            checkpoint,
            episodes,
            seed,
            log_dir,
            objects=objects,
            bag_dir=out,
            progress=make(policy),
        )
    _emit(_outcome(task, outcome), as_json, policy)


def _outcome(task: str, outcome: Any) -> dict[str, Any]:
    from rldg_bringup.pipeline import resolve_task

    period_s = resolve_task(task).period_s
    return {
        "success": outcome.successes,
        "episodes": len(outcome.success),
        "cycle_time_s": outcome.cycle_time_s(period_s),
    }


@app.command()
def export(
    bags: Annotated[list[Path], typer.Argument(help="Folders of bags.")],
    out: Annotated[Path, typer.Option(help="Root of the datasets.")],
    name: Annotated[str, typer.Option(help="Name of the dataset.")],
    version: Annotated[str, typer.Option()] = "1.0.0",
    only_success: Annotated[bool, typer.Option(help="Keep successful episodes only.")] = True,
    source: Annotated[str, typer.Option(help="Keep this source only: policy, scripted, human.")] = "",
    max_episodes: Annotated[int | None, typer.Option(min=1)] = None,
    max_episodes_per_object: Annotated[int | None, typer.Option(min=1, help="Balance the objects.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing dataset.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Export bags to an RLDS dataset, as TFDS, OpenVLA and Octo read it."""
    from rldg_data.export import export_dataset

    for folder in bags:
        _existing(folder)
    with progress_maker() as make:
        result = export_dataset(
            bags,
            out,
            name,
            version,
            only_success=only_success,
            source=source,
            max_episodes=max_episodes,
            max_episodes_per_object=max_episodes_per_object,
            seed=seed,
            overwrite=overwrite,
            progress=make("export"),
        )
    _emit({"path": str(result.path), "episodes": result.episodes, "steps": result.steps}, as_json, "dataset")


@app.command()
def finetune(
    model: Annotated[str, typer.Argument(help="compact")],
    dataset: Annotated[Path, typer.Argument(help="Dataset folder <root>/<name>/<version>.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder.")],
    steps: Annotated[int, typer.Option(min=1)] = 1500,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Fine-tune a generalist on an RLDS dataset."""
    if model != "compact":
        raise UserError(f"unknown generalist {model!r}, expected compact")
    _existing(dataset)
    from rldg_policy.compact.config import TrainConfig
    from rldg_policy.compact.train import finetune as train_compact

    with progress_maker() as make:
        result = train_compact(dataset, out, TrainConfig(steps=steps), seed=seed, progress=make("fine-tune"))
    _emit({**asdict(result), "checkpoint": str(out)}, as_json, "generalist")


@policy_app.command("list")
def policy_list(namespace: Namespace = "", as_json: Json = False) -> None:
    """Show the policies of the running stack."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        response = client.list_policies()
    rows = [
        {"policy_id": p.policy_id, "backend": p.backend, "active": p.active, "version": int(p.version), "path": p.path}
        for p in response.policies
    ]
    if as_json:
        print(json.dumps({"policies": rows, "backends": list(response.backends)}))
        return
    table = Table("policy", "back-end", "active", "version", "path", title=f"back-ends: {', '.join(response.backends)}")
    for row in rows:
        table.add_row(*(str(v) for v in row.values()))
    Console().print(table)


@policy_app.command("load")
def policy_load(
    policy_id: str,
    backend: str,
    path: Annotated[str, typer.Argument()] = "",
    activate: bool = False,
    explore: bool = False,
    namespace: Namespace = "",
) -> None:
    """Load and warm up a policy beside the active one."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        checkpoint = str(Path(path).resolve()) if path else ""
        client.load_policy(policy_id, backend, checkpoint, explore=explore, activate=activate)


@policy_app.command("activate")
def policy_activate(policy_id: str, namespace: Namespace = "") -> None:
    """Swap to a loaded policy between two ticks."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        client.activate_policy(policy_id)


@policy_app.command("unload")
def policy_unload(policy_id: str, namespace: Namespace = "") -> None:
    """Forget a loaded policy."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        client.unload_policy(policy_id)


@bag_app.command("info")
def bag_info(path: Path, as_json: Json = False) -> None:
    """Show what a bag, or every bag of a folder, holds."""
    from rldg_data.bags import bag_info as read_info
    from rldg_data.bags import find_bags

    _existing(path)
    bags = [path] if (path / "metadata.yaml").is_file() else find_bags(path)
    if not bags:
        raise UserError(f"{path}: no bags in it")
    infos = [(bag, read_info(bag)) for bag in bags]
    if as_json:
        print(json.dumps([{"path": str(bag), **info.custom_data} for bag, info in infos]))
        return
    table = Table("bag", "task", "object", "success", "source", "policy", "version", "steps")
    for bag, info in infos:
        data = info.custom_data
        keys = ("task", "object", "success", "source", "policy_id", "policy_version", "steps")
        table.add_row(bag.name, *(str(data.get(k, "")) for k in keys))
    Console().print(table)


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(help="Run folder of a demo.")] = Path("runs/demo"),
) -> None:
    """Draw the plots of a finished demo again."""
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
def doctor(as_json: Json = False) -> None:
    """Show what was found on this machine, and what to do about what is missing."""
    from rldg_bringup.doctor import run

    raise typer.Exit(run(as_json))


def _existing(path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: SIGTERM ends like Ctrl-C, so that a stack is always taken down in order."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(standalone_mode=True)
    except UserError as error:
        print(f"rldg: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("rldg: interrupted", file=sys.stderr)
        sys.exit(130)
