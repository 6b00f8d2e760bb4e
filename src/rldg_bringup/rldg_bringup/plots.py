"""Plots of a run as PNG files: success rates, action distributions, learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import binomtest

from rldg_core.files import writing_aside


def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a success rate; (0, 1) for no episodes."""
    if episodes == 0:
        return 0.0, 1.0
    interval = binomtest(successes, episodes).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _save(figure: Figure, path: Path) -> None:
    with writing_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=120, bbox_inches="tight")
    plt.close(figure)


def plot_success(path: Path, results: Mapping[str, Mapping[str, tuple[int, int]]]) -> None:
    """Plot success rates as bars. results: group (e.g. "seen") -> policy -> (successes, episodes)."""
    policies = list(dict.fromkeys(p for group in results.values() for p in group))
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    width = 0.8 / max(len(policies), 1)
    for index, policy in enumerate(policies):
        for column, values in enumerate(results.values()):
            if policy not in values:
                continue
            good, total = values[policy]
            rate, (low, high) = good / max(total, 1), wilson_interval(good, total)
            x = column + (index - (len(policies) - 1) / 2) * width
            error = [[max(rate - low, 0.0)], [max(high - rate, 0.0)]]
            axes.bar(x, rate, width * 0.9, color=f"C{index}", label=policy if column == 0 else None)
            axes.errorbar(x, rate, yerr=error, color="black", capsize=3, linewidth=1)
            axes.text(x, 0.02, f"{good}/{total}", ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(results)), list(results))
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("success rate (95 % Wilson interval)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, fontsize=8)
    axes.set_title("Success by policy and connector")
    _save(figure, path)


def plot_learning_curve(path: Path, success: Sequence[bool], steps: Sequence[int], window: int = 20) -> None:
    """Plot the success rate of the last `window` training episodes over control steps."""
    done = np.cumsum(steps)
    rates = [float(np.mean(success[max(0, i + 1 - window) : i + 1])) for i in range(len(success))]
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    axes.plot(done, rates, color="C0")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("control steps")
    axes.set_ylabel(f"success, last {window} episodes")
    axes.set_title("Specialist, training episodes (sampled actions, with interventions)")
    axes.grid(alpha=0.3)
    _save(figure, path)


@dataclass(frozen=True)
class TrainingEpisode:
    """One training episode. steps: control steps; interventions: steps that a person or the scripted operator took."""

    steps: int
    success: bool
    interventions: int


def plot_training(path: Path, episodes: Sequence[TrainingEpisode], period_s: float, window: int = 20) -> None:
    """Plot success rate, intervention ratio and cycle time of successes, each of the last `window` episodes."""
    done = np.cumsum([e.steps for e in episodes])
    recent = [episodes[max(0, i + 1 - window) : i + 1] for i in range(len(episodes))]
    curves = {
        f"success, last {window} episodes": [sum(e.success for e in r) / len(r) for r in recent],
        "intervention ratio": [sum(e.interventions for e in r) / max(1, sum(e.steps for e in r)) for r in recent],
        "cycle time of successes [s]": [_cycle_time_s(r, period_s) for r in recent],
    }
    figure, all_axes = plt.subplots(len(curves), 1, figsize=(6.4, 6.4), sharex=True, layout="constrained")
    for axes, (name, values) in zip(all_axes, curves.items(), strict=True):
        axes.plot(done, values, color="C0")
        axes.set_ylabel(name, fontsize=8)
        axes.set_ylim(bottom=-0.02)
        axes.grid(alpha=0.3)
    all_axes[0].set_ylim(-0.02, 1.02)
    all_axes[-1].set_xlabel("control steps")
    all_axes[0].set_title("Training episodes (sampled actions, with interventions)", fontsize=9)
    _save(figure, path)


def _cycle_time_s(episodes: Sequence[TrainingEpisode], period_s: float) -> float:
    steps = [e.steps for e in episodes if e.success]
    return float(np.mean(steps)) * period_s if steps else float("nan")


def plot_actions(path: Path, actions: Mapping[str, NDArray[np.float32]], labels: tuple[str, str]) -> None:
    """Plot 2-D histograms of two action components. actions: source -> (N, 2) in [-1, 1]."""
    figure, all_axes = plt.subplots(
        1, len(actions), figsize=(3.8 * len(actions), 3.8), squeeze=False, layout="constrained"
    )
    for axes, (name, values) in zip(all_axes[0], actions.items(), strict=True):
        if len(values):
            bins = [np.linspace(-1, 1, 41)] * 2
            axes.hist2d(values[:, 0], values[:, 1], bins=bins, density=True, cmap="viridis")
        axes.set_title(f"{name} ({len(values)} steps)", fontsize=9)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.set_xlim(-1, 1)
        axes.set_ylim(-1, 1)
    figure.suptitle("Executed actions within 1.5 cm of the port")
    _save(figure, path)
