"""Checks of one bag beyond its arrays: order, flags, clocks, normalised actions, metadata.

Arrays are checked by `rldg_data.lint.episode`, for bags and datasets alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from rldg_core.errors import quoted
from rldg_core.instructions import fault
from rldg_core.plausible import check_observation
from rldg_core.task import Task
from rldg_core.types import Source, Step
from rldg_data import plausibility
from rldg_data.bags.episode_info import dominant_source
from rldg_data.bags.schemas import STEP_TYPE
from rldg_data.episodes import jpeg
from rldg_data.episodes.pixels import pixels
from rldg_data.lint.bag_file import BagContents, Times
from rldg_data.motion import motion, twist
from rldg_data.plausibility import Limits, Problem, Problems

DESCRIPTIONS: Mapping[str, str] = {
    "metadata": "`metadata.yaml` cannot be read, or lacks a value of its episode",
    "damaged": "a file is missing, cut off, without its index, or a chunk fails its CRC",
    "counts": "numbers of messages, start or duration in `metadata.yaml` are not those of the files",
    "incomplete": "`complete: false`: a part of an episode",
    "unfinished": "warning: the folder holds what a killed recorder left (`rldg bag repair`)",
    "steps": "no topic of Steps, several, or Steps that cannot be decoded",
    "order": "`index` or `step_count` does not rise by one; episode id, task, object, instruction or seed changes",
    "flags": "`is_first`, `is_last`, `terminated`, `truncated`, `success` contradict each other or their place",
    "stamps": "stamps of observations that do not increase, or are 0",
    "gap": "a pause between two Steps: warning; from five periods on an error",
    "rate": "the rate by the stamps is not the task's (or not that of the other bags)",
    "jump": "the tcp moves farther in a step than its action can ask for",
    "motion": "the arm moves or turns against its actions, along other axes, or four times as far; not if relabelled",
    "twist": "the twist is not that of the poses: swapped, another frame or unit; warning: zeros while the tcp moves",
    "log_time": "a log time of 0; warning: log times more than 1 s after the stamps, or before them",
    "stamp_offset": "two of the drivers' topics are stamped by different clocks",
    "observation": "pose, quaternion, twist, wrench, joints or width that no arm has, NaN, Inf, or known in some Steps",
    "image": "no complete JPEG, another size or other cameras than in the Steps before",
    "pixels": "an image that does not decode or shows one brightness alone; two cameras with the same images",
    "frozen": "the image stays while the tcp moves: warning; in more than 60 % of the steps an error",
    "action": "an action that is not finite, leaves [-1, 1], has no source, another length, or another observation",
    "clipped": "too many requests were beyond [-1, 1]",
    "no_action": "nothing but holds: no result",
    "reward": "not finite, or a failure that ends with one; warning: a failure with one before, a success without",
    "names": "task, object or episode id is empty, longer than 500 characters, or has a line break",
    "contents": "`custom_data` says something else than the Steps",
    "instruction": "empty, longer than 500 characters, or with a line break or control character",
    "task": "cameras, image size, action or scale are not the task's; warning: recorded with another configuration",
    "episode_id": "two bags of the folder have the same",
}
"""Every check of bags beyond the arrays of an episode; an error unless marked as a warning."""

MAX_LOG_DELAY_S = 1.0
"""A Step is logged one period after its stamp; a later one waited in a queue, or has a stamp of another clock."""
MAX_CLOCK_LEAD_S = 0.005
"""Maximum lead of a stamp over the recorder's clock: clocks synchronised by NTP on a local network agree better."""
FULL_SCALE = 1.0 + 1e-6
TARGET_TYPE = "geometry_msgs/msg/PoseStamped"


def order(bag: BagContents, limits: Limits) -> Problems:
    """One episode: indices 0 .. T, consecutive step counts, one id, task, object, instruction and seed."""
    first = bag.steps[0]
    for name in ("episode_id", "task", "object", "instruction", "seed"):
        other = next((s for s in bag.steps if getattr(s, name) != getattr(first, name)), None)
        if other is not None:
            before, now = quoted(getattr(first, name)), quoted(getattr(other, name))
            yield Problem("error", "order", f"{name} is {now} in Step {other.index}, {before} before")
    for name, start in (("index", 0), ("step_count", first.step_count)):
        wrong = next((i for i, s in enumerate(bag.steps) if getattr(s, name) != start + i), None)
        if wrong is not None:
            value = getattr(bag.steps[wrong], name)
            yield Problem("error", "order", f"{name} of Step number {wrong} is {value}, expected {start + wrong}")


def flags(bag: BagContents, limits: Limits) -> Problems:
    """is_first and is_last only at the ends; only the last Step and the last transition are terminated or truncated."""
    end = len(bag.steps) - 1
    for name, place in (("is_first", 0), ("is_last", end)):
        wrong = next((s.index for i, s in enumerate(bag.steps) if getattr(s, name) != (i == place)), None)
        if wrong is not None:
            yield Problem("error", "flags", f"{name} of Step {wrong} of {len(bag.steps)} is {wrong != place}")
    for i, step in enumerate(bag.steps):
        outcome = f"terminated {step.terminated}, truncated {step.truncated}, success {step.success}"
        if step.terminated and step.truncated:
            yield Problem("error", "flags", f"Step {i}: both terminated and truncated")
            return
        if step.success and not step.terminated:
            yield Problem("error", "flags", f"Step {i}: {outcome}: a success ends the task")
            return
        if i < end - 1 and (step.terminated or step.truncated):
            yield Problem("error", "flags", f"Step {i}: {outcome}: {end - i} Steps follow the end")
            return
    last, before = bag.steps[-1], bag.steps[-2:-1]
    if not (last.terminated or last.truncated):
        yield Problem("error", "flags", "the last Step is neither terminated nor truncated")
    for step in before:
        ends = step.terminated or step.truncated
        if ends and (step.terminated, step.success) != (last.terminated, last.success):
            yield Problem("error", "flags", "the last transition and the last Step end differently")


def stamps(bag: BagContents, limits: Limits) -> Problems:
    """Stamps of observations increase; no gaps; no jumps of the pose beyond what an action can ask for."""
    stamps_ns = np.array([s.observation.stamp_ns for s in bag.steps], np.int64)
    back = np.flatnonzero(np.diff(stamps_ns) <= 0)
    if len(back) or stamps_ns[0] <= 0:
        found = f"not after that of Step {back[0]}" if len(back) else "0: the clock does not run"
        yield Problem("error", "stamps", f"the stamp of Step {back[0] + 1 if len(back) else 0} is {found}")
        return
    stamps_s = (stamps_ns - stamps_ns[0]) / 1e9
    yield from plausibility.gaps(stamps_s, limits)
    poses = np.array([s.observation.pose_base_tcp for s in bag.steps])
    diagonal = 3**0.5
    longest = (bag.info.action_scale_m * diagonal, bag.info.action_scale_rad * diagonal)
    yield from plausibility.jumps(stamps_s, poses, limits, *longest)


def moves(bag: BagContents, limits: Limits) -> Problems:
    """Actions, poses and twists describe one motion; relabelled actions need not."""
    poses = np.array([s.observation.pose_base_tcp for s in bag.steps])
    done = [s.action.executed for s in bag.steps[:-1]]
    if not bag.info.relabelled_by and all(len(values) in (6, 7) for values in done):
        scale = [bag.info.action_scale_m] * 3 + [bag.info.action_scale_rad] * 3
        yield from motion(poses, np.array([values[:6] for values in done]).reshape(-1, 6) * scale, limits)
    stamps_s = np.array([s.observation.stamp_ns - bag.steps[0].observation.stamp_ns for s in bag.steps]) / 1e9
    yield from twist(stamps_s, poses, np.array([s.observation.twist_base_tcp for s in bag.steps]), limits)


def log_times(bag: BagContents, limits: Limits) -> Problems:
    """Log times are set and match the stamps; the drivers' topics are stamped by one clock."""
    for topic, times in bag.times.items():
        if len(zeros := np.flatnonzero(times.log_ns <= 0)):
            found = f"{topic}: {len(zeros)} messages with log time 0"
            yield Problem("error", "log_time", f"{found}: the clock did not run")
            return
    # A transient-local message may be much older than the episode.
    stamped = {t: times for t, times in bag.times.items() if len(times.log_ns) > 1 and (times.stamps_ns > 0).all()}
    delays = {topic: plausibility.delay(times.stamps_ns, times.log_ns) for topic, times in stamped.items()}
    stamps_ns = [s.observation.stamp_ns for s in bag.steps]
    # A Step is published at the end of its transition.
    longest_s = MAX_LOG_DELAY_S + float(np.nan_to_num(plausibility.usual_period_s(np.array(stamps_ns) / 1e9, limits)))
    for topic, (low_s, high_s) in delays.items():
        if high_s > longest_s or low_s < -MAX_CLOCK_LEAD_S:
            worst_s = high_s if high_s > longest_s else low_s
            found = f"{topic} is logged {worst_s:.3f} s after its stamps, expected 0 to {longest_s:.3g} s"
            yield Problem("warning", "log_time", f"{found}: another clock, or messages waited in a queue")
    drivers = {topic: late for topic, late in delays.items() if _is_measured(stamped[topic], set(stamps_ns))}
    yield from plausibility.stamp_offsets(drivers, limits)


def _is_measured(times: Times, observed_ns: set[int]) -> bool:
    """Return whether a driver stamped the topic: not a Step, nor a target, which has the stamp of its observation."""
    answers = times.type == TARGET_TYPE and observed_ns.issuperset(times.stamps_ns.tolist())
    return times.type != STEP_TYPE and not answers


def observations(bag: BagContents, limits: Limits) -> Problems:
    """Plausible numbers (`rldg_core.plausible`)."""
    found = [(s.index, str(error)) for s in bag.steps if (error := _implausible(s))]
    if found:
        yield Problem("error", "observation", f"{len(found)} Steps, first Step {found[0][0]}: {found[0][1]}")
    yield from plausibility.known_throughout("gripper width", [_knows_width(s) for s in bag.steps])
    yield from plausibility.known_throughout(
        "joint positions", [bool(s.observation.joint_positions.size) for s in bag.steps]
    )


def _knows_width(step: Step) -> bool:
    return not np.isnan(step.observation.gripper_width_m)


def _implausible(step: Step) -> ValueError | None:
    try:
        check_observation(step.observation)
    except ValueError as error:
        return error
    return None


def images(bag: BagContents, limits: Limits) -> Problems:
    """The same cameras in every Step, each image a complete JPEG of one size."""
    cameras = _cameras(bag)
    if not cameras:
        yield Problem("error", "image", "no camera")
    for camera in cameras:
        size: tuple[int, int] | None = None
        for step in bag.steps:
            try:
                found = jpeg.check(step.observation.images.get(camera, b""))
            except ValueError as error:
                yield Problem("error", "image", f"{quoted(camera)} of Step {step.index}: {error}")
                break
            size = size or found
            if found != size:
                yield Problem(
                    "error", "image", f"{quoted(camera)} of Step {step.index} is {_px(found)}, before {_px(size)}"
                )
                break
    extra = next((s for s in bag.steps if list(s.observation.images) != cameras), None)
    if extra is not None:
        names = ", ".join(map(quoted, extra.observation.images))
        yield Problem("error", "image", f"cameras of Step {extra.index}: {names}; before {', '.join(cameras)}")


def shown(bag: BagContents, limits: Limits) -> Problems:
    """Images are not blank, and change while the arm moves."""
    files = {camera: [s.observation.images.get(camera, b"") for s in bag.steps] for camera in _cameras(bag)}
    yield from pixels(files, np.array([s.observation.pose_base_tcp[:3] for s in bag.steps]), limits)


def _cameras(bag: BagContents) -> list[str]:
    return list(bag.steps[0].observation.images)


def actions(bag: BagContents, limits: Limits) -> Problems:
    """Normalised actions of 6 or 7 finite values in [-1, 1] for their observation; none on the last Step."""
    sizes = {len(s.action.executed) for s in bag.steps[:-1]}
    if len(sizes) > 1 or not sizes <= {6, 7}:
        found = ", ".join(map(str, sorted(sizes)))
        yield Problem("error", "action", f"executed actions of {found} values, expected 6 or 7")
        return
    for step in bag.steps[:-1]:
        done = step.action
        values = np.concatenate([done.executed, done.requested[: len(done.executed)]])
        if not np.isfinite(values).all():
            yield Problem("error", "action", f"Step {step.index}: an action is not finite")
        elif (np.abs(done.executed) > FULL_SCALE).any():
            worst = float(np.abs(done.executed).max())
            yield Problem("error", "action", f"Step {step.index}: executed action of {worst:.4g}, expected -1 to 1")
        elif done.source is Source.NONE:
            yield Problem("error", "action", f"Step {step.index}: an action without a source (NONE)")
        elif done.observation_stamp_ns != step.observation.stamp_ns:
            late_s = (done.observation_stamp_ns - step.observation.stamp_ns) / 1e9
            found = f"Step {step.index}: its action belongs to another observation"
            yield Problem("error", "action", f"{found} ({late_s:+.3f} s)")
        else:
            continue
        return
    last = bag.steps[-1].action
    if last.source is not Source.NONE or len(last.executed):
        yield Problem("error", "action", "the last Step has an action")


def clipped(bag: BagContents, limits: Limits) -> Problems:
    """Requests beyond [-1, 1], which the gate clipped."""
    yield from plausibility.clipped([s.action.action_clipped for s in bag.steps[:-1]], limits)


def executed(bag: BagContents, limits: Limits) -> Problems:
    """At least one action was executed: an episode of holds only is not a result."""
    acted = [s for s in bag.steps[:-1] if s.action.source not in (Source.NONE, Source.HOLD)]
    if not acted:
        yield Problem(
            "error", "no_action", f"{len(bag.steps) - 1} transitions without an executed action: not a result"
        )


def rewards(bag: BagContents, limits: Limits) -> Problems:
    """Rewards are finite and agree with the outcome."""
    values = np.array([s.reward for s in bag.steps])
    if not np.isfinite(values).all():
        yield Problem("error", "reward", f"not finite in Step {np.flatnonzero(~np.isfinite(values))[0]}")
    yield from plausibility.outcome(values[:-1], bag.steps[-1].success)


def contents(bag: BagContents, limits: Limits) -> Problems:
    """custom_data agrees with the Steps."""
    first, last, stored = bag.steps[0], bag.steps[-1], bag.info
    done = [s.action for s in bag.steps[:-1]]
    by_policy = next((a for a in reversed(done) if a.policy_id), None)
    found = {
        "task": first.task,
        "object": first.object,
        "instruction": first.instruction,
        "episode_id": first.episode_id,
        "seed": first.seed,
        "steps": len(done),
        "success": last.success,
        "source": dominant_source(done).name.lower(),
        "policy_id": by_policy.policy_id if by_policy else "",
        "policy_version": by_policy.policy_version if by_policy else 0,
    }
    for name, value in found.items():
        if getattr(stored, name) != value:
            wrong = f"custom_data.{name} is {quoted(getattr(stored, name))}, the Steps say {quoted(value)}"
            yield Problem("error", "contents", wrong)


def instruction(bag: BagContents, limits: Limits) -> Problems:
    """Generalists skip episodes without an instruction, and refuse invalid ones."""
    if reason := fault(bag.steps[0].instruction):
        yield Problem("error", "instruction", reason)


def names(bag: BagContents, limits: Limits) -> Problems:
    """Labels by which datasets are balanced, filtered and identified."""
    first = bag.steps[0]
    for what, text in (("task", first.task), ("object", first.object), ("episode_id", first.episode_id)):
        if reason := fault(text):
            yield Problem("error", "names", f"{what}: {reason}")


BAG_CHECKS: tuple[Callable[[BagContents, Limits], Problems], ...] = (
    order,
    flags,
    stamps,
    moves,
    log_times,
    observations,
    images,
    shown,
    actions,
    clipped,
    executed,
    rewards,
    contents,
    instruction,
    names,
)


def against_task(bag: BagContents, limits: Limits, tasks: Sequence[Task]) -> Problems:
    """Compare rate, cameras, image sizes and action with the task's configuration. tasks: of that name, one per object.

    Nothing is compared if no task of that name is installed.
    """
    if not tasks:
        return
    task = next((task for task in tasks if task.config_hash() == bag.info.config_hash), None)
    if task is None:
        found = f"recorded with configuration {bag.info.config_hash} of task {bag.info.task}"
        yield Problem("warning", "task", f"{found}, installed is {tasks[0].config_hash()}: not compared with it")
        return
    stamps_s = np.array([s.observation.stamp_ns - bag.steps[0].observation.stamp_ns for s in bag.steps]) / 1e9
    yield from plausibility.rate(stamps_s, task.rates.control_hz, limits)
    yield from _differences(bag, task)


def _differences(bag: BagContents, task: Task) -> Iterator[Problem]:
    seen = bag.steps[0].observation.images
    if sorted(seen) != sorted(task.cameras):
        found = f"cameras {', '.join(map(quoted, sorted(seen)))}, the task has {', '.join(sorted(task.cameras))}"
        yield Problem("error", "task", found)
    for name in sorted({*seen} & {*task.cameras}):
        try:
            size = jpeg.check(seen[name])
        except ValueError:
            continue  # already reported
        expected = (task.cameras[name].image_size,) * 2
        if size != expected:
            yield Problem("error", "task", f"camera {name} is {_px(size)}, the task has {_px(expected)}")
    dims = {len(s.action.executed) for s in bag.steps[:-1]}
    if dims and dims != {task.action.dim}:
        yield Problem("error", "task", f"actions of {max(dims)} values, the task has {task.action.dim}")
    if (bag.info.action_scale_m, bag.info.action_scale_rad) != (task.action.scale_m, task.action.scale_rad):
        yield Problem("error", "task", "the action scale in custom_data is not the task's")


def variants(task: Task) -> list[Task]:
    """Return the task with each of its objects as default: the configuration hash depends on it."""
    return [task.model_copy(update={"default_object": name}) for name in task.objects]


def _px(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]} px"
