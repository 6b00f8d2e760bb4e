"""`rldg bag`: inspect, check, repair and import bags on disk."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from functools import cache
from itertools import chain
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rldg_bringup.cli_common import Json, console, existing, print_tables, progress_maker, sub_app
from rldg_core.errors import UserError, one_line

if TYPE_CHECKING:
    from rldg_core.task import Task
    from rldg_data.bags.summary import BagSummary

app = sub_app()


@app.callback()
def _group() -> None:
    """Recorded episodes and external bags."""


@app.command()
def info(
    paths: Annotated[list[Path], typer.Argument(help="Bags, or folders of bags.")],
    as_json: Json = False,
) -> None:
    """Show topics, counts, duration, rate, size and episode metadata of bags."""
    from rldg_data.bags.summary import summarize

    summaries = [summarize(bag) for bag in _bags(paths)]
    if as_json:
        print(json.dumps([s.to_json() for s in summaries]))
    elif len(summaries) == 1:
        _print_one(summaries[0])
    else:
        _print_many(summaries)


@app.command()
def cost(
    paths: Annotated[list[Path], typer.Argument(help="Bags, or folders of bags.")],
    as_json: Json = False,
) -> None:
    """Show what episodes cost: force, time, path, jerk, and a score of them (docs/reference/data.md)."""
    from rldg_data.bags.reading import read_episode
    from rldg_data.episode_cost import episode_cost, mean_costs

    costs = [(bag, episode_cost(read_episode(bag))) for bag in _bags(paths)]
    if as_json:
        print(json.dumps([{"path": str(bag), **vars(cost), "score": cost.score} for bag, cost in costs]))
        return
    table = Table("bag", "success", "time [s]", "peak [N]", "> 20 N [s]", "path [m]", "jerk [m/s^3]", "score")
    for bag, cost in costs:
        values = (cost.duration_s, cost.peak_force_n, cost.over_limit_s, cost.path_m, cost.jerk_m_s3, cost.score)
        table.add_row(_cell(bag.name), "yes" if cost.success else "no", *(f"{value:.2f}" for value in values))
    mean = mean_costs(cost for _, cost in costs)
    keys = ("duration_s", "peak_force_n", "over_limit_s", "path_m", "jerk_m_s3", "score")
    table.add_section()
    table.add_row("mean", f"{sum(c.success for _, c in costs)}/{len(costs)}", *(f"{mean[key]:.2f}" for key in keys))
    print_tables(table)


@app.command()
def show(
    bag: Annotated[Path, typer.Argument(help="One bag.")],
    out: Annotated[
        Path | None, typer.Option(help="PNG file to write; default: <name of the bag>.png in the current folder.")
    ] = None,
) -> None:
    """Plot a bag: images over time, executed actions, wrench."""
    from rldg_data.bags.summary import draw_bag

    existing(bag)
    path = out or Path(f"{bag.resolve().name}.png")
    draw_bag(bag, path)
    _say(str(path))


@app.command()
def lint(
    paths: Annotated[list[Path], typer.Argument(help="Bags, or folders of bags.")],
    as_json: Json = False,
) -> None:
    """Check recorded episodes before a dataset is made from them; print one line per finding.

    Exit code 0: no finding of severity error; 1: at least one; 2: no bags found.
    """
    from rldg_bringup.lint_output import report
    from rldg_data.lint import lint as run

    for path in paths:
        existing(path)
    findings = chain.from_iterable(run(path, find_tasks=_installed) for path in paths)
    raise typer.Exit(report(" ".join(map(str, paths)), findings, as_json))


@cache
def _installed(name: str) -> list[Task]:
    """Return the variants of an installed task; none if the task is not installed."""
    from rldg_bringup.pipeline import share_dir
    from rldg_core.task import load_task
    from rldg_data.lint.bag import variants

    path = share_dir() / "config" / "tasks" / f"{name}.yaml"
    return variants(load_task(path)) if name.isidentifier() and path.is_file() else []


@app.command()
def repair(
    folder: Annotated[
        Path, typer.Argument(help="A damaged bag, or a folder of bags, including its folder `unfinished`.")
    ],
    as_json: Json = False,
) -> None:
    """Repair bags that a killed recorder left, or that are truncated; the originals are kept as .*.damaged."""
    from rldg_data.bags.repair import RepairResult, damaged_bags, repair_bag, set_partials_aside

    done: list[RepairResult] = []
    failed: list[str] = []
    set_partials_aside(folder)
    damaged = damaged_bags(folder)
    with progress_maker() as make:
        progress = make("repair")
        for number, bag in enumerate(damaged):
            progress(number, len(damaged))
            try:
                done.append(repair_bag(bag))
            except UserError as error:
                failed.append(str(error))
        progress(len(damaged), len(damaged))
    if as_json:
        report = [{**vars(one), "path": str(one.path), "damaged": str(one.damaged)} for one in done]
        print(json.dumps({"repaired": report, "failed": failed}))
    else:
        if not damaged:
            _say(f"{folder}: nothing to repair")
        for one in done:
            _say(f"{one.path}: {_repair_summary(one)}")
    if failed:
        raise UserError("; ".join(failed))


@app.command(name="import")
def import_(
    mapping: Annotated[Path, typer.Argument(help="YAML: topics of image, pose, action (docs/how-to/import_data.md).")],
    bags: Annotated[list[Path], typer.Argument(help="rosbag2 bags, MCAP or SQLite.")],
    out: Annotated[Path, typer.Option(help="Folder for the imported bags.")],
    as_json: Json = False,
) -> None:
    """Import external bags as episodes: one episode per bag, unless the mapping cuts it (`episodes`, `cut`)."""
    from rldg_data.external.importing import import_bag, load_mapping

    settings = load_mapping(mapping)
    written: list[dict[str, Any]] = []
    with progress_maker() as make:
        progress = make("import")
        for number, bag in enumerate(bags):
            progress(number, len(bags))
            for result in import_bag(settings, bag, out):
                written.append({**vars(result), "path": str(result.path), "source": str(bag)})
        progress(len(bags), len(bags))
    if as_json:
        print(json.dumps(written))
        return
    for one in written:
        left_out = f", {one['clipped']} actions clipped" if one["clipped"] else ""
        left_out += f", {one['repeated']} ticks without a frame" if one["repeated"] else ""
        _say(f"{one['path']}: {one['steps']} Steps from {one['source']}{left_out}")


def _bags(paths: list[Path]) -> list[Path]:
    from rldg_data.bags.reading import find_bags

    found: list[Path] = []
    for path in paths:
        existing(path)
        bags = [path] if (path / "metadata.yaml").is_file() else find_bags(path)
        if not bags:
            raise UserError(f"{path}: no bags in it")
        found += bags
    return found


def _repair_summary(one: Any) -> str:
    kept = f"{one.messages} messages restored, {one.lost_bytes} bytes lost; original: {one.damaged.name}"
    if one.complete is None:
        return kept
    whole = "a whole episode" if one.complete else "a part of an episode, not usable for training"
    return f"{whole}: {one.steps} Steps; {kept}"


def _print_one(bag: BagSummary) -> None:
    table = Table("messages", "Hz", "topic", "type", title=_cell(str(bag.path)))
    for topic in bag.topics:
        rate = "" if isnan(topic.rate_hz) else f"{topic.rate_hz:.2f}"
        table.add_row(str(topic.messages), rate, _cell(topic.name), _cell(topic.type))
    for column in table.columns[2:]:
        column.overflow = "fold"
    start = datetime.fromtimestamp(bag.start_ns / 1e9, timezone.utc).isoformat(timespec="milliseconds")
    data = Table(show_header=False)
    data.add_row("start", start)
    data.add_row("duration", f"{bag.duration_s:.3f} s")
    data.add_row("messages", str(bag.messages))
    data.add_row("size", f"{_megabytes(bag)} MB in {bag.files} {'file' if bag.files == 1 else 'files'}")
    for key, value in bag.custom_data.items():
        data.add_row(_cell(key), _cell(value))
    print_tables(table, data)


def _print_many(bags: list[BagSummary]) -> None:
    headings = ("bag", "task:object", "success", "source", "policy", "steps", "s", "Hz", "MB")
    table = Table(*headings, box=None, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap = True
    for column in table.columns:
        column.overflow = "fold"
    for bag in bags:
        data = bag.custom_data
        success = "incomplete" if data.get("complete") == "false" else data.get("success", "")
        policy = f"{data.get('policy_id', '')} {data.get('policy_version', '')}" if data.get("policy_id") else ""
        task = f"{data.get('task', '')}:{data.get('object', '')}".strip(":")
        rate = max((t.rate_hz for t in bag.topics if t.type.endswith("/Step")), default=float("nan"))
        known = (bag.path.name, task, success, data.get("source", ""), policy, data.get("steps", ""))
        table.add_row(*map(_cell, known), f"{bag.duration_s:.1f}", f"{rate:.1f}", _megabytes(bag))
    print_tables(table)
    console.print(
        f"{len(bags)} bags, {sum(b.messages for b in bags)} messages, {sum(b.duration_s for b in bags):.0f} s, "
        f"{sum(b.size_bytes for b in bags) / 1e6:.1f} MB"
    )


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _cell(text: str) -> str:
    """Return a text of a bag without control characters, limited in length."""
    return one_line(text)


def _megabytes(bag: BagSummary) -> str:
    return f"{bag.size_bytes / 1e6:.1f}"
