"""Read a LeRobot dataset v3 as Episodes: ours exactly (except images), others by the names of their features."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rldg_core.errors import UserError
from rldg_core.frames import twists_of
from rldg_core.image_codec import Image, decode_jpeg, encode_jpeg
from rldg_core.plausible import check_quaternion
from rldg_data.episodes.episode import ACTION_DIM, METADATA_TYPES, STATE_DIM, Episode, Float32
from rldg_data.lerobot.components import Components, FeatureNames, Kind, components
from rldg_data.lerobot.layout import FINAL, FINAL_PREFIX, IMAGE_PREFIX, METADATA_PREFIX
from rldg_data.lerobot.tables import DataFile, Info, numbers, read_episode_rows, read_info
from rldg_data.lerobot.video import FrameReader
from rldg_data.plausibility import Limits, rate, refuse

Encode = Callable[[str, Image], bytes]
"""(key of the image, frame) -> JPEG."""

_OPTIONAL = ("next.reward", "next.done", "next.truncated", "next.success", "stamp_s", "timestamp")
_ROW = ("episode_index", "tasks", "length", "dataset_from_index", "data", "videos", "episode_metadata", "final")


@dataclass
class _OpenFiles:
    """The open data file and videos of the current episode; episodes are read in order."""

    info: Info
    stack: ExitStack
    starts: dict[tuple[int, int], int] = field(default_factory=dict)
    table: DataFile | None = None
    readers: dict[str, FrameReader] = field(default_factory=dict)

    def note_episode(self, row: Mapping[str, Any]) -> None:
        """Call this for every episode in order, read or not: the first one of a data file opens it."""
        key = row.get("data/chunk_index"), row.get("data/file_index")
        self.starts.setdefault(key, row.get("dataset_from_index"))  # type: ignore[arg-type]

    def data(self, row: Mapping[str, Any]) -> DataFile:
        """The open data file of an episode."""
        key = row["data/chunk_index"], row["data/file_index"]
        path = self.info.file(self.info.data_path, *key)
        if not self.table or self.table.path != path:
            self.table = DataFile(path, int(self.starts[key]))
        return self.table

    def frames(self, row: Mapping[str, Any], feature: str) -> Iterator[Image]:
        """The frames of an episode in one video."""
        prefix = f"videos/{feature}"
        indices = row[f"{prefix}/chunk_index"], row[f"{prefix}/file_index"]
        path = self.info.file(self.info.video_path, *indices, video_key=feature)
        if feature not in self.readers or self.readers[feature].path != path:
            if feature in self.readers:
                self.readers[feature].close()
            self.readers[feature] = self.stack.enter_context(FrameReader(path))
        return self.readers[feature].frames(round(row[f"{prefix}/from_timestamp"] * self.info.fps), row["length"])


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk. images: feature -> key; action_factor: (6,) conversion of actions to m and rad.

    components: feature -> positions of its values.
    """

    info: Info
    names: FeatureNames
    images: Mapping[str, str]
    action_factor: Float32
    components: Mapping[str, Components]

    @property
    def has_gripper(self) -> bool:
        """Whether the actions have a seventh value."""
        return len(self.components[self.names.action].indices) == ACTION_DIM

    @property
    def splits(self) -> Mapping[str, int]:
        """Split -> number of episodes."""
        return {name: end - first for name, (first, end) in self.info.splits.items()}

    def episodes(self, split: str = "", encode: Encode | None = None) -> Iterator[Episode]:
        """Yield the episodes ("": of all splits) in order.

        Without `encode`, frames become JPEG of quality 95. Raises UserError naming the file that is damaged or does
        not fit.
        """
        for read in self.deferred(split, encode):
            yield read()

    def deferred(self, split: str = "", encode: Encode | None = None) -> Iterator[Callable[[], Episode]]:
        """As `episodes`, but yield calls, so that a UserError of one episode does not end the iteration."""
        if split and split not in self.info.splits:
            raise UserError(f"{self.info.path}: no split {split!r}, it has {', '.join(self.info.splits)}")
        first, end = self.info.splits[split] if split else (0, self.info.episodes)
        number = -1
        with ExitStack() as stack:
            files = _OpenFiles(self.info, stack)
            for number, row in enumerate(read_episode_rows(self.info.path, _ROW)):
                files.note_episode(row)
                if first <= number < end:
                    yield partial(self._read, row, files, encode)
            if number + 1 < end:
                raise UserError(f"{self.info.path}: {number + 1} episodes, {end} expected by meta/info.json")

    def _read(self, row: Mapping[str, Any], files: _OpenFiles, encode: Encode | None) -> Episode:
        try:
            return self._episode(row, files, encode)
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            where = f"{self.info.path / 'meta/episodes'}: episode {row['episode_index']}"
            raise UserError(f"{where}: {type(error).__name__} {error}") from error

    def _episode(self, row: Mapping[str, Any], files: _OpenFiles, encode: Encode | None) -> Episode:
        number, length = row["episode_index"], row["length"]
        data = files.data(row)
        where = f"{data.path}: episode {number}"
        stored = [f for f in self.images if self.info.features[f]["dtype"] == "image"]
        present = [n for n in (self.names.twist, self.names.wrench, *_OPTIONAL) if n in self.info.features]
        columns = ["episode_index", "frame_index", self.names.state, self.names.action, *present, *stored]
        table = data.rows(row["dataset_from_index"], length, columns)
        if not (
            (numbers(table, "episode_index", where) == number).all()
            and (numbers(table, "frame_index", where) == np.arange(length)).all()
        ):
            raise UserError(f"{where}: meta/episodes and the rows have different start indices")
        values = {name: self._array(table, name, where) for name in [self.names.state, self.names.action, *present]}
        images = {}
        for feature, key in self.images.items():
            if feature in stored:
                frames = _stored_images(table, feature, where)
            else:
                frames = files.frames(row, feature)
            images[key] = [encode(key, frame) if encode else encode_jpeg(frame) for frame in frames]
            last = row.get(f"{FINAL_PREFIX}{feature}")
            if last is None:
                images[key].append(images[key][-1])
            else:
                images[key].append(encode(key, _decoded(last, where)) if encode else last)
        return self._assemble(row, values, images, where)

    def _assemble(
        self, row: Mapping[str, Any], values: dict[str, Float32], images: dict[str, list[bytes]], where: str
    ) -> Episode:
        names, length = self.names, int(row["length"])
        state, action = values[names.state], self._action(values[names.action])
        if state.shape[1] < STATE_DIM:
            state = np.pad(state, ((0, 0), (0, STATE_DIM - state.shape[1])))
        worst = int(np.argmax(np.abs(np.linalg.norm(state[:, 3:7], axis=1) - 1)))
        try:
            check_quaternion(state[worst, 3:7], f"{names.state} of frame {worst}, values 3 to 6")
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        if "timestamp" in values:
            refuse(rate(values["timestamp"], self.info.fps, Limits()), f"{where}: timestamp")
        stamps = values.get("stamp_s", (np.arange(length) / self.info.fps).astype(np.float32))
        reward, success, terminal = self._outcome(values, length)
        columns = {
            "observation.state": state,
            "observation.twist": values.get(names.twist, twists_of(np.arange(length) / self.info.fps, state[:, :7])),
            "observation.wrench": values.get(names.wrench, np.zeros((length, 6), np.float32)),
            "action": action,
            "next.reward": reward,
            "stamp_s": stamps,
        }
        # Other datasets end with an action: the last observation is repeated, as in lerobot's replay.
        rest = np.zeros(6, np.float32)
        invented = {
            **{name: values[-1] for name, values in columns.items()},
            "action": np.append(rest, action[-1, 6]),
            "next.reward": 0.0,
            "stamp_s": stamps[-1] + 1 / self.info.fps,
        }
        full = {}
        for name in FINAL:
            last = row.get(f"{FINAL_PREFIX}{name}")
            last = invented[name] if last is None else last
            full[name] = np.append(columns[name], np.asarray([last], np.float32), axis=0).astype(np.float32)
            if not np.isfinite(full[name]).all():
                raise UserError(f"{where}: {FINAL_PREFIX}{name} is not finite")
        position = np.arange(length + 1)
        return Episode(
            images=images,
            timestamp_s=full["stamp_s"],
            state=full["observation.state"],
            twist=full["observation.twist"],
            wrench=full["observation.wrench"],
            action=full["action"],
            reward=full["next.reward"],
            is_first=position == 0,
            is_last=position == length,
            is_terminal=(position == length) & terminal,
            instruction=str(row["tasks"][0]),
            metadata=self._metadata(row, success),
        )

    def _array(self, table: pa.Table, name: str, where: str) -> Float32:
        values = numbers(table, name, where).astype(np.float32)
        shape = self.info.features[name]["shape"]
        if values.shape[1:] != (() if shape == (1,) else shape):
            raise UserError(f"{where}: {name} has shape {values.shape[1:]}, meta/info.json says {shape}")
        if not np.isfinite(values).all():
            raise UserError(f"{where}: {name} is not finite")
        if name in self.components:
            values = self.components[name].take(values.astype(np.float64)).astype(np.float32)
        return values

    def _action(self, action: Float32) -> Float32:
        closed, opened = self.names.gripper_closed_open
        gripper = (action[:, 6:] - closed) / (opened - closed) if action.shape[1] == ACTION_DIM else action[:, :1] * 0
        return np.concatenate([action[:, :6] * self.action_factor, gripper], axis=1, dtype=np.float32)

    def _outcome(self, values: Mapping[str, Float32], length: int) -> tuple[Float32, bool, bool]:
        """(reward (T,), success, whether the last transition ended the task)."""
        success = self.names.assume_success
        if "next.success" in values:
            success = bool(values["next.success"][-1])
        elif "next.reward" in values:
            success = bool(values["next.reward"][-1] > 0)
        reward = values.get("next.reward", (np.arange(length) == length - 1) * np.float32(success))
        done = bool(values["next.done"][-1]) if "next.done" in values else success
        truncated = "next.truncated" in values and bool(values["next.truncated"][-1])
        # A success ends the task, even at the time limit.
        return reward.astype(np.float32), success, success or (done and not truncated)

    def _metadata(self, row: Mapping[str, Any], success: bool) -> dict[str, Any]:
        name = f"{self.info.path.name}-{row['episode_index']:06d}"
        default = {
            **{key: kind() for key, kind in METADATA_TYPES.items()},
            "file_path": name,
            "episode_id": name,
            "source": "human",
            "seed": "0",
            "success": success,
            "provenance": json.dumps([{"lerobot": name}]),
        }
        stored = {key: row.get(METADATA_PREFIX + key) for key in METADATA_TYPES}
        return {key: default[key] if stored[key] is None else stored[key] for key in METADATA_TYPES}


def read_dataset(
    path: Path, names: FeatureNames | None = None, action_scale: tuple[float, float] = (1.0, 1.0)
) -> Dataset:
    """Open a LeRobot dataset v3.

    action_scale: (m, rad) of one unit where the names say that actions are normalised. Raises UserError naming the
    feature that is missing or has the wrong number of values.
    """
    info, names = read_info(path), names or FeatureNames()
    found: dict[str, Components] = {}
    kinds: tuple[tuple[str, Kind], ...] = (
        (names.state, "state"),
        (names.action, "action"),
        (names.twist, "twist"),
        (names.wrench, "wrench"),
    )
    for feature in names.components:
        if feature not in info.features or feature not in dict(kinds):
            raise UserError(f"{path}: components: {feature!r} is not one of {', '.join(name for name, _ in kinds)}")
    for feature, kind in kinds:
        spec = info.features.get(feature)
        if spec is None:
            if kind in ("state", "action"):
                raise UserError(f"{path}: no feature {feature!r}; it has {', '.join(info.features)}")
            continue
        if len(spec["shape"]) != 1 or not spec["dtype"].startswith("float"):
            raise UserError(f"{path}: {feature}: {spec['dtype']} of shape {spec['shape']}, expected floats in one row")
        given = names.components.get(feature, spec.get("names"))
        found[feature] = components(kind, given, spec["shape"][0], f"{path}: {feature}")
    _check_units(path, names, found[names.action])
    images = names.images or {
        name: name.removeprefix(IMAGE_PREFIX).removeprefix("observation.")
        for name, spec in info.features.items()
        if spec["dtype"] in ("video", "image") and not _is_depth_map(spec)
    }
    if not images:
        raise UserError(f"{path}: no image or video feature")
    for feature in images:
        if info.features.get(feature, {}).get("dtype") not in ("video", "image"):
            raise UserError(f"{path}: no image or video feature {feature!r}")
        if _is_depth_map(info.features[feature]):
            raise UserError(f"{path}: {feature!r} is a depth map, expected colour images")
    scale = action_scale if names.action_unit == "normalised" else (1.0, 1.0)
    factor = np.array([scale[0]] * 3 + [scale[1]] * 3, dtype=np.float32)
    return Dataset(info, names, images, factor, found)


def _is_depth_map(spec: Mapping[str, Any]) -> bool:
    information = spec.get("info")
    return isinstance(information, dict) and bool(information.get("is_depth_map"))


def _check_units(path: Path, names: FeatureNames, action: Components) -> None:
    """Refuse an action whose names contradict the names file."""
    where = f"{path}: {names.action}"
    if action.with_unit and names.action_unit == "normalised":
        raise UserError(
            f"{where}: {', '.join(action.names)} have units, but the names file has `action_unit: normalised`"
        )
    closed, opened = names.gripper_closed_open
    gripper = action.names[-1].lower() if len(action.names) == ACTION_DIM else ""
    if ("close" in gripper and closed < opened) or ("open" in gripper and opened < closed):
        raise UserError(
            f"{where}: {action.names[-1]!r} has a direction, but gripper_closed_open is [{closed:g}, {opened:g}]: "
            "set it in the names file"
        )


def _decoded(data: bytes, where: str) -> Image:
    try:
        return decode_jpeg(data)
    except ValueError as error:
        raise UserError(f"{where}: corrupt image: {error}") from error


def _stored_images(table: pa.Table, feature: str, where: str) -> Iterator[Image]:
    """Frames stored in the table (dtype "image"): PNG or JPEG."""
    for cell in table[feature].to_pylist():
        yield _decoded(cell["bytes"] if isinstance(cell, dict) else b"", where)
