"""100 policy swaps by service while the real-time stack runs at 10 Hz; goal: 0 missed ticks.

    python benchmarks/swap.py [--policies compact,openvla,octo]

From any to any of a compact generalist, a tiny OpenVLA that decodes chunks in parallel at 4 Hz, and a tiny Octo, all
with random weights: speed does not depend on skill. strays: actions of the old policy for observations that are newer
than the acknowledgement; dry: ticks at which the arm was held; acted_ratio: the ticks that were neither dry nor missed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from _report import report

from rldg_bringup.pipeline import arguments_for
from rldg_bringup.swap import swap_under_load

SWAPS = 100


def write_compact(folder: Path) -> None:
    """Write a compact checkpoint of its real size."""
    from rldg_policy.compact.checkpoint import write_random
    from rldg_policy.compact.config import ModelConfig

    write_random(folder, ModelConfig(), 0)


def write_openvla(folder: Path) -> None:
    """Write a tiny checkpoint with chunks of 8."""
    from rldg_policy.openvla.checkpoint import write_random
    from rldg_policy.openvla.config import DecodingConfig, OpenVLAConfig

    write_random(folder, OpenVLAConfig.tiny(), 0, DecodingConfig(decoding="parallel", head="l1", horizon=8))


def write_octo(folder: Path) -> None:
    """Write a tiny checkpoint with chunks of 4."""
    from rldg_policy.octo.checkpoint import write_random
    from rldg_policy.octo.random import OctoSize

    write_random(folder, OctoSize(), 0)


WRITERS: Mapping[str, Callable[[Path], None]] = {
    "compact": write_compact,
    "openvla": write_openvla,
    "octo": write_octo,
}


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--policies", default=",".join(WRITERS), help="back-ends; hold and scripted need no checkpoint")
    parser.add_argument("--swaps", type=int, default=SWAPS)
    options = parser.parse_args()
    names = options.policies.split(",")
    with tempfile.TemporaryDirectory() as folder:
        policies = {name: (name, str(Path(folder) / name) if name in WRITERS else "") for name in names}
        # Elsewhere: jax has threads, and this process forks.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as writing:
            for name, (_, checkpoint) in policies.items():
                if checkpoint:
                    writing.submit(WRITERS[name], Path(checkpoint)).result()
        arguments = replace(arguments_for("insertion", 0), use_sim_time=False)
        result = swap_under_load(arguments, policies, options.swaps, 0, Path("out/bench/log/swap"))
    report("swap", {"policies": options.policies, **result})


if __name__ == "__main__":
    main()
