"""Pure parts of benchmarks/distillation.py: means over rows, the order of the table; the committed file is complete."""

import json
from pathlib import Path

import pytest
from _distil_sources import quality
from _distil_table import KEY, Row, best_variant, ordered, rate, summary

ROOT = Path(__file__).parents[1]


def row(success: int, cycle_time_s: float | None, **changed: object) -> Row:
    """Return the result of 20 attempts with greedy decoding of bins."""
    usual = {"data": "rldg", "head": "bins", "decode": "greedy", "episodes": 45, "seed": 0, "connector": "vga"}
    return {**usual, "seen": True, "success": success, "trials": 20, "cycle_time_s": cycle_time_s, **changed}


def test_rate_weights_times_by_successes_and_covers_seeds() -> None:
    rows = [row(20, 1.0), row(10, 4.0, connector="usb_a"), row(0, None, seed=1), row(5, 9.0, data="scripted")]
    found = rate(rows, data="rldg", seen=True)
    assert found is not None
    assert (found.percent, found.low, found.high) == (50.0, 0.0, 75.0)
    assert (found.seeds, found.trials, found.cycle_time_s) == (2, 60, pytest.approx(2.0))
    assert rate(rows, data="nobody") is None


def test_better_variant_is_chosen_over_seen_and_unseen_connectors() -> None:
    rows = [
        row(20, 1.0),
        row(2, 1.0, seen=False, connector="xlr"),
        row(15, 1.0, decode="sampled"),
        row(15, 1.0, decode="sampled", seen=False, connector="xlr"),
    ]
    assert best_variant(rows, "rldg", 45) == ("bins", "sampled")
    assert ordered(reversed(rows))[0]["decode"] == "greedy"
    table = summary(rows)
    assert table[2] == "| rldg | 45 | bins | greedy | 1 | 100.0 | 10.0 | 1.00 / 1.00 |"
    assert len(table) == 4


def test_quality_counts_attempts_and_times_successes() -> None:
    found = quality([(True, 10), (False, 100), (True, 20), (True, 30)], 0.1)
    assert found == {
        "attempts": 4,
        "successes": 3,
        "success_rate": 0.75,
        "mean_steps": 20.0,
        "cycle_time_s": 2.0,
    }
    assert quality([], 0.1)["cycle_time_s"] is None


def test_committed_results_are_complete() -> None:
    rows = json.loads((ROOT / "benchmarks/results/distillation.json").read_text())
    assert rows
    assert len({tuple(r[k] for k in KEY) for r in rows}) == len(rows)
    assert all(0 <= r["success"] <= r["trials"] == 20 for r in rows)
    assert all((r["cycle_time_s"] is None) == (r["success"] == 0) for r in rows)
