"""Bags that were not closed, or lost a part: what can still be read becomes a valid bag again.

Steps are never invented or changed: an episode without its last Step becomes a valid rosbag2 bag that says
`complete: false`, and from which nothing is learned. To mark its last Step as truncated would need an observation
after it that nobody has recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mcap.reader import make_reader

from rldg_core.errors import UserError
from rldg_core.files import open_regular, writing_aside
from rldg_core.types import Step
from rldg_data.bags.cdr import step_decoder
from rldg_data.bags.episode_info import EpisodeInfo, dominant_source
from rldg_data.bags.mcap_file import is_being_written
from rldg_data.bags.mcap_writer import McapWriter
from rldg_data.bags.metadata import Storage
from rldg_data.bags.reading import CORRUPT, INCOMPLETE, UNFINISHED, bag_info, is_episode
from rldg_data.bags.salvage import Salvage
from rldg_data.bags.schemas import STEP_TYPE
from rldg_data.bags.unpacking import check_chunks

DAMAGED = ".damaged"
"""Ending of the hidden folder that keeps the original of a repaired bag; hidden from the globs of recipes."""


@dataclass(frozen=True)
class Repaired:
    """What a repair made of a folder. damaged: where the original lies; lost_bytes: that could not be read.

    complete: whether the Steps are one whole episode; None for a bag without Steps.
    """

    path: Path
    damaged: Path
    messages: int
    steps: int
    lost_bytes: int
    complete: bool | None


def set_partials_aside(bag_dir: Path) -> list[Path]:
    """Move what a killed recorder left in `bag_dir` to `bag_dir`/unfinished and return where it went.

    What another recorder has open stays.
    """
    moved = []
    for folder in sorted(bag_dir.glob(".episode_*.partial")):
        if any(is_being_written(file) for file in folder.rglob("*.mcap")):
            continue
        aside = bag_dir / UNFINISHED / folder.name.strip(".").removesuffix(".partial")
        aside.parent.mkdir(exist_ok=True)
        folder.rename(aside)
        moved.append(aside)
    return moved


def damaged_bags(folder: Path) -> list[Path]:
    """What needs repair: the folder itself when it is a bag, else the bags in it and in its `unfinished`.

    Raises UserError when there is no bag at all.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    folder = folder.resolve() if folder.name in ("", "..") else folder
    if any(folder.glob("*.mcap")):
        bags = [folder]
    else:
        left = folder / UNFINISHED
        held = [*folder.iterdir(), *(left.iterdir() if left.is_dir() else ())]
        bags = sorted(p for p in held if p != left and not p.name.startswith(".") and any(p.rglob("*.mcap")))
    if not bags:
        raise UserError(f"{folder}: no bag in it")
    return [bag for bag in bags if not is_sound(bag)]


def is_sound(bag: Path) -> bool:
    """Whether every message that metadata.yaml counts can be read."""
    try:
        info = bag_info(bag)
        count = 0
        for file in info.files:
            check_chunks(file)
            with open_regular(file) as stream:
                count += sum(1 for _ in make_reader(stream, validate_crcs=True).iter_messages(log_time_order=False))
    except (UserError, OSError, *CORRUPT):
        return False
    return count == info.message_count


def repair_bag(bag: Path) -> Repaired:
    """Make the folder of a damaged bag a valid one, to the last complete chunk of each of its files.

    The original is kept beside it as `.<name>.damaged`. Raises UserError when nothing can be restored; the folder is
    then as it was.
    """
    files = sorted(bag.rglob("*.mcap"), key=_number)
    if any(is_being_written(file) for file in files):
        raise UserError(f"{bag}: a recorder is writing it")
    damaged = bag.with_name(f".{bag.name}{DAMAGED}")
    if damaged.exists():
        raise UserError(f"{damaged}: is in the way; it holds the original of an earlier repair")
    steps, passes = [], [Salvage(file) for file in files]
    count = 0
    for one in passes:
        for topic, message in one.messages():
            count += 1
            if topic.type == STEP_TYPE:
                with suppress(AttributeError, *CORRUPT):
                    steps.append(step_decoder(topic.definition())(message.data))
    if not count:
        raise UserError(f"{bag}: nothing to restore: no complete chunk with messages")
    known = next((one.custom_data for one in reversed(passes) if one.custom_data), {})
    complete = is_episode(steps) if steps else None
    restored = bag.with_name(f".{bag.name}.restored")
    with writing_aside(restored) as aside:
        storage = Storage("zstd_fast" if any(one.compressed for one in passes) else "none")
        _write(files, McapWriter(aside, _name(files[0]), storage, known), _custom_data(known, steps, complete))
    bag.rename(damaged)
    restored.rename(bag)
    return Repaired(bag, damaged, count, len(steps), sum(one.lost_bytes for one in passes), complete)


def _write(files: Sequence[Path], writer: McapWriter, custom_data: Mapping[str, str]) -> None:
    topics: set[str] = set()
    for file in files:
        for topic, message in Salvage(file).messages():
            if topic.name not in topics:
                writer.add_topic(topic)
                topics.add(topic.name)
            writer.write(topic.name, message.data, message.log_time, message.publish_time)
    writer.close(custom_data)


def _custom_data(known: Mapping[str, str], steps: Sequence[Step], complete: bool | None) -> dict[str, str]:
    """What the bag says of itself, brought up to what its Steps are."""
    data = {key: value for key, value in known.items() if key not in INCOMPLETE}
    if complete is None:
        return data
    with suppress(UserError):
        # Not every bag with Steps is one of our recorder's.
        info = EpisodeInfo.from_custom_data(data, "")
        actions = [step.action for step in steps if not step.is_last]
        last = next((action for action in reversed(actions) if action.policy_id), None)
        info = replace(
            info,
            success=complete and steps[-1].success,
            source=dominant_source(actions).name.lower(),
            policy_id=last.policy_id if last else "",
            policy_version=last.policy_version if last else 0,
            steps=len(actions),
        )
        data |= info.to_custom_data()
    return data if complete else {**data, **INCOMPLETE}


def _number(file: Path) -> tuple[str, int]:
    """Files of a split bag are numbered without leading zeros."""
    stem, _, number = file.stem.rpartition("_")
    return (stem, int(number)) if number.isdecimal() else (file.stem, 0)


def _name(file: Path) -> str:
    return file.stem.rpartition("_")[0] or file.stem
