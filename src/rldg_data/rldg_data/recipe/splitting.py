"""Train and val: whole episodes, every object in both, nothing of one in the other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

from rldg_core.errors import UserError


def val_targets(per_object: Mapping[str, int], episodes: int) -> dict[str, int]:
    """Episodes of each object to hold out: in proportion, at least one, and at least one is left for training.

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
    """Whether each episode, in shuffled order, goes to val.

    keys: what an episode shares with others (bags, episode ids, contents): those that share one stay together. As
    many as asked for when nothing is shared; else as near as the groups allow. Raises UserError when an object cannot
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
        # Only groups that exceed the target hold it: the smallest that leaves every object to train.
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
