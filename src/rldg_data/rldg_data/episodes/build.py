"""Build an Episode from an EpisodePlan: read, relabel, join, check and convert. Runs in worker processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.files import parse_json
from rldg_core.instructions import fault
from rldg_core.plausible import check_observation
from rldg_core.types import Float64, Step
from rldg_data.bags.episode_info import EpisodeInfo
from rldg_data.bags.reading import Recording, read_recording
from rldg_data.episodes.episode import ACTION_DIM, Episode, Float32
from rldg_data.episodes.gripper import opening
from rldg_data.episodes.images import conform
from rldg_data.episodes.provenance import ObservationRecord
from rldg_data.motion import motion, twist
from rldg_data.plan import EpisodePlan
from rldg_data.plausibility import Limits, known_throughout, outcome, rate, refuse, usual_period_s

ARM_DIM = 6
"""Components of an action without a gripper."""
CLOSED_GRIPPER = 0.0
"""Gripper of a task without one (the connector is in the fingers throughout): 0 closed, 1 open, absolute."""


@dataclass(frozen=True)
class _Part:
    """The Steps of one bag as arrays of N rows. length_s: time from its first Step to the next joint."""

    images: dict[str, list[bytes]]
    time_s: Float64
    length_s: float
    state: Float32
    twist: Float32
    wrench: Float32
    action: Float32
    reward: Float32
    info: EpisodeInfo
    provenance: dict[str, Any]


def build_episode(plan: EpisodePlan) -> Episode:
    """Read and convert one planned episode. Raises UserError naming the bag on an invalid value.

    Rotations are rotation vectors, which at <= 0.1 rad a step differ from roll, pitch, yaw by < 0.005 rad.
    """
    recordings = [read_recording(bag) for bag in plan.bags]
    ends = [*plan.joints, len(recordings[-1].steps)]
    parts = [_part(*item, plan) for item in zip(plan.bags, recordings, ends, strict=True)]
    for bag, part in zip(plan.bags[1:], parts[1:], strict=True):
        ObservationRecord.of([part.provenance]).check(
            ObservationRecord.of([parts[0].provenance]), str(bag), str(plan.bags[0])
        )
    instruction = plan.instruction or recordings[0].steps[0].instruction
    if reason := fault(instruction):
        raise UserError(f"{plan.name}: instruction: {reason}")
    episode = _joined(parts, instruction, bool(recordings[-1].steps[-1].terminated))
    refuse(outcome(episode.reward[:-1], bool(episode.metadata["success"])), plan.name)
    images = {key: conform(files, plan.images, f"{plan.name}: {key}") for key, files in episode.images.items()}
    return replace(episode, images=images)


def _part(bag: Path, recording: Recording, end: int, plan: EpisodePlan) -> _Part:
    """Convert the Steps before `end`. A Step `end` is the joint, replaced by the next bag's first observation."""
    steps, info, relabelled_by = recording.steps, recording.info, recording.info.relabelled_by
    if not 1 <= end <= len(steps):
        raise UserError(f"{bag}: a joint at Step {end}, it has {len(steps)}: it has changed since the plan was made")
    if plan.relabel is not None:
        # Imported here: the libraries of a policy are needed only for relabelling.
        from rldg_data.relabelling import load_relabeller

        relabeller = load_relabeller(plan.relabel)
        steps, replaced = relabeller.relabel(steps[: end + 1], info, bag)
        relabelled_by = relabeller.signature if replaced else relabelled_by
    kept = steps[:end]
    stamps = _increasing([step.observation.stamp_ns for step in steps[: end + 1]], bag)
    refuse(rate((stamps - stamps[0]) / 1e9, info.rate_hz, Limits()), str(bag))
    action = _actions(kept, info, bag)
    reward = np.array([step.reward for step in kept])
    if end < len(recording.steps):
        # This part ends only a section of the task: its success is not that of the episode.
        reward[-1] = 0.0
    for what, text in (("task", kept[0].task), ("object", kept[0].object)):
        if reason := fault(text):
            raise UserError(f"{bag}: {what}: {reason}")
    for step in kept:
        try:
            check_observation(step.observation)
        except ValueError as error:
            raise UserError(f"{bag}: Step {step.index}: {error}") from error
    seen = [step.observation for step in kept]
    pose = np.array([s.pose_base_tcp for s in seen])
    twists = np.array([s.twist_base_tcp for s in seen])
    # Relabelled actions need not agree with the recorded motion.
    if not relabelled_by:
        refuse(motion(pose, action[: len(pose) - 1, :ARM_DIM], Limits()), str(bag))
    refuse(twist((stamps[:end] - stamps[0]) / 1e9, pose, twists, Limits()), str(bag))
    width_m = np.array([s.gripper_width_m for s in seen])
    refuse(known_throughout("gripper width", ~np.isnan(width_m)), str(bag))
    width_m[np.isnan(width_m)] = 0.0
    return _Part(
        images={key: _images(kept, camera, bag) for key, camera in plan.cameras},
        time_s=(stamps[:end] - stamps[0]) / 1e9,
        length_s=float(stamps[-1] - stamps[0]) / 1e9,
        state=np.column_stack([pose, width_m]).astype(np.float32),
        twist=twists.astype(np.float32),
        wrench=np.array([s.wrench_tcp for s in seen], dtype=np.float32),
        action=action,
        reward=_finite("a reward", reward, bag),
        info=info,
        provenance={
            "bag": place(bag),
            "blake3": recording.blake3,
            "episode_id": info.episode_id,
            "source": info.source,
            "policy_id": info.policy_id,
            "policy_version": info.policy_version,
            "images": {key: _seen_by(kept, camera, info, bag) for key, camera in plan.cameras},
            "rate_hz": info.rate_hz or _measured_hz(stamps),
            "gripper": len(recording.steps[0].action.executed) > ARM_DIM,
            "steps": end if end < len(recording.steps) else end - 1,
            **(
                {"relabelled_by": parse_json(relabelled_by, f"{bag}: custom_data.relabelled_by")}
                if relabelled_by
                else {}
            ),
        },
    )


def _measured_hz(stamps_ns: NDArray[np.int64]) -> float:
    """Rate measured from stamps, to three digits, for bags of an older recorder."""
    period_s = usual_period_s((stamps_ns - stamps_ns[0]) / 1e9, Limits())
    return float(f"{1 / period_s:.3g}") if period_s > 0 else 0.0


def place(bag: Path) -> str:
    """run/bags/episode: the origin of an episode, independent of where the runs are stored."""
    return "/".join(bag.parts[-3:])


def _increasing(stamps: Sequence[int], bag: Path) -> NDArray[np.int64]:
    values = np.array(stamps, dtype=np.int64)
    late = np.flatnonzero(np.diff(values) <= 0)
    if len(late):
        raise UserError(f"{bag}: Step {late[0] + 1}: its stamp does not increase")
    return values


def _actions(steps: Sequence[Step], info: EpisodeInfo, bag: Path) -> Float32:
    """(N, 7) in m and rad, gripper absolute. The last Step of a bag has zero motion and keeps the gripper's state."""
    executed = [step.action.executed for step in steps if not step.is_last]
    length = len(executed[0]) if executed else 6
    for step, values in zip(steps, executed, strict=False):
        if len(values) not in (6, 7) or len(values) != length:
            raise UserError(f"{bag}: Step {step.index}: executed action has {len(values)} values, expected 6 or 7")
    rows = np.zeros((len(steps), ACTION_DIM))
    done: Float64 = np.array(executed, dtype=np.float64).reshape(-1, length)
    rows[: len(done), :6] = done[:, :6] * ([info.action_scale_m] * 3 + [info.action_scale_rad] * 3)
    if length == 7:
        sources, width_m = [step.action.source for step in steps], steps[0].observation.gripper_width_m
        rows[: len(done), 6] = opening(done[:, 6], sources[: len(done)], width_m)
    else:
        rows[: len(done), 6] = CLOSED_GRIPPER
    rows[len(done) :, 6] = rows[len(done) - 1, 6]
    return _finite("an executed action", rows, bag)


def _finite(what: str, values: Float64, bag: Path) -> Float32:
    """Convert to float32. Raises UserError when a value is NaN, Inf or too large."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    good = np.isfinite(single)
    if not good.all():
        raise UserError(f"{bag}: Step {np.argwhere(~good)[0][0]}: {what} is not finite")
    return single


def _images(steps: Sequence[Step], camera: str, bag: Path) -> list[bytes]:
    name = _camera(steps, camera)
    files = [step.observation.images.get(name, b"") for step in steps]
    if not all(files):
        held = ", ".join(steps[0].observation.images) or "none"
        raise UserError(f"{bag}: Step {files.index(b'')}: no image of camera {name!r}; the first Step has {held}")
    return files


def _camera(steps: Sequence[Step], camera: str) -> str:
    return camera or next(iter(steps[0].observation.images), "")


def _seen_by(steps: Sequence[Step], camera: str, info: EpisodeInfo, bag: Path) -> dict[str, Any]:
    """{camera, view} of an image key; view None: not stored in the bag."""
    name = _camera(steps, camera)
    try:
        views = parse_json(info.views or "{}", f"{bag}: custom_data.views")
        return {"camera": name, "view": views.get(name)}
    except (ValueError, AttributeError) as error:
        raise UserError(f"{bag}: custom_data.views: expected a JSON object, got {info.views[:60]!r}") from error


def _joined(parts: Sequence[_Part], instruction: str, terminated: bool) -> Episode:
    """Concatenate the parts; each begins at the time of the previous joint."""
    starts = np.cumsum([0.0, *(part.length_s for part in parts[:-1])])
    action = np.concatenate([part.action for part in parts])
    first, last = np.zeros(len(action), np.bool_), np.zeros(len(action), np.bool_)
    first[0] = last[-1] = True
    return Episode(
        images={key: [file for part in parts for file in part.images[key]] for key in parts[0].images},
        timestamp_s=np.concatenate([s + p.time_s for s, p in zip(starts, parts, strict=True)]).astype(np.float32),
        state=np.concatenate([part.state for part in parts]),
        twist=np.concatenate([part.twist for part in parts]),
        wrench=np.concatenate([part.wrench for part in parts]),
        action=action,
        reward=np.concatenate([part.reward for part in parts]),
        is_first=first,
        is_last=last,
        is_terminal=last & terminated,
        instruction=instruction,
        metadata=_metadata(parts),
    )


def _metadata(parts: Sequence[_Part]) -> dict[str, Any]:
    """Metadata of joined recordings: names joined by +, task of the first, outcome of the last."""
    infos = [part.info for part in parts]
    by_policy = next((info for info in reversed(infos) if info.policy_id), infos[-1])

    def every(name: str) -> str:
        return "+".join(dict.fromkeys(str(getattr(info, name)) for info in infos))

    return {
        "file_path": "+".join(str(part.provenance["bag"]) for part in parts),
        "episode_id": every("episode_id"),
        "task": infos[0].task,
        "object": infos[0].object,
        "source": every("source"),
        "policy_id": by_policy.policy_id,
        "policy_version": by_policy.policy_version,
        "seed": every("seed"),
        "success": infos[-1].success,
        "config_hash": every("config_hash"),
        "provenance": json.dumps([part.provenance for part in parts], sort_keys=True),
    }
