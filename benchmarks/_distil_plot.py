"""Plot docs/images/distillation.png: success over the size of the dataset, and by head and decoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from _distil_table import Row, best_variant, rate, variants

COLOURS = {"rldg": "tab:blue", "scripted": "tab:orange"}
BARS = 45
"""Episodes per connector in the bar charts."""


def plot(rows: Sequence[Row], path: Path) -> None:
    """Plot curves of the best head and decoding of RLDG (left) and bars of all (right); whiskers: range over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.4), sharey=True, layout="constrained", width_ratios=(1, 1, 1))
    head, decode = best_variant(rows, "rldg", BARS)
    for data, colour in COLOURS.items():
        for seen, line in ((True, "-"), (False, "--")):
            points = [
                (episodes, found)
                for episodes in sorted({row["episodes"] for row in rows})
                if (found := rate(rows, data=data, head=head, decode=decode, episodes=episodes, seen=seen))
            ]
            axes[0].errorbar(
                [episodes for episodes, _ in points],
                [found.percent for _, found in points],
                [
                    [found.percent - found.low for _, found in points],
                    [found.high - found.percent for _, found in points],
                ],
                color=colour,
                linestyle=line,
                marker="o",
                capsize=3,
                label=f"{data}, {'seen' if seen else 'unseen'}",
            )
    axes[0].set(xlabel="episodes per connector", ylabel="success [%]", ylim=(0, 103), title=f"{head}, {decode}")
    axes[0].legend(fontsize="small", loc="center right")
    for axis, seen in ((axes[1], True), (axes[2], False)):
        for shift, (data, colour) in zip((-0.2, 0.2), COLOURS.items(), strict=True):
            for place, (head, decode) in enumerate(variants(rows)):
                found = rate(rows, data=data, episodes=BARS, head=head, decode=decode, seen=seen)
                if found:
                    error = [[found.percent - found.low], [found.high - found.percent]]
                    label = data if place == 0 else None
                    axis.bar(place + shift, found.percent, 0.4, yerr=error, capsize=3, color=colour, label=label)
        names = [f"{head}\n{decode}" for head, decode in variants(rows)]
        axis.set_xticks(range(len(names)), names, fontsize="small")
        axis.set(title=f"{'seen' if seen else 'unseen'} connectors, {BARS} episodes")
        axis.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
