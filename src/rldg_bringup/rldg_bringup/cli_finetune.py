"""`rldg finetune`: one command per installed generalist, with the options of its training configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ValidationError

from rldg_bringup.cli_common import Json, Seed, emit, existing, progress_maker, sub_app
from rldg_bringup.config_options import ConfigOption, nested_values, options_of
from rldg_core.configuration import first_mistake
from rldg_core.errors import UserError
from rldg_policy.generalist import Finetune, Generalist, find_generalist, generalist_names

Dataset = Annotated[Path, typer.Argument(help="Dataset folder <root>/<name>/<version>.")]
Out = Annotated[Path, typer.Option(help="Checkpoint folder to write.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the unfinished training in --out.")]
Camera = Annotated[
    str | None, typer.Option(help="Camera that took the images; required where the dataset does not say it.")
]


def finetune_app() -> typer.Typer:
    """Return the group of commands, one per entry point of `rldg.generalists`."""
    app = sub_app()

    @app.callback()
    def group() -> None:
        """Fine-tune a generalist on an RLDS dataset."""

    for name in generalist_names():
        try:
            generalist = find_generalist(name)
            command = make_command(name, generalist)
        except UserError as error:
            app.command(name, help=f"Not available: {error}")(_unavailable(error))
        else:
            app.command(name, help=generalist.help)(command)
    return app


def make_command(name: str, generalist: Generalist) -> Callable[..., None]:
    """Return the command's function; its signature, from which typer makes the options, comes from the configuration.

    Raises UserError on a configuration field whose type no option can have.
    """
    options = options_of(generalist.config, where=f"generalist {name!r}")

    def command(
        dataset: Path, out: Path, resume: bool, seed: int, camera: str | None, as_json: bool, **given: Any
    ) -> None:
        base = given.pop("base", None)
        config = _configuration(generalist.config, options, given, f"finetune {name}")
        check_folders(name, generalist, dataset, out, base, resume)
        more = {"base": base, "seed": seed, "resume": resume, "camera": camera}
        train(generalist.load_finetune(), dataset, out, config, as_json, **more)

    base = Annotated[Path, typer.Option(help=generalist.base)]
    parameters = [
        _parameter("dataset", Dataset),
        *([_parameter("base", base)] if generalist.base is not None else []),
        _parameter("out", Out),
        *(_parameter(option.name, option.annotation, option.default) for option in options),
        _parameter("camera", Camera, None),
        _parameter("resume", Resume, False),
        _parameter("seed", Seed, 0),
        _parameter("as_json", Json, False),
    ]
    _check_names(name, options)
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _configuration(
    model: type[BaseModel], options: list[ConfigOption], given: Mapping[str, Any], where: str
) -> BaseModel:
    """Validate the values of the options. Raises UserError naming the option of the first mistake."""
    try:
        return model.model_validate(nested_values(options, given))
    except ValidationError as error:
        loc, reason = first_mistake(error)
        option = next((o for o in options if o.path == loc[: len(o.path)]), None)
        what = (
            f"option --{option.name.replace('_', '-')}: " if option else f"{'.'.join(map(str, loc))}: " if loc else ""
        )
        raise UserError(f"{where}: {what}{reason}") from error


def _parameter(name: str, annotation: Any, default: Any = Parameter.empty) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _check_names(name: str, options: list[ConfigOption]) -> None:
    taken = {"dataset", "base", "out", "camera", "resume", "seed", "as_json", "json", "help"}
    for option in options:
        if option.name in taken:
            raise UserError(f"generalist {name!r}: {'.'.join(option.path)}: another option is called {option.name}")
        taken.add(option.name)


def _unavailable(error: UserError) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


def check_folders(name: str, generalist: Generalist, dataset: Path, out: Path, base: Path | None, resume: bool) -> None:
    """Check, before torch or jax is imported, that inputs exist and fit and that --out may be written.

    Raises UserError.
    """
    from rldg_policy.training.run import check_base, check_out  # brings SciPy, which other commands do not wait for

    existing(dataset)
    if base is not None:
        existing(base)
    check_out(out, name, base, resume=resume)
    if generalist.base is not None:
        check_base(base, name)


def train(finetune: Finetune, dataset: Path, out: Path, config: Any, as_json: bool, **more: Any) -> None:
    """Train with a progress bar, then print the result."""
    with progress_maker() as make:
        result = asdict(finetune(dataset, out, config, progress=make("fine-tune"), **more))
    shown = {**result, "checkpoint": str(out)}
    if not as_json:
        curves = {key: value for key, value in result.items() if isinstance(value, tuple)}
        shown |= {key: " -> ".join(f"{v:.4g}" for v in (value[0], value[-1])) for key, value in curves.items() if value}
    emit(shown, as_json, "generalist")


app = finetune_app()
