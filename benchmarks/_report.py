"""Output of every benchmark: one JSON line on standard output and in out/bench/NAME.json."""

from __future__ import annotations

import json
from pathlib import Path

from rldg_core.files import write_json

OUT = Path(__file__).parents[1] / "out" / "bench"


def report(name: str, values: dict[str, object]) -> None:
    """Print and write the result of one benchmark."""
    write_json(OUT / f"{name}.json", values)
    print(json.dumps({"benchmark": name, **values}), flush=True)
