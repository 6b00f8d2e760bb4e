"""Summary of a bag: statistics of its topics, and a plot of its episode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError, one_line
from rldg_core.files import writing_aside
from rldg_core.from_msg import NS_PER_S
from rldg_core.image_codec import Image, decode_jpeg, resize
from rldg_core.types import Source, Step
from rldg_data.bags import metadata
from rldg_data.bags.reading import read_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRAMES = 8
TITLE_CHARACTERS = 150
FRAME_PX, GAP_PX = 224, 6
COLOURS = {Source.POLICY: "C0", Source.HUMAN: "C1", Source.SCRIPTED: "C2", Source.HOLD: "C7"}


@dataclass(frozen=True)
class TopicSummary:
    """rate_hz: messages per second of the bag's duration; NaN for fewer than two."""

    name: str
    type: str
    messages: int
    rate_hz: float


@dataclass(frozen=True)
class BagSummary:
    """Output of `rldg bag info` for one bag."""

    path: Path
    files: int
    size_bytes: int
    start_ns: int
    duration_s: float
    messages: int
    topics: tuple[TopicSummary, ...]
    custom_data: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; NaN becomes null."""
        topics = [
            {**vars(topic), "rate_hz": None if np.isnan(topic.rate_hz) else round(topic.rate_hz, 3)}
            for topic in self.topics
        ]
        return {**vars(self), "path": str(self.path), "topics": topics}


def summarize(path: Path) -> BagSummary:
    """Read metadata.yaml, of any storage, and the sizes of the files. Raises UserError naming what is missing."""
    info = metadata.read(path, storage=None)
    duration_s = info.duration_ns / NS_PER_S
    topics = tuple(
        TopicSummary(name, kind, n, (n - 1) / duration_s if n > 1 and duration_s > 0 else float("nan"))
        for name, (kind, n) in sorted(info.topics.items())
    )
    try:
        size = sum(file.stat().st_size for file in info.files)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot read: {error.strerror}") from error
    return BagSummary(
        path, len(info.files), size, info.start_ns, duration_s, info.message_count, topics, dict(info.custom_data)
    )


def draw_bag(path: Path, out: Path) -> None:
    """Draw a bag's episode to a PNG: images over time, executed actions, wrench.

    Accepts an incomplete episode. Raises UserError when the bag or one of its images cannot be read.
    """
    steps = read_steps(path)
    if not steps:
        raise UserError(f"{path}: no Steps")
    draw_steps(steps, f"{path.name}: {_title(steps)}", out)


def draw_steps(steps: list[Step], title: str, out: Path) -> None:
    """The picture of `draw_bag` of Steps in order."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cameras = list(steps[0].observation.images)
    heights = [1.45] * len(cameras) + [1.7, 1.2, 1.4, 1.4, 1.0]
    figure, axes = pyplot.subplots(
        len(heights),
        1,
        figsize=(13, 1.45 * sum(heights)),
        height_ratios=heights,
        layout="constrained",
    )
    figure.suptitle(title, fontsize=11)
    time_s = np.array([s.observation.stamp_ns - steps[0].observation.stamp_ns for s in steps]) / NS_PER_S
    chosen = np.unique(np.linspace(0, len(steps) - 1, FRAMES).round().astype(int))
    for panel, camera in zip(axes, cameras, strict=False):
        _draw_images(panel, steps, camera, chosen, time_s)
    translation, rotation, force, torque, more = axes[len(cameras) :]
    acting = [step for step in steps if len(step.action.executed) >= 6]
    actions = np.full((len(acting), max((len(step.action.executed) for step in acting), default=6)), np.nan)
    for row, step in zip(actions, acting, strict=True):
        row[: len(step.action.executed)] = step.action.executed
    at = time_s[[len(s.action.executed) >= 6 for s in steps]]
    _draw_lines(translation, at, actions[:, :3], "xyz", "executed\ntranslation")
    _shade_sources(translation, acting, at)
    _draw_lines(rotation, at, actions[:, 3:6], "xyz", "executed\nrotation")
    wrench = np.array([s.observation.wrench_tcp for s in steps])
    _draw_lines(force, time_s, wrench[:, :3], "xyz", "force [N]", None)
    _draw_lines(torque, time_s, wrench[:, 3:], "xyz", "torque [N m]", None)
    gripper = actions[:, 6:7]
    width = np.array([[s.observation.gripper_width_m * 1e3] for s in steps])
    if gripper.size:
        more.step(at, gripper[:, 0], where="post", color="C4", label="gripper action")
    more.step(time_s, [s.reward for s in steps], where="post", color="C5", label="reward")
    more.set_ylabel("reward,\ngripper" if gripper.size else "reward", fontsize=8)
    if np.isfinite(width).any():
        right = more.twinx()
        right.plot(time_s, width, color="C6", linestyle="--", label="width [mm]")
        right.set_ylabel("width [mm]", fontsize=8, color="C6")
        right.tick_params(labelsize=7)
    more.legend(loc="upper left", fontsize=7, ncols=2)
    more.set_xlabel("time since the first observation [s]", fontsize=8)
    for panel in axes[len(cameras) :]:
        panel.set_xlim(time_s[0], max(time_s[-1], time_s[0] + 1e-3))
        panel.grid(alpha=0.3)
        panel.tick_params(labelsize=7, labelbottom=panel is more)
        for place in time_s[chosen]:
            panel.axvline(place, color="black", linewidth=0.4, alpha=0.4)
    try:
        with writing_aside(out) as aside:
            figure.savefig(aside, format="png", dpi=100)
    finally:
        pyplot.close(figure)


def _title(steps: list[Step]) -> str:
    first, last = steps[0], steps[-1]
    end = "success" if last.success else "truncated" if last.truncated else "failure" if last.is_last else "incomplete"
    title = one_line(
        f"{first.task} / {first.object} / {end} / {len(steps)} Steps / {first.episode_id}", TITLE_CHARACTERS
    )
    return f"{title}\n“{one_line(first.instruction, TITLE_CHARACTERS)}”"


def _draw_images(
    panel: Axes, steps: list[Step], camera: str, chosen: NDArray[np.int_], time_s: NDArray[np.float64]
) -> None:
    gap = np.full((FRAME_PX, GAP_PX, 3), 255, np.uint8)
    strip = [part for index in chosen for part in (gap, _frame(steps[index], camera))][1:]
    panel.imshow(np.concatenate(strip, axis=1))
    panel.set_xticks(
        [place * (FRAME_PX + GAP_PX) + FRAME_PX / 2 for place in range(len(chosen))],
        [f"#{steps[index].index}  {time_s[index]:.1f} s" for index in chosen],
        fontsize=7,
    )
    panel.set_yticks([])
    panel.set_ylabel(camera, fontsize=8)


def _frame(step: Step, camera: str) -> Image:
    try:
        return resize(decode_jpeg(step.observation.images[camera]), FRAME_PX)
    except (KeyError, ValueError) as error:
        raise UserError(f"Step {step.index}: camera {camera!r}: {error}") from error


def _draw_lines(
    panel: Axes,
    time_s: NDArray[np.float64],
    values: NDArray[Any],
    names: str,
    label: str,
    limits: tuple[float, float] | None = (-1.05, 1.05),
) -> None:
    for column, name in enumerate(names[: values.shape[1]]):
        if limits:
            panel.step(time_s, values[:, column], where="post", label=name, linewidth=1)
        else:
            panel.plot(time_s, values[:, column], label=name, linewidth=1)
    if limits:
        panel.set_ylim(*limits)
    panel.set_ylabel(label, fontsize=8)
    panel.legend(loc="upper left", fontsize=7, ncols=3)


def _shade_sources(panel: Axes, acting: list[Step], time_s: NDArray[np.float64]) -> None:
    """Background colour by source of the actions."""
    named: set[Source] = set()
    period_s = float(np.median(np.diff(time_s))) if len(time_s) > 1 else 0.0
    for step, start in zip(acting, time_s, strict=True):
        source = step.action.source
        label = None if source in named else source.name.lower()
        named.add(source)
        panel.axvspan(start, start + period_s, color=COLOURS.get(source, "C8"), alpha=0.15, linewidth=0, label=label)
    panel.legend(loc="upper left", fontsize=7, ncols=3 + len(named))
