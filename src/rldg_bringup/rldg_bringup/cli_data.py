"""`rldg export`, `rldg relabel`: from recorded episodes to datasets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rldg_bringup.cli_common import MANY, Json, console, emit, existing, progress_maker, sub_app
from rldg_core.errors import UserError
from rldg_core.seeding import MAX_SEED

if TYPE_CHECKING:
    from rldg_data.exporting.report import ExportResult
    from rldg_data.plan import Plan
    from rldg_data.recipe.recipe import Recipe

app = sub_app()

SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Pass over bad bags, and list them at the end.")]
BagFolders = Annotated[list[Path], typer.Argument(help="Bags, or folders of bags.")]


@dataclass(frozen=True)
class _Quick:
    """The options that stand for a recipe; None: not given."""

    name: str | None
    version: str | None
    only_success: bool | None
    source: str | None
    max_episodes: int | None
    max_episodes_per_object: int | None
    seed: int | None


@app.command()
def export(
    what: Annotated[
        list[Path], typer.Argument(metavar="RECIPE|BAGS", help="One recipe (.yaml), or folders of bags with --name.")
    ],
    out: Annotated[Path, typer.Option(help="Root of the datasets.")] = Path("datasets"),
    format_: Annotated[Literal["rlds", "lerobot"], typer.Option("--format")] = "rlds",
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Processes that build episodes.")] = 1,
    engine: Annotated[Literal["processes", "ray"], typer.Option(help="Where they run.")] = "processes",
    skip_bad: SkipBad = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing dataset.")] = False,
    name: Annotated[str | None, typer.Option(help="Without a recipe: name of the dataset.")] = None,
    version: Annotated[str | None, typer.Option(help="Without a recipe; default 1.0.0.")] = None,
    only_success: Annotated[bool | None, typer.Option(help="Without a recipe: successes only; default yes.")] = None,
    source: Annotated[str | None, typer.Option(help="Without a recipe: policy, human, scripted or hold alone.")] = None,
    max_episodes: Annotated[int | None, typer.Option(min=1, max=MANY, help="Without a recipe.")] = None,
    max_episodes_per_object: Annotated[int | None, typer.Option(min=1, max=MANY, help="Without a recipe.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, help="Without a recipe: of the order of the episodes.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export bags to a dataset, as the recipe says: RLDS (TFDS, OpenVLA, Octo) or LeRobot v3."""
    quick = _Quick(name, version, only_success, source, max_episodes, max_episodes_per_object, seed)
    plan = _plan(what, quick, skip_bad)
    write = _writer(format_)
    with progress_maker() as make:
        result = write(
            plan, out, workers=workers, engine=engine, overwrite=overwrite, skip_bad=skip_bad, progress=make("export")
        )
    values = {
        "path": str(result.path),
        "episodes": sum(result.episodes.values()),
        "splits": dict(result.episodes),
        "steps": result.steps,
        "left_out": dict(result.left_out),
        "bad": [{"bag": str(bag), "reason": reason} for bag, reason in result.bad],
        "resumed": result.resumed,
    }
    if not as_json:
        values["bad"] = _listed(result.bad)
    emit(values, as_json, "dataset")


def _writer(format_: str) -> Callable[..., ExportResult]:
    """What writes a Plan in this format; only its own libraries are imported."""
    if format_ == "lerobot":
        from rldg_data.lerobot.export import export_plan as export_lerobot

        return export_lerobot
    from rldg_data.rlds.export import export_plan

    return export_plan


def _listed(bad: Sequence[tuple[Path, str]]) -> int:
    """Print the bags that were passed over; how many."""
    for _, reason in bad:
        console.print(f"passed over: {reason}", highlight=False, markup=False)
    return len(bad)


def _plan(what: Sequence[Path], quick: _Quick, skip_bad: bool) -> Plan:
    from rldg_data.recipe.planning import make_plan
    from rldg_data.recipe.recipe import load_recipe, quick_recipe

    for path in what:
        existing(path)
    if len(what) == 1 and what[0].is_file():
        given = [key for key, value in vars(quick).items() if value is not None]
        if given:
            raise UserError(f"--{given[0].replace('_', '-')}: stands in the recipe {what[0]}, not on the command line")
        recipe = load_recipe(what[0])
        return make_plan(recipe, what[0].absolute().parent, skip_bad=skip_bad, task_dirs=_task_dirs(recipe))
    if quick.name is None:
        raise UserError("--name: folders of bags need the name of the dataset (or give a recipe)")
    recipe = quick_recipe(
        what,
        quick.name,
        quick.version or "1.0.0",
        only_success=quick.only_success is not False,
        source=quick.source or "",
        max_episodes=quick.max_episodes,
        max_episodes_per_object=quick.max_episodes_per_object,
        seed=quick.seed or 0,
    )
    return make_plan(recipe, Path.cwd(), skip_bad=skip_bad)


def _task_dirs(recipe: Recipe) -> list[Path]:
    """Where relabelling looks for tasks; importing that costs a second, so only when it is asked for."""
    if recipe.relabel is None and all(source.relabel is None for source in recipe.sources):
        return []
    from rldg_bringup.pipeline import share_dir

    return [share_dir() / "config" / "tasks"]


@app.command()
def relabel(
    bags: BagFolders,
    policy: Annotated[Path, typer.Option(help="Checkpoint of the policy, e.g. a specialist's folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the new bags; the old ones stay as they are.")],
    backend: Annotated[str, typer.Option(help="The policy's back-end.")] = "specialist",
    task: Annotated[str, typer.Option(help="Task of the policy; default: the bags'.")] = "",
    source: Annotated[list[str], typer.Option(help="Whose actions are replaced.")] = ["human"],  # noqa: B006
    policy_id: Annotated[str, typer.Option(help="Name for the new actions; default: the back-end's.")] = "",
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Write bags again with a policy's actions on the recorded observations (the paper's Fig. 9)."""
    from rldg_bringup.pipeline import share_dir
    from rldg_core.configuration import validated
    from rldg_data.recipe.planning import resolve_relabel
    from rldg_data.recipe.recipe import RelabelConfig
    from rldg_data.recipe.selecting import Bookkeeping, expand, read_all
    from rldg_data.relabelling import relabel_bags

    for path in (*bags, policy):
        existing(path)
    books = Bookkeeping(skip_bad)
    recorded = read_all(expand([escape(str(path.absolute())) for path in bags], Path.cwd(), "relabel"), books)
    tasks = sorted({bag.info.task for bag in recorded})
    if not task and len(tasks) != 1:
        raise UserError(f"--task: the bags are of {len(tasks)} tasks ({', '.join(tasks)}): say which is the policy's")
    data = {"backend": backend, "path": policy, "task": task or tasks[0], "sources": source, "policy_id": policy_id}
    config = resolve_relabel(validated(RelabelConfig, data, "relabel"), Path.cwd(), [share_dir() / "config" / "tasks"])
    with progress_maker() as make:
        result = relabel_bags([bag.path for bag in recorded], out, config, skip_bad=skip_bad, progress=make("relabel"))
    bad = [*books.bad.items(), *result.bad]
    if as_json:
        listed = [{"bag": str(bag), "reason": reason} for bag, reason in bad]
        values = {"path": str(out), "episodes": result.episodes, "steps": result.steps, "bad": listed}
        print(json.dumps(values))
        return
    values = {"path": str(out), "episodes": result.episodes, "replaced actions": result.steps, "bad": _listed(bad)}
    emit(values, False, "relabelled bags")
