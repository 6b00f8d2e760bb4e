"""Make a Plan from a recipe: choose bags, stitch pairs, hold out a validation split."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rldg_core.errors import UserError
from rldg_core.files import open_regular
from rldg_core.types import Float64
from rldg_data.bags.reading import content_blake3, read_episode
from rldg_data.plan import EpisodePlan, ImageFormat, Plan, Relabel
from rldg_data.recipe.recipe import Filter, Recipe, RelabelConfig, Source, Split, Stitch
from rldg_data.recipe.selecting import Bookkeeping, Candidate, RecordedBag, expand, filtered, rank, read_all, take


def val_targets(per_object: Mapping[str, int], episodes: int) -> dict[str, int]:
    """Return the number of episodes of each object to hold out: proportional, at least one held out and one left.

    Raises UserError when that is not possible.
    """
    for name, count in sorted(per_object.items()):
        if count < 2:
            raise UserError(f"split: object {name!r} has 1 episode, which cannot be in train and in val")
    total = sum(per_object.values())
    if not len(per_object) <= episodes <= total - len(per_object):
        raise UserError(
            f"split: {episodes} of {total} episodes for val: {len(per_object)} objects must be in val and in train"
        )
    targets = dict.fromkeys(sorted(per_object), 1)
    for _ in range(episodes - len(targets)):
        open_ = [name for name in targets if targets[name] < per_object[name] - 1]
        targets[max(open_, key=lambda name: per_object[name] * episodes / total - targets[name])] += 1
    return targets


def hold_out(objects: Sequence[str], keys: Sequence[Sequence[Hashable]], episodes: int) -> list[bool]:
    """Return for each episode, in shuffled order, whether it goes to val.

    keys: items shared with others (bags, episode ids, contents); episodes that share one stay together. The number is
    exact when nothing is shared, else as near as the groups allow. Raises UserError when an object cannot
    be in both splits.
    """
    totals = Counter(objects)
    targets = val_targets(totals, episodes)
    groups = [(group, Counter(objects[i] for i in group)) for group in _components(keys)]
    held: Counter[str] = Counter()
    val = [False] * len(objects)

    def put(group: Sequence[int], counts: Counter[str]) -> None:
        held.update(counts)
        for i in group:
            val[i] = True

    for group, counts in groups:
        if all(held[name] + n <= targets[name] for name, n in counts.items()):
            put(group, counts)
    for name in targets:
        if held[name]:
            continue
        # Only groups above the target contain it: take the smallest that leaves every object in train.
        fits = [(g, c) for g, c in groups if c[name] and not val[g[0]] and all(held[o] + c[o] < totals[o] for o in c)]
        if not fits:
            raise UserError(f"split: the episodes of object {name!r} share recordings: all would be in val")
        put(*min(fits, key=lambda item: len(item[0])))
    return val


def _components(keys: Sequence[Sequence[Hashable]]) -> list[list[int]]:
    """Connected sets of episodes, ordered by their first member."""
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    owner: dict[Hashable, int] = {}
    for i, shared in enumerate(keys):
        for key in shared:
            one, other = root(i), root(owner.setdefault(key, i))
            parent[max(one, other)] = min(one, other)
    members: dict[int, list[int]] = defaultdict(list)
    for i in range(len(keys)):
        members[root(i)].append(i)
    return [members[r] for r in sorted(members)]


@dataclass(frozen=True)
class StitchPoint:
    """first, second: positions in the sequences given; index: Step of the first; cost: 0 equal .. sqrt(2) at both
    tolerances."""

    first: int
    second: int
    index: int
    cost: float


def stitched(
    firsts: Sequence[RecordedBag], seconds: Sequence[RecordedBag], stitch: Stitch, source: int, books: Bookkeeping
) -> list[Candidate]:
    """Join bags given in shuffled order: each first one is paired in turn with the nearest free second one.

    Unpaired bags are counted under `stitch`.
    """
    readable = [(bag, poses) for bag in firsts if (poses := books.attempt(bag.path, tcp_poses)) is not None]
    starts = [(bag, poses[0]) for bag in seconds if (poses := books.attempt(bag.path, tcp_poses)) is not None]
    joints: dict[int, list[StitchPoint]] = {}
    for number, (bag, poses) in enumerate(readable):
        same = [i for i, (other, _) in enumerate(starts) if other.info.object == bag.info.object]
        joints[number] = joints_of(number, poses, same, np.array([starts[i][1] for i in same]).reshape(-1, 7), stitch)
    pairs = assign(joints, stitch.first.uses, stitch.second.uses)
    used = {("first", p.first) for p in pairs} | {("second", p.second) for p in pairs}
    books.left_out["stitch"] += len(readable) + len(starts) - len(used)
    return [Candidate((readable[p.first][0], starts[p.second][0]), source, (p.index,)) for p in pairs]


def tcp_poses(bag: Path) -> Float64:
    """(T+1, 7): the tcp in base at every Step."""
    return np.array([step.observation.pose_base_tcp for step in read_episode(bag)])


def joints_of(first: int, poses: Float64, numbers: Sequence[int], starts: Float64, stitch: Stitch) -> list[StitchPoint]:
    """The joints within tolerance of one bag, poses (T+1, 7), with others that start at `starts` (N, 7); best first.

    A joint leaves at least one transition of the first bag.
    """
    begin = len(poses) - 1 if stitch.cut == "end" else 1
    offered = poses[begin:]
    if len(offered) == 0 or len(starts) == 0 or begin == 0:
        return []
    distance_m = np.linalg.norm(offered[:, None, :3] - starts[None, :, :3], axis=2)
    unit = offered[:, 3:] / np.linalg.norm(offered[:, 3:], axis=1, keepdims=True)
    others = starts[:, 3:] / np.linalg.norm(starts[:, 3:], axis=1, keepdims=True)
    angle_rad = 2 * np.arccos(np.clip(np.abs(unit @ others.T), 0, 1))
    cost = np.hypot(distance_m / stitch.tolerance_m, angle_rad / stitch.tolerance_rad)
    cost[(distance_m > stitch.tolerance_m) | (angle_rad > stitch.tolerance_rad)] = np.inf
    best = np.argmin(cost, axis=0)
    found = [
        StitchPoint(first, number, begin + int(row), float(cost[row, column]))
        for column, (number, row) in enumerate(zip(numbers, best, strict=True))
        if np.isfinite(cost[row, column])
    ]
    return sorted(found, key=lambda joint: (joint.cost, joint.second))


def assign(joints: Mapping[int, Sequence[StitchPoint]], first_uses: int, second_uses: int) -> list[StitchPoint]:
    """Pairs, no pair twice: in each of first_uses rounds every first bag takes its best free partner."""
    used: Counter[int] = Counter()
    pairs: list[StitchPoint] = []
    taken: set[tuple[int, int]] = set()
    for _ in range(first_uses):
        before = len(pairs)
        for offers in joints.values():
            for joint in offers:
                if used[joint.second] < second_uses and (joint.first, joint.second) not in taken:
                    used[joint.second] += 1
                    taken.add((joint.first, joint.second))
                    pairs.append(joint)
                    break
        if len(pairs) == before:
            break
    return pairs


def make_plan(recipe: Recipe, base: Path, *, skip_bad: bool = False, task_dirs: Sequence[Path] = ()) -> Plan:
    """Decide what the dataset contains.

    base: folder that relative globs and paths start from, the recipe's own; task_dirs: folders searched for
    `relabel.task` given by name. Raises UserError when a glob matches nothing, a bag is unreadable (with skip_bad it is
    skipped and listed in `Plan.bad`) or no episode is left.
    """
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


def resolve_relabel(config: RelabelConfig, base: Path, task_dirs: Sequence[Path]) -> Relabel:
    """Resolve a relabelling configuration. Raises UserError `relabel.<key>: ...`."""
    # Imported here: the plug-in registry and task files are slow to import, and few recipes relabel.
    from rldg_core import registry

    if config.backend not in registry.backends():
        raise UserError(f"relabel.backend: {config.backend!r}: expected one of {', '.join(registry.backends())}")
    path = None if config.path is None else (base / config.path).resolve()
    try:
        task = _task_file(config.task, base, task_dirs)
    except UserError as error:
        raise UserError(f"relabel.task: {error}") from error
    return Relabel(
        backend=config.backend,
        path=path,
        task=task,
        sources=config.sources,
        policy_id=config.policy_id or config.backend,
        checkpoint_sha256="" if path is None else _tree_sha256(path),
    )


def _task_file(reference: str, base: Path, task_dirs: Sequence[Path]) -> str:
    """`name`, `name:object` or a path -> path of the file with `:object`; checked by loading it."""
    from rldg_core.task import find_task

    name, colon, object_name = reference.partition(":")
    if name.endswith((".yaml", ".yml")):
        path = (base / name).resolve()
    else:
        path = next((p for d in task_dirs if (p := d / f"{name}.yaml").is_file()), Path(name))
    found = f"{path}{colon}{object_name}"
    find_task(found, list(task_dirs))
    return found


def _tree_sha256(path: Path) -> str:
    """Hash of a file, or of all files of a folder with their names."""
    digest = hashlib.sha256()
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(str(file.relative_to(path)).encode() + b"\0" + _sha256(file))
    except OSError as error:
        raise UserError(f"relabel.path: {path}: cannot read: {error.strerror}") from error
    except UserError as error:
        raise UserError(f"relabel.path: {error}") from error
    return digest.hexdigest()


def _sha256(file: Path) -> bytes:
    with open_regular(file) as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def canonical(recipe: Recipe) -> str:
    """JSON of the recipe without its globs and paths, so that moving the runs changes nothing."""
    segment = {"bags"}
    globs = {"bags": True, "stitch": {"first": segment, "second": segment}, "relabel": {"path"}}
    leave_out = {"sources": {"__all__": globs}, "relabel": {"path"}}
    return json.dumps(recipe.model_dump(mode="json", exclude_defaults=True, exclude=leave_out), sort_keys=True)  # type: ignore[arg-type]


def _relabel(source: Source, recipe: Recipe, base: Path, task_dirs: Sequence[Path]) -> Relabel | None:
    config = source.relabel or recipe.relabel
    if config is None:
        return None
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
            # A bag matched by two sources belongs to the first.
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
) -> list[RecordedBag]:
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
