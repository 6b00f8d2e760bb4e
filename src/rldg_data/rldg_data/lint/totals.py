"""Checks over all episodes: each receives one episode after the other and reports at once or at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rldg_data import plausibility
from rldg_data.episodes import jpeg, provenance
from rldg_data.episodes.episode import Episode
from rldg_data.lint.episode import numbers
from rldg_data.lint.findings import Finding, Findings, Limits, Problem, Problems
from rldg_data.rlds.statistics import dataset_statistics, rows_of

AXES = ("x", "y", "z", "rx", "ry", "rz", "gripper")


class Place(NamedTuple):
    """Location of an episode. label: split, number and id, or the name of the bag."""

    split: str
    label: str


class Total(Protocol):
    """A check over all episodes."""

    def add(self, place: Place, episode: Episode) -> Problems:
        """Add one episode; yield problems of this episode."""

    def end(self) -> Findings:
        """Yield findings about the whole."""


@dataclass
class ImageSizes:
    """Every image decodes to one size, square and not tiny. expected: key -> (height, width), filled when unknown."""

    limits: Limits
    expected: dict[str, tuple[int, int]] = field(default_factory=dict)
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, place: Place, episode: Episode) -> Problems:
        for key, images in episode.images.items():
            if len(images) != len(episode):
                yield Problem("error", "image_size", f"{len(images)} images {key!r} in {len(episode)} steps")
            for step, data in enumerate(images):
                try:
                    size = jpeg.check(data)
                except ValueError as error:
                    yield Problem("error", "image", f"{key!r} of step {step}: {error}")
                    break
                self.seen.setdefault(key, size)
                expected = self.expected.setdefault(key, size)
                if size != expected:
                    yield Problem(
                        "error", "image_size", f"{key!r} of step {step} is {_px(size)}, expected {_px(expected)}"
                    )
                    break

    def end(self) -> Findings:
        for key, size in self.seen.items():
            if size[0] != size[1]:
                yield Finding("warning", "image_size", "", f"{key!r} is {_px(size)}, not square: readers distort it")
            if min(size) < self.limits.min_image_px:
                yield Finding(
                    "warning", "image_size", "", f"{key!r} is {_px(size)}, below {self.limits.min_image_px} px"
                )


def _px(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]} px"


@dataclass
class Rates:
    """All episodes have one rate, equal to the declared one."""

    limits: Limits
    periods_s: list[tuple[str, float]] = field(default_factory=list)

    def add(self, place: Place, episode: Episode) -> Problems:
        period_s = plausibility.usual_period_s(episode.timestamp_s, self.limits)
        if period_s > 0:
            self.periods_s.append((place.label, period_s))
        yield from ()

    def end(self) -> Findings:
        if not self.periods_s:
            return
        usual_s = float(np.median([period_s for _, period_s in self.periods_s]))
        for label, period_s in self.periods_s:
            if abs(period_s - usual_s) > self.limits.max_rate_error * usual_s:
                message = f"{1 / period_s:.3g} Hz, the dataset has {1 / usual_s:.3g} Hz"
                yield Finding("error", "rate", label, message)


@dataclass
class Cameras:
    """The images of a key come from one camera and one view; recordings without either are skipped."""

    seen: dict[str, tuple[Place, Any]] = field(default_factory=dict)

    def add(self, place: Place, episode: Episode) -> Problems:
        try:
            recordings = provenance.parts(episode.metadata)
        except ValueError:
            return  # reported by Copies
        for part in recordings:
            for key, image in (part.get("images") or {}).items():
                first, known = self.seen.setdefault(key, (place, image))
                wrong = [name for name in ("camera", "view") if _differ(image.get(name), known.get(name))]
                if wrong:
                    found, expected = image.get(wrong[0]), known.get(wrong[0])
                    yield Problem("error", "camera", f"{key!r} has {wrong[0]} {found}, in {first.label} {expected}")
                    return

    def end(self) -> Findings:
        yield from ()


def _differ(one: Any, other: Any) -> bool:
    return one is not None and other is not None and one != other


@dataclass
class Constants:
    """Dimensions that never change carry no information: a disconnected sensor, a wrong topic.

    The gripper's command and width are left out: a task without a gripper has them constant by definition.
    """

    low: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    high: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    steps: int = 0

    def add(self, place: Place, episode: Episode) -> Problems:
        values = numbers(episode)
        checked = {
            "action": values["action"][:-1, :6],
            "state": values["state"][:, :7],
            "twist": values["twist"],
            "wrench": values["wrench"],
        }
        for name, rows in checked.items():
            if len(rows):
                low, high = rows.min(axis=0), rows.max(axis=0)
                self.low[name] = np.fmin(self.low.get(name, low), low)
                self.high[name] = np.fmax(self.high.get(name, high), high)
        self.steps += len(episode)
        yield from ()

    def end(self) -> Findings:
        for name, low in self.low.items():
            same = np.flatnonzero(low == self.high[name])
            if len(same) and self.steps > 2:
                listed = ", ".join(f"{name}[{i}] = {low[i]:.4g}" for i in same)
                yield Finding("warning", "constant", "", f"never changes: {listed}")


@dataclass
class Saturation:
    """Share of an action dimension's steps at its largest magnitude.

    A dataset has no action scale, so magnitudes are counted in bins of 1 %, and the two topmost filled bins count as
    the largest magnitude.
    """

    limits: Limits
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((6, 2048), np.int64))
    steps: int = 0

    def add(self, place: Place, episode: Episode) -> Problems:
        action = np.nan_to_num(np.abs(episode.action[:-1, :6].astype(np.float64)))
        bins = np.clip(np.log(np.maximum(action, 1e-6) / 1e-6) / np.log(1.01), 0, 2047).astype(np.int64)
        for axis in range(6):
            self.counts[axis] += np.bincount(bins[:, axis], minlength=2048)
        self.steps += len(action)
        yield from ()

    def end(self) -> Findings:
        for axis in range(6):
            (filled,) = np.nonzero(self.counts[axis])
            if not len(filled) or filled[-1] == 0:
                continue
            share = self.counts[axis, filled[-1] - 1 : filled[-1] + 1].sum() / self.steps
            if share > self.limits.max_saturated:
                message = (
                    f"{share:.0%} of the steps at the largest {AXES[axis]} (limit {self.limits.max_saturated:.0%})"
                )
                yield Finding("warning", "saturation", "", message)


@dataclass
class Polarity:
    """The fingers open on a command that rises towards 1, and close on one that falls."""

    limits: Limits
    right: int = 0
    wrong: int = 0

    def add(self, place: Place, episode: Episode) -> Problems:
        command, width_m = episode.action[:-1, 6], episode.state[:, 7]
        for step in (np.flatnonzero(np.abs(np.diff(command)) > 0.5) + 1).tolist():
            follows_m = width_m[step : step + self.limits.switch_steps + 1][-1] - width_m[step]
            if abs(follows_m) >= self.limits.min_switch_m:
                agrees = (follows_m > 0) == (command[step] > command[step - 1])
                self.right, self.wrong = self.right + int(agrees), self.wrong + int(not agrees)
        yield from ()

    def end(self) -> Findings:
        switches = self.right + self.wrong
        if self.wrong > self.limits.max_wrong_switches * switches:
            message = f"inverted: in {self.wrong} of {switches} switches the fingers move the other way"
            yield Finding("error", "gripper", "", f"{message} (1 is open)")


@dataclass
class Copies:
    """Duplicate content under another id, and content in more than one split.

    Executed actions and measurements identify an episode, regardless of image encoding.
    """

    contents: dict[bytes, str] = field(default_factory=dict)
    parts: dict[bytes, Place] = field(default_factory=dict)

    def add(self, place: Place, episode: Episode) -> Problems:
        measured = _digest(episode.state, episode.wrench)
        content = _digest(episode.state, episode.wrench, episode.action)
        twin = self.contents.setdefault(content, place.label)
        if twin != place.label:
            yield Problem("error", "duplicate", f"the same content as {twin}")
        try:
            recordings = [bytes.fromhex(part["blake3"])[:16] for part in provenance.parts(episode.metadata)]
        except ValueError as error:
            yield Problem("error", "provenance", str(error))
            recordings = []
        for part in (measured, *recordings):
            first = self.parts.setdefault(part, place)
            if first.split != place.split:
                yield Problem("error", "leakage", f"shares recorded steps with {first.label}")
                return

    def end(self) -> Findings:
        yield from ()


def _digest(*arrays: NDArray[np.float32]) -> bytes:
    return hashlib.blake2b(b"".join(a.tobytes() for a in arrays), digest_size=16).digest()


@dataclass
class Statistics:
    """dataset_statistics.json against the split "train". rows: scratch file for its transitions."""

    stored: Mapping[str, Any]
    limits: Limits
    rows: IO[bytes]
    episodes: int = 0
    usable: bool = True

    def add(self, place: Place, episode: Episode) -> Problems:
        if place.split == "train":
            rows = rows_of(episode)
            self.rows.write(rows.tobytes())
            self.episodes += 1
            self.usable &= bool(np.isfinite(rows).all())
        yield from ()

    def end(self) -> Findings:
        self.rows.flush()
        if not self.rows.tell() or not self.usable:
            return  # nothing to compare, or already reported: not finite
        actual = dataset_statistics([Path(self.rows.name)], self.episodes)
        wrong = sorted(_differences(self.stored, actual, self.limits.statistics_tolerance))
        if wrong:
            yield Finding("error", "statistics", "", f"do not match the data, export again: {', '.join(wrong)}")


def _differences(stored: Any, actual: Mapping[str, Any], tolerance: float) -> Iterator[str]:
    """Keys of `actual` whose values are missing in `stored` or differ by more than the relative tolerance."""
    for key, value in actual.items():
        other = stored.get(key) if isinstance(stored, Mapping) else None
        if isinstance(value, Mapping):
            yield from (f"{key}.{inner}" for inner in _differences(other, value, tolerance))
        elif not _is_close(other, value, tolerance):
            yield key


def _is_close(left: Any, right: Any, tolerance: float) -> bool:
    try:
        pair = np.asarray(left, np.float64), np.asarray(right, np.float64)
    except (TypeError, ValueError):
        return False
    return pair[0].shape == pair[1].shape and bool(np.allclose(*pair, rtol=tolerance, atol=1e-9))
