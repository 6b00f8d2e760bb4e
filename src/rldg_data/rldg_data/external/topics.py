"""Read topics of any rosbag2 bag (MCAP or SQLite) and extract values of their messages by field paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from rldg_core.configuration import parse_yaml, read_yaml
from rldg_core.errors import UserError
from rldg_core.files import check_tree
from rldg_core.from_msg import stamp_ns, twist_array, wrench_array
from rldg_core.joints import arm_positions, finger_width_m, is_one_of_two_fingers
from rldg_core.plausible import check_quaternion
from rldg_core.types import Float64
from rldg_data.bags.reading import first_line
from rldg_data.bags.unpacking import check_chunks, check_compressed, unpack_message
from rldg_data.plausibility import Delay, delay

_DEFAULT_FIELDS = {
    "PoseStamped": "pose",
    "PoseWithCovarianceStamped": "pose.pose",
    "TransformStamped": "transform",
    "TwistStamped": "twist",
    "WrenchStamped": "wrench",
    "JointState": "position",
    "Joy": "axes",
    "Float32MultiArray": "data",
    "Float64MultiArray": "data",
    "Float32": "data",
    "Float64": "data",
    "Bool": "data",
}
"""Default field path of the value by message type."""

_ARM_JOINT = re.compile(r"(?:.*[_/])?(?<!finger_)joint_?[1-7]", re.DOTALL)

NO_DELAY = Delay(0.0, 0.0)
OTHER_CLOCK_NS = 1_000_000_000


@dataclass(frozen=True)
class Series:
    """One topic's values in the order of their stamps: stamps_ns (N,), values[i] of any kind.

    late_ns: median of log time minus stamp; delay: its range over the recording.
    """

    topic: str
    stamps_ns: NDArray[np.int64]
    values: list[Any]
    late_ns: int = 0
    delay: Delay = NO_DELAY

    def newest(self, at_ns: int) -> int:
        """Index of the newest value at or before a time; -1 when there is none."""
        return int(np.searchsorted(self.stamps_ns, at_ns, side="right")) - 1

    def within(self, begin_ns: int, end_ns: int) -> Series:
        """The part of [begin, end)."""
        first, last = (int(np.searchsorted(self.stamps_ns, at, side="left")) for at in (begin_ns, end_ns))
        return replace(self, stamps_ns=self.stamps_ns[first:last], values=self.values[first:last])


class ExternalBag:
    """An open bag. Every failure of the reader is a UserError that names the bag."""

    def __init__(self, path: Path, reader: Reader, header_stamps: bool) -> None:
        self._path, self._reader = path, reader
        self._header_stamps = header_stamps
        self._offset_ns = 0
        self._stores: dict[str, Typestore] = {}
        self._packed = reader.compression_mode == "message"
        # rosbags would unpack each message without a limit.
        reader.storage.metadata = reader.storage.metadata._replace(compression_mode=None)

    def follow_clock(self, series: Series) -> None:
        """Shift log times that replace stamps to the clock of these headers.

        Only if the clocks differ (simulated, or another host), not for a mere transport delay.
        """
        self._offset_ns = series.late_ns if abs(series.late_ns) > OTHER_CLOCK_NS else 0

    @property
    def start_ns(self) -> int:
        """When the recording began, on the clock of the stamps (see `follow_clock`)."""
        return int(self._reader.start_time) - self._offset_ns

    def read(self, topic: str, take: Callable[[Any, str, int], Any], offset_s: float = 0.0) -> Series:
        """Read all messages of a topic and keep `take(message, type, position in the topic)` of each.

        offset_s is added to the stamps.
        Raises UserError when the topic is missing or empty, or `take` raises ValueError.
        """
        connections = self._connections(topic)
        stamps, log_times, values = [], [], []
        for number, (connection, log_ns, raw) in enumerate(self._messages(connections)):
            message = self._decoded(connection, raw)
            stamps.append(self._stamp(message, log_ns) + round(offset_s * 1e9))
            log_times.append(log_ns)
            try:
                values.append(take(message, connection.msgtype, number))
            except ValueError as error:
                raise UserError(f"{self._path}: topic {topic}: message {number}: {first_line(error)}") from error
        if not stamps:
            raise UserError(f"{self._path}: topic {topic}: no messages")
        order = np.argsort(stamps, kind="stable")
        stamps_ns, log_times_ns = np.array(stamps, np.int64), np.array(log_times, np.int64)
        late_ns, late = int(np.median(log_times_ns - stamps_ns)), delay(stamps_ns, log_times_ns)
        return Series(topic, stamps_ns[order], [values[i] for i in order], late_ns, late)

    def _connections(self, topic: str) -> list[Connection]:
        found = [c for c in self._reader.connections if c.topic == topic]
        if not found:
            topics = sorted({c.topic for c in self._reader.connections})
            held = ", ".join(t if t.isprintable() else repr(t) for t in topics) or "nothing"
            raise UserError(f"{self._path}: topic {topic}: not in the bag, which has {held}")
        return found

    def _messages(self, connections: list[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        with _one_line(self._path):
            for connection, log_ns, raw in self._reader.messages(connections):
                yield connection, log_ns, unpack_message(raw) if self._packed else raw

    def _decoded(self, connection: Connection, raw: bytes) -> Any:
        kind = connection.msgtype
        with _one_line(self._path):
            if kind not in self._stores:
                # One store per type: other types in the bag may be unknown.
                self._stores[kind] = _typestore(connection)
            return self._stores[kind].deserialize_cdr(raw, kind)

    def _stamp(self, message: Any, log_ns: int) -> int:
        """Return the header stamp, or the log time if it is missing, unset or disabled."""
        stamp = getattr(getattr(message, "header", None), "stamp", None)
        known_ns = stamp_ns(stamp) if stamp is not None and self._header_stamps else 0
        return known_ns or log_ns - self._offset_ns


def _check_files(path: Path) -> None:
    """Check the files first: rosbags opens any file, reads YAML without limits, and decompresses without limits."""
    check_tree(path)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.suffix == ".mcap":
            check_chunks(file, every_frame=True)
        elif file.suffix == ".zstd":
            check_compressed(file)
    metadata = path / "metadata.yaml"
    if metadata.is_file():
        topics = _value(read_yaml(metadata), "rosbag2_bagfile_information", "topics_with_message_count")
        for topic in topics if isinstance(topics, list) else []:
            profiles = _value(topic, "topic_metadata", "offered_qos_profiles")
            if isinstance(profiles, str):  # up to version 8, YAML inside YAML
                parse_yaml(profiles, f"{metadata}: offered_qos_profiles")


def _value(document: Any, *keys: str) -> Any:
    """Return the value under nested keys; None where something is missing or no mapping."""
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


@contextmanager
def opened(path: Path, header_stamps: bool = True) -> Iterator[ExternalBag]:
    """Open a bag. Raises UserError when it is missing, damaged or of an unknown kind."""
    if not path.exists():
        raise UserError(f"{path}: no such bag")
    _check_files(path)
    reader: Reader
    with _one_line(path):
        reader = Reader(path)
        reader.open()  # bounded: checked above
    try:
        if reader.compression_mode == "file":
            for unpacked in [part.path for part in getattr(reader.storage, "storages", ())]:
                if unpacked.suffix == ".mcap":
                    check_chunks(unpacked, every_frame=True)
        yield ExternalBag(path, reader, header_stamps)
    finally:
        with _one_line(path):
            reader.close()


def _typestore(connection: Connection) -> Typestore:
    definition, kind = connection.msgdef, connection.msgtype
    if definition.format == MessageDefinitionFormat.NONE:
        # SQLite bags before Jazzy have no definitions: use those of the current release.
        return get_typestore(Stores.LATEST)
    store = get_typestore(Stores.EMPTY)
    if definition.format == MessageDefinitionFormat.MSG:
        store.register(get_types_from_msg(definition.data, kind))
    else:
        for part in filter(None, definition.data.split("=" * 80 + "\n")):
            store.register(get_types_from_idl(part.partition("\n")[2] if part.startswith("IDL: ") else part))
    return store


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # rosbags parses untrusted data: the list of exceptions of it and its decompressors is open-ended.
        raise UserError(f"{path}: not a readable bag: {first_line(error)}") from error


def visit(message: Any, type_name: str, path: str) -> list[Any]:
    """Follow a dotted path of names and indices; return the message, all intermediate values, and the value.

    path: empty for the default field of the type, or the message itself. In a JointState a joint name replaces its
    index. Raises ValueError naming the part that is missing.
    """
    value, visited = message, [message]
    for part in (path or _DEFAULT_FIELDS.get(type_name.rpartition("/")[2], "")).split("."):
        if not part:
            continue
        try:
            if len(visited) == 2 and part in (names := list(getattr(message, "name", []))):
                value = value[names.index(part)]
            else:
                value = value[int(part)] if part.isdecimal() else getattr(value, part)
        except (AttributeError, IndexError, TypeError) as error:
            raise ValueError(f"field {path or part!r}: a {type_name} has no {part!r}") from error
        visited.append(value)
    return visited


def is_joint_state(type_name: str) -> bool:
    """Return whether the type has joint names."""
    return type_name.endswith("/JointState")


def as_joints(message: Any, type_name: str, path: str) -> Float64:
    """Return arm joints (7,) by the names of a JointState; by order only if it has no names and a path is given.

    Raises ValueError, also when the path does not lead to positions.
    """
    if is_joint_state(type_name) and (len(message.name) or not path):
        if path not in ("", "position"):
            raise ValueError(f"field {path!r}: joints are positions [rad], found by name: remove `field`")
        return arm_positions(list(message.name), message.position)
    return as_numbers(visit(message, type_name, path)[-1])


def as_gripper(message: Any, type_name: str, path: str) -> float:
    """Return a gripper value; for a JointState without a path, the width between its two fingers [m].

    Raises ValueError, also when the index in a path is a joint of the arm.
    """
    if is_joint_state(type_name):
        names = list(message.name)
        if not path:
            return finger_width_m(names, message.position)
        part = path.rpartition(".")[2]
        if part.isdecimal() and int(part) < len(names) and _ARM_JOINT.fullmatch(names[int(part)]):
            raise ValueError(
                f"field {path!r} is joint {names[int(part)]!r} of the arm, expected a finger: "
                "remove `field` and `scale`, or name the joint, `field: position.NAME`"
            )
    return as_number(visit(message, type_name, path)[-1])


def as_width(message: Any, type_name: str, path: str) -> float:
    """As `as_gripper`, but raise ValueError when the path leads to one of two fingers, which is half the width."""
    value = as_gripper(message, type_name, path)
    if is_joint_state(type_name) and path:
        part, names = path.rpartition(".")[2], list(message.name)
        name = names[int(part)] if part.isdecimal() and int(part) < len(names) else part
        if path.startswith("position.") and is_one_of_two_fingers(name, names):
            raise ValueError(f"field {path!r} is one of two fingers: remove `field`, or set `scale: 2.0`")
    return value


def as_pose(value: Any) -> Float64:
    """Pose or Transform -> (7,) position, unit quaternion xyzw. Raises ValueError on anything else."""
    place = getattr(value, "position", getattr(value, "translation", None))
    turn = getattr(value, "orientation", getattr(value, "rotation", None))
    if place is None or turn is None:
        raise ValueError(f"{type(value).__name__} is not a pose")
    pose = np.array([place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w], dtype=np.float64)
    check_quaternion(_finite(pose)[3:])
    pose[3:] /= np.linalg.norm(pose[3:])
    return pose


def as_twist(value: Any) -> Float64:
    """Twist -> (6,). Raises ValueError on anything else."""
    if not hasattr(value, "linear") or not hasattr(value, "angular"):
        raise ValueError(f"{type(value).__name__} is not a twist")
    return _finite(twist_array(value))


def as_wrench(value: Any) -> Float64:
    """Wrench -> (6,). Raises ValueError on anything else."""
    if not hasattr(value, "force") or not hasattr(value, "torque"):
        raise ValueError(f"{type(value).__name__} is not a wrench")
    return _finite(wrench_array(value))


def as_numbers(value: Any) -> Float64:
    """Array -> (n,). Raises ValueError on anything else."""
    return _finite(np.asarray(value, dtype=np.float64).reshape(-1)) if np.ndim(value) == 1 else _not("an array", value)


def as_number(value: Any) -> float:
    """Number or boolean -> float. Raises ValueError on anything else."""
    return float(_finite(np.array([float(value)]))[0]) if np.ndim(value) == 0 else _not("a number", value)


def _finite(values: Float64) -> Float64:
    if not np.isfinite(values).all():
        raise ValueError(f"{values.tolist()} is not finite")
    return values


def _not(what: str, value: Any) -> Any:
    raise ValueError(f"{type(value).__name__} is not {what}")
