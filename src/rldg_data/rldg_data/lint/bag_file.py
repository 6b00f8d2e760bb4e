"""Read a bag to its end, even if damaged: Steps with log times, and problems of the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mcap.reader import make_reader
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.files import open_regular
from rldg_core.types import Step
from rldg_data.bags import metadata
from rldg_data.bags.cdr import header_stamp_ns, step_decoder
from rldg_data.bags.episode_info import EpisodeInfo
from rldg_data.bags.metadata import BagInfo, Topic
from rldg_data.bags.reading import CORRUPT, INCOMPLETE, first_line
from rldg_data.bags.repair import Salvage
from rldg_data.bags.schemas import STEP_TYPE
from rldg_data.plausibility import Problem, Problems

_HEADER_FIRST = "std_msgs/Header "


@dataclass(frozen=True)
class Times:
    """Messages of one topic: log times and stamps of their headers (0: none) [ns], (N,) each."""

    type: str
    log_ns: NDArray[np.int64]
    stamps_ns: NDArray[np.int64]


@dataclass(frozen=True)
class BagContents:
    """Content of an intact bag. steps: ordered by index; times: topic -> times of its messages, including `step`."""

    path: Path
    info: EpisodeInfo
    steps: tuple[Step, ...]
    times: Mapping[str, Times]


@dataclass
class _FileContents:
    """One pass over the files."""

    steps: list[Step] = field(default_factory=list)
    undecoded: list[str] = field(default_factory=list)
    times: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    step_topics: set[str] = field(default_factory=set)


def read_contents(path: Path) -> tuple[BagContents | None, list[Problem]]:
    """Return (contents, problems of the files). contents: None when there is no readable episode.

    Never raises on the content of a bag, except MemoryError and the like.
    """
    try:
        bag = metadata.read(path)
    except UserError as error:
        return None, [Problem("error", "metadata", str(error))]
    read = _FileContents()
    problems: list[Problem] = []
    for file in bag.files:
        problems += _read_file(file, read)
    problems += _counts(bag, read)
    if bag.custom_data.get("complete") == INCOMPLETE["complete"]:
        problems.append(Problem("error", "incomplete", "complete: false: an incomplete episode"))
    if len(read.step_topics) != 1:
        found = ", ".join(sorted(read.step_topics)) or "none"
        problems.append(Problem("error", "steps", f"topics of type {STEP_TYPE}: {found}; expected one"))
    elif not (read.steps or read.undecoded):
        problems.append(Problem("error", "steps", "no Steps"))
    if read.undecoded:
        count = f"{len(read.undecoded)} Steps cannot be decoded, first: "
        problems.append(Problem("error", "steps", count + read.undecoded[0]))
    try:
        info = EpisodeInfo.from_custom_data(bag.custom_data, metadata.FILE_NAME)
    except UserError as error:
        return None, [*problems, Problem("error", "metadata", str(error))]
    if problems:
        return None, problems
    steps = tuple(sorted(read.steps, key=lambda step: step.index))
    times = {
        topic: Times(bag.topics[topic][0], *np.array(values, np.int64).reshape(-1, 2).T)
        for topic, values in read.times.items()
    }
    return BagContents(path, info, steps, times), []


def _read_file(file: Path, read: _FileContents) -> Problems:
    one = Salvage(file)
    decoders = {}
    try:
        for topic, message in one.messages():
            stamp_ns = header_stamp_ns(message.data) if _begins_with_header(topic) else 0
            if topic.type == STEP_TYPE:
                read.step_topics.add(topic.name)
                try:
                    if topic.name not in decoders:
                        decoders[topic.name] = step_decoder(topic.definition())
                    step = decoders[topic.name](message.data)
                    read.steps.append(step)
                except (AttributeError, *CORRUPT) as error:
                    read.undecoded.append(first_line(error))
            # uint64 in the file; values above 2**63 are not times.
            read.times.setdefault(topic.name, []).append((min(message.log_time, 2**63 - 1), stamp_ns))
        with open_regular(file) as stream:
            summary = make_reader(stream).get_summary()
    except UserError as error:
        yield Problem("error", "damaged", str(error))
        return
    except (OSError, *CORRUPT) as error:
        yield Problem("error", "damaged", f"{file.name}: no index at its end: {first_line(error)}")
        return
    if one.lost_bytes:
        yield Problem("error", "damaged", f"{file.name}: {one.lost_bytes} bytes cannot be read (CRC, or cut off)")
    elif summary is None or summary.statistics is None:
        yield Problem("error", "damaged", f"{file.name}: no index at its end")


def _begins_with_header(topic: Topic) -> bool:
    lines = (line.strip() for line in topic.definition().splitlines())
    return next((line for line in lines if line and line[0] != "#"), "").startswith(_HEADER_FIRST)


def _counts(bag: BagInfo, read: _FileContents) -> Problems:
    """Compare metadata.yaml with the files."""
    found = Counter({topic: len(times) for topic, times in read.times.items()})
    for topic in sorted({*bag.topics, *found}):
        stored = bag.topics.get(topic, ("", 0))[1]
        if stored != found[topic]:
            yield Problem("error", "counts", f"{topic}: {found[topic]} messages, {metadata.FILE_NAME} says {stored}")
    logged = [log_ns for times in read.times.values() for log_ns, _ in times]
    span = (min(logged), max(logged) - min(logged)) if logged else (0, 0)
    if span != (bag.start_ns, bag.duration_ns):
        told_s = f"start {bag.start_ns / 1e9:.3f} s, duration {bag.duration_ns / 1e9:.3f} s"
        found_s = f"start {span[0] / 1e9:.3f} s, duration {span[1] / 1e9:.3f} s"
        yield Problem("error", "counts", f"log times: {found_s}; {metadata.FILE_NAME} says {told_s}")
