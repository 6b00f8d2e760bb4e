"""Recipe -> Plan: the steps of `rldg_data.recipe.recipe.make_plan`, put together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

from rldg_core.errors import UserError
from rldg_data.bags.reading import content_blake3
from rldg_data.recipe.plan import EpisodePlan, ImageFormat, Plan, Relabel
from rldg_data.recipe.recipe import Filter, Recipe, Source, Split
from rldg_data.recipe.selecting import Bookkeeping, Candidate, Recorded, expand, filtered, rank, read_all, take
from rldg_data.recipe.splitting import hold_out
from rldg_data.recipe.stitching import stitched


def plan_recipe(recipe: Recipe, base: Path, *, skip_bad: bool, task_dirs: Sequence[Path]) -> Plan:
    """See `rldg_data.recipe.recipe.make_plan`."""
    relabels = [_relabel(source, recipe, base, task_dirs) for source in recipe.sources]
    books = Bookkeeping(skip_bad)
    chosen = _chosen(recipe, base, books)
    if not chosen:
        reasons = ", ".join(f"{name} {count}" for name, count in sorted(books.left_out.items()) if count)
        count = sum(books.left_out.values())
        bad = f"; {len(books.bad)} unreadable" if books.bad else ""
        raise UserError(f"{recipe.where}: none of {count} episodes passes the filters ({reasons or 'no bags'}{bad})")
    val = _val(recipe.where, chosen, recipe.split, books) if recipe.split else [False] * len(chosen)
    cameras = (("image", ""),) if recipe.cameras is None else _cameras(recipe.cameras)
    images = ImageFormat(recipe.images.size_px, recipe.images.jpeg_quality)

    def planned(split: str, candidate: Candidate) -> EpisodePlan:
        source, info = recipe.sources[candidate.source], candidate.parts[0].info
        template = source.instruction or recipe.instruction
        return EpisodePlan(
            split=split,
            bags=tuple(part.path for part in candidate.parts),
            instruction=template.format(task=info.task, object=info.object, recorded=info.instruction),
            cameras=cameras,
            images=images,
            relabel=relabels[candidate.source],
            num_bytes=_num_bytes(candidate),
            joints=candidate.joints,
        )

    tasks = sorted({part.info.task for candidate in chosen for part in candidate.parts})
    return Plan(
        name=recipe.name,
        version=recipe.version,
        episodes=tuple(
            planned(split, candidate)
            for split, held in (("train", False), ("val", True))
            for candidate, in_val in zip(chosen, val, strict=True)
            if in_val == held
        ),
        description=recipe.description or f"Episodes recorded by RLDG for ROS 2; tasks: {', '.join(tasks)}.",
        left_out={name: count for name, count in sorted(books.left_out.items()) if count},
        bad=tuple(sorted(books.bad.items())),
        recipe=canonical(recipe),
    )


def canonical(recipe: Recipe) -> str:
    """JSON of what the recipe asks for, without its globs and paths: moving the runs changes nothing."""
    segment = {"bags"}
    globs = {"bags": True, "stitch": {"first": segment, "second": segment}, "relabel": {"path"}}
    leave_out = {"sources": {"__all__": globs}, "relabel": {"path"}}
    return json.dumps(recipe.model_dump(mode="json", exclude_defaults=True, exclude=leave_out), sort_keys=True)  # type: ignore[arg-type]


def _relabel(source: Source, recipe: Recipe, base: Path, task_dirs: Sequence[Path]) -> Relabel | None:
    config = source.relabel or recipe.relabel
    if config is None:
        return None
    # What a policy needs is slow to import.
    from rldg_data.recipe.relabelling import resolve_relabel

    try:
        return resolve_relabel(config, base, task_dirs)
    except UserError as error:
        raise UserError(f"{recipe.where}: {error}") from error


def _chosen(recipe: Recipe, base: Path, books: Bookkeeping) -> list[Candidate]:
    taken: list[Candidate] = []
    seen: set[Path] = set()
    for number, source in enumerate(recipe.sources):
        where = f"sources.{number}"
        if source.stitch is not None:
            first, second = (
                _shuffled(recipe, segment.bags, segment.filter, base, f"{where}.stitch.{name}.bags", books)
                for name, segment in (("first", source.stitch.first), ("second", source.stitch.second))
            )
            candidates = stitched(first, second, source.stitch, number, books)
        else:
            assert source.bags is not None
            bags = _shuffled(recipe, source.bags, source.filter or recipe.filter, base, f"{where}.bags", books)
            # A bag that two sources match belongs to the first.
            books.left_out["sources"] += sum(bag.path in seen for bag in bags)
            candidates = [Candidate((bag,), number) for bag in bags if bag.path not in seen]
            seen |= {bag.path for bag in bags}
        candidates.sort(key=lambda c: rank(c, recipe.seed))
        taken += take(candidates, source, books.left_out)
    taken.sort(key=lambda c: rank(c, recipe.seed))
    taken = take(taken, recipe, books.left_out, balanced=recipe.balance is not None)
    return sorted(taken, key=lambda c: rank(c, recipe.seed))


def _shuffled(
    recipe: Recipe, patterns: Sequence[str], wanted: Filter, base: Path, where: str, books: Bookkeeping
) -> list[Recorded]:
    bags = read_all(expand(patterns, base, f"{recipe.where}: {where}"), books)
    return sorted(filtered(bags, wanted, books), key=lambda bag: rank(Candidate((bag,), 0), recipe.seed))


def _val(where: str, chosen: Sequence[Candidate], split: Split, books: Bookkeeping) -> list[bool]:
    objects = [candidate.object for candidate in chosen]
    episodes = split.val_episodes
    if episodes is None:
        assert split.val_share is not None
        episodes = max(len(set(objects)), int(split.val_share * len(chosen) + 0.5))
    parts = {part.path: part for candidate in chosen for part in candidate.parts}
    sizes = Counter(part.num_bytes for part in parts.values())
    # Equal files have equal sizes: only those need a hash.
    content = {path: books.attempt(path, content_blake3) for path, part in parts.items() if sizes[part.num_bytes] > 1}

    def keys(candidate: Candidate) -> list[Hashable]:
        ids = [("id", part.info.episode_id) for part in candidate.parts if part.info.episode_id]
        bags = [("bag", str(part.path)) for part in candidate.parts]
        return [*ids, *bags, *(("bytes", d) for part in candidate.parts if (d := content.get(part.path)))]

    try:
        return hold_out(objects, [keys(candidate) for candidate in chosen], episodes)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _cameras(cameras: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """The primary image first."""
    return tuple(sorted(cameras.items(), key=lambda item: (item[0] != "image", item[0])))


def _num_bytes(candidate: Candidate) -> int:
    """Of the files, in proportion to the part of each that is used."""
    used = [*candidate.joints, candidate.parts[-1].info.steps]
    return sum(
        part.num_bytes * steps // max(part.info.steps, 1) for part, steps in zip(candidate.parts, used, strict=True)
    )
