"""Table of the distillation experiment: rows of benchmarks/results/distillation.json, and means over them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
"""Keys: data, head, decode, episodes (per connector), seed, connector, seen, success, trials, cycle_time_s."""

KEY = ("data", "head", "decode", "episodes", "seed", "seen", "connector")


@dataclass(frozen=True)
class Rate:
    """Success rate. percent: over all episodes; low, high: over training seeds; cycle_time_s: of successes."""

    percent: float
    low: float
    high: float
    seeds: int
    trials: int
    cycle_time_s: float | None


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Return the rows in the order of the file: seen connectors first."""
    return sorted(rows, key=lambda row: [not row[k] if k == "seen" else row[k] for k in KEY])


def rate(rows: Sequence[Row], **wanted: Any) -> Rate | None:
    """Return the success rate of the rows with these values; None without rows."""
    chosen = [row for row in rows if all(row[k] == value for k, value in wanted.items())]
    if not chosen:
        return None
    per_seed: dict[int, list[Row]] = defaultdict(list)
    for row in chosen:
        per_seed[row["seed"]].append(row)
    percents = [_percent(rows_) for rows_ in per_seed.values()]
    successes = sum(row["success"] for row in chosen)
    time_s = sum(row["success"] * row["cycle_time_s"] for row in chosen if row["success"])
    return Rate(
        _percent(chosen),
        min(percents),
        max(percents),
        len(per_seed),
        sum(row["trials"] for row in chosen),
        time_s / successes if successes else None,
    )


def _percent(rows: Sequence[Row]) -> float:
    return 100 * sum(row["success"] for row in rows) / sum(row["trials"] for row in rows)


def variants(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return every (head, decode) of the rows."""
    return sorted({(row["head"], row["decode"]) for row in rows})


def best_variant(rows: Sequence[Row], data: str, episodes: int) -> tuple[str, str]:
    """Return the (head, decode) with the most successes on seen and unseen connectors together."""
    scored = [
        ((seen.percent + unseen.percent) / 2, variant)
        for variant in variants(rows)
        if (seen := rate(rows, data=data, episodes=episodes, head=variant[0], decode=variant[1], seen=True))
        and (unseen := rate(rows, data=data, episodes=episodes, head=variant[0], decode=variant[1], seen=False))
    ]
    return max(scored)[1]


def summary(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a Markdown table: success and cycle time on seen and unseen connectors per variant."""
    lines = [
        "| data | episodes | head | decoding | seeds | seen % | unseen % | cycle time seen / unseen s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for data, episodes in sorted({(row["data"], row["episodes"]) for row in rows}):
        for head, decode in variants(rows):
            wanted = {"data": data, "episodes": episodes, "head": head, "decode": decode}
            seen, unseen = rate(rows, **wanted, seen=True), rate(rows, **wanted, seen=False)
            if seen and unseen:
                lines.append(
                    f"| {data} | {episodes} | {head} | {decode} | {seen.seeds} | {_range(seen)} | {_range(unseen)} | "
                    f"{_seconds(seen)} / {_seconds(unseen)} |"
                )
    return lines


def _range(value: Rate) -> str:
    spread = f" ({value.low:.0f}-{value.high:.0f})" if value.seeds > 1 else ""
    return f"{value.percent:.1f}{spread}"


def _seconds(value: Rate) -> str:
    return "-" if value.cycle_time_s is None else f"{value.cycle_time_s:.2f}"
