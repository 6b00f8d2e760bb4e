"""The pictures of a dataset's card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rldg_core.errors import UserError
from rldg_core.files import writing_aside
from rldg_core.image_codec import decode_jpeg, resize
from rldg_data.card.survey import Survey

FRAME_PX, GAP_PX = 160, 4
_DPI = 100


def draw_actions(seen: Survey, axes_names: Sequence[str], path: Path) -> None:
    """Histogram of every action dimension; logarithmic counts, since waiting and saturation dwarf the rest."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    panels = figure.subplots(2, 4).ravel()
    for axis, name in enumerate(axes_names):
        panel, edges = panels[axis], seen.edges[axis]
        panel.bar(edges[:-1], seen.histogram[axis], np.diff(edges), align="edge", color=f"C{axis}")
        panel.set_yscale("log")
        panel.set_ylim(0.8, 2 * max(int(seen.histogram[axis].max()), 1))
        panel.set_title(name, fontsize=10)
        panel.tick_params(labelsize=8)
        panel.locator_params(axis="x", nbins=5)
        panel.set_xlim(edges[0], edges[-1])
        panel.axvline(0, color="black", linewidth=0.6, alpha=0.5)
    panels[0].set_ylabel("steps")
    panels[4].set_ylabel("steps")
    panels[-1].set_visible(False)
    _save(figure, path)


def draw_lengths(seen: Survey, path: Path) -> None:
    """Histogram of the episodes' lengths."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    panel = figure.subplots()
    low, high = min(seen.lengths), max(seen.lengths)
    edges = np.linspace(low - 0.5, high + 0.5, min(high - low + 1, 40) + 1).tolist()
    panel.hist(seen.lengths, edges, color="C0")
    median = float(np.median(seen.lengths))
    panel.axvline(median, color="black", linestyle="--", linewidth=1, label=f"median {median:g}")
    panel.set_xlabel("transitions of an episode")
    panel.set_ylabel("episodes")
    panel.legend(fontsize=8)
    _save(figure, path)


def draw_frames(seen: Survey, path: Path) -> None:
    """Contact sheet: a row per sampled episode, its first frame on the left, its last on the right."""
    rows = len(seen.samples)
    columns = len(seen.samples[0][1])
    width, height = columns * (FRAME_PX + GAP_PX) - GAP_PX, FRAME_PX
    figure = Figure(figsize=(width / _DPI, rows * (height + 24) / _DPI), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, 1))
    gap = np.full((FRAME_PX, GAP_PX, 3), 255, np.uint8)
    for panel, (title, files) in zip(panels, seen.samples, strict=True):
        try:
            frames = [resize(decode_jpeg(data), FRAME_PX) for data in files]
        except ValueError as error:
            raise UserError(f"{path.parent}: {title}: {error}") from error
        panel.imshow(np.concatenate([part for frame in frames for part in (gap, frame)][1:], axis=1))
        panel.set_title(title, fontsize=8, loc="left", pad=3)
        panel.set_axis_off()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with writing_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=_DPI)
