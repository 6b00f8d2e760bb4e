"""`rldg export` and `rldg relabel`: make datasets and relabelled bags from recorded episodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rldg_bringup.cli_common import (
    MANY,
    Json,
    console,
    emit,
    existing,
    expand_options,
    progress_maker,
    sub_app,
)
from rldg_core.errors import UserError
from rldg_core.seeding import MAX_SEED

if TYPE_CHECKING:
    from rldg_data.exporting.report import ExportResult
    from rldg_data.plan import Plan
    from rldg_data.recipe.recipe import Recipe

app = sub_app()

SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip bad bags and list them at the end.")]
BagFolders = Annotated[list[Path], typer.Argument(help="Bags, or folders of bags.")]


@dataclass(frozen=True)
class QuickRecipe:
    """Options that replace a recipe; None: not given."""

    name: Annotated[str | None, typer.Option(help="Without a recipe: name of the dataset.")] = None
    version: Annotated[str | None, typer.Option(help="Without a recipe: version; default 1.0.0.")] = None
    only_success: Annotated[
        bool | None, typer.Option(help="Without a recipe: export successful episodes only; default yes.")
    ] = None
    source: Annotated[
        str | None, typer.Option(help="Without a recipe: only episodes of this source: policy, human, scripted, hold.")
    ] = None
    max_episodes: Annotated[
        int | None, typer.Option(min=1, max=MANY, help="Without a recipe: largest number of episodes.")
    ] = None
    max_episodes_per_object: Annotated[
        int | None, typer.Option(min=1, max=MANY, help="Without a recipe: largest number of episodes of one object.")
    ] = None
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, help="Without a recipe: seed of the order of the episodes.")
    ] = None


@dataclass(frozen=True)
class ExportOptions:
    """Where and how a dataset is written."""

    out: Annotated[Path, typer.Option(help="Root folder of the datasets.")] = Path("datasets")
    format_: Annotated[Literal["rlds", "lerobot"], typer.Option("--format", help="Format of the dataset.")] = "rlds"
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Number of processes that build episodes.")] = 1
    engine: Annotated[
        Literal["processes", "ray"], typer.Option(help="How the processes are started: locally, or by Ray.")
    ] = "processes"
    skip_bad: SkipBad = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing dataset.")] = False


@app.command()
@expand_options
def export(
    what: Annotated[
        list[Path], typer.Argument(metavar="RECIPE|BAGS", help="One recipe (.yaml), or folders of bags with --name.")
    ],
    options: ExportOptions,
    quick: QuickRecipe,
    as_json: Json = False,
) -> None:
    """Export bags to a dataset as a recipe describes it: RLDS (TFDS, OpenVLA, Octo) or LeRobot v3."""
    plan = _plan(what, quick, options.skip_bad)
    write = _writer(options.format_)
    with progress_maker() as make:
        result = write(
            plan,
            options.out,
            workers=options.workers,
            engine=options.engine,
            overwrite=options.overwrite,
            skip_bad=options.skip_bad,
            progress=make("export"),
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
    """Return the function that writes a Plan in this format, importing only the libraries of that format."""
    if format_ == "lerobot":
        from rldg_data.lerobot.export import export_plan as export_lerobot

        return export_lerobot
    from rldg_data.rlds.export import export_plan

    return export_plan


def _listed(bad: Sequence[tuple[Path, str]]) -> int:
    """Print the bags that were skipped and return their number."""
    for _, reason in bad:
        console.print(f"skipped: {reason}", highlight=False)
    return len(bad)


def _plan(what: Sequence[Path], quick: QuickRecipe, skip_bad: bool) -> Plan:
    from rldg_data.recipe.planning import make_plan
    from rldg_data.recipe.recipe import load_recipe, quick_recipe

    for path in what:
        existing(path)
    if len(what) == 1 and what[0].is_file():
        given = [key for key, value in vars(quick).items() if value is not None]
        if given:
            raise UserError(f"--{given[0].replace('_', '-')}: set it in the recipe {what[0]}, not on the command line")
        recipe = load_recipe(what[0])
        return make_plan(recipe, what[0].absolute().parent, skip_bad=skip_bad, task_dirs=_task_dirs(recipe))
    if quick.name is None:
        raise UserError("--name: required for folders of bags: the name of the dataset (or give a recipe)")
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
    """Return the folders in which relabelling looks up tasks; imports them, about 1 s, only if a recipe relabels."""
    if recipe.relabel is None and all(source.relabel is None for source in recipe.sources):
        return []
    from rldg_bringup.pipeline import share_dir

    return [share_dir() / "config" / "tasks"]


@app.command()
def relabel(
    bags: BagFolders,
    out: Annotated[Path, typer.Option(help="Folder for the new bags; the given bags are not changed.")],
    policy: Annotated[
        Path | None, typer.Option(help="Checkpoint of the policy; none for a back-end that reads none, such as hold.")
    ] = None,
    backend: Annotated[str, typer.Option(help="Back-end of the policy.")] = "specialist",
    task: Annotated[str, typer.Option(help="Task of the policy; default: the task of the bags.")] = "",
    source: Annotated[list[str], typer.Option(help="Source whose actions are replaced.")] = ["human"],  # noqa: B006
    policy_id: Annotated[
        str, typer.Option(help="Policy id recorded with the new actions; default: the name of the back-end.")
    ] = "",
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Copy bags, replacing actions by those that a policy takes on the recorded observations (Fig. 9 of the paper)."""
    from rldg_bringup.pipeline import share_dir
    from rldg_core.configuration import validated
    from rldg_data.recipe.planning import resolve_relabel
    from rldg_data.recipe.recipe import RelabelConfig
    from rldg_data.recipe.selecting import Bookkeeping, expand, read_all
    from rldg_data.relabelling import relabel_bags

    for path in (*bags, *([policy] if policy else [])):
        existing(path)
    books = Bookkeeping(skip_bad)
    recorded = read_all(expand([escape(str(path.absolute())) for path in bags], Path.cwd(), "relabel"), books)
    tasks = sorted({bag.info.task for bag in recorded})
    if not task and len(tasks) != 1:
        raise UserError(f"--task: the bags are of {len(tasks)} tasks ({', '.join(tasks)}): name the task of the policy")
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
