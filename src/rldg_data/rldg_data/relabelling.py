"""Relabel recorded episodes: replace actions by those of a policy on the recorded observations.

The paper's middle arm (Fig. 9): human data < human states relabelled with RL actions < RL data, which separates the
value of better actions from that of better states. Actions are clipped as by the gate: to [-1, 1] and to the safety
box of the policy's task.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from rldg_core import registry
from rldg_core.commands import command_of
from rldg_core.errors import UserError, cause
from rldg_core.files import writing_aside
from rldg_core.policy import Policy
from rldg_core.policy_checks import check_chunk
from rldg_core.task import Task, find_task
from rldg_core.types import ExecutedAction, Step
from rldg_data.bags.cdr import encode_step
from rldg_data.bags.episode_info import EpisodeInfo
from rldg_data.bags.mcap_writer import McapWriter
from rldg_data.bags.metadata import Storage, Topic
from rldg_data.bags.reading import INCOMPLETE, bag_info, episode_name, find_bags, read_recording
from rldg_data.bags.recording import STEP_QOS
from rldg_data.bags.schemas import STEP_TYPE
from rldg_data.plan import Relabel
from rldg_data.plausibility import Limits, rate, refuse


@dataclass(frozen=True)
class Relabeller:
    """A loaded policy and the actions that it replaces."""

    policy: Policy
    task: Task
    config: Relabel

    @property
    def signature(self) -> str:
        """JSON for provenance and custom_data: which policy, which version, which files."""
        parts = {
            "backend": self.config.backend,
            "policy_id": self.config.policy_id,
            "policy_version": self.policy.spec.version,
            "task": self.task.name,
            "sources": list(self.config.sources),
            "checkpoint_sha256": self.config.checkpoint_sha256,
        }
        return json.dumps(parts, sort_keys=True)

    def relabel(self, steps: Sequence[Step], info: EpisodeInfo, bag: Path) -> tuple[list[Step], int]:
        """The Steps with the executed actions of `config.sources` replaced, and how many were.

        The policy sees every observation in order, also those whose action is kept: it may use a window of them. The
        source is unchanged, since it produced the states. Raises UserError naming the bag and the Step.
        """
        if not any(_source(step) in self.config.sources for step in steps):
            return list(steps), 0
        self._check(steps, info, bag)
        # As in the policy server: a policy that recorded the episode repeats its actions.
        self.policy.reset(steps[0].instruction, steps[0].seed)
        relabelled = [step if step.is_last else replace(step, action=self._answer(step, bag)) for step in steps]
        return relabelled, sum(_source(step) in self.config.sources for step in steps)

    def _check(self, steps: Sequence[Step], info: EpisodeInfo, bag: Path) -> None:
        stamps_s = [step.observation.stamp_ns * 1e-9 for step in steps]
        where = f"{bag}: task {self.task.name} of the relabelling policy"
        refuse(rate(stamps_s, self.task.rates.control_hz, Limits()), where)
        scale = self.task.action
        if (info.action_scale_m, info.action_scale_rad) != (scale.scale_m, scale.scale_rad):
            raise UserError(
                f"{bag}: its actions are in units of {info.action_scale_m:g} m, {info.action_scale_rad:g} rad; "
                f"task {self.task.name} of the relabelling policy has {scale.scale_m:g} m, {scale.scale_rad:g} rad"
            )

    def _answer(self, step: Step, bag: Path) -> ExecutedAction:
        seen, action = step.observation, step.action
        try:
            requested = check_chunk(self.policy.act(seen), self.policy.spec)[0]
        except Exception as error:  # a policy is a plug-in: report any exception with the Step
            raise UserError(f"{bag}: Step {step.index}: {self.config.policy_id}: {cause(error)}") from error
        if _source(step) not in self.config.sources:
            return action
        if len(requested) != len(action.executed):
            raise UserError(
                f"{bag}: Step {step.index}: {len(action.executed)} values were executed, "
                f"policy {self.config.policy_id} gives {len(requested)}"
            )
        _, executed, action_clipped, box_clipped = command_of(
            requested, seen.pose_base_tcp, self.task.action, self.task.box
        )
        return replace(
            action,
            requested=requested,
            executed=executed,
            action_clipped=action_clipped,
            box_clipped=box_clipped,
            policy_id=self.config.policy_id,
            policy_version=self.policy.spec.version,
        )


def _source(step: Step) -> str:
    return step.action.source.name.lower()


@lru_cache(maxsize=4)
def load_relabeller(config: Relabel) -> Relabeller:
    """Load the policy, once per process. Raises UserError with one line."""
    task = find_task(config.task, [])
    policy = registry.load_policy(config.policy_id or config.backend, config.backend, config.path, False, task)
    return Relabeller(policy, task, config)


@dataclass(frozen=True)
class RelabelResult:
    """path: folder of the new bags; steps: replaced; bad: (bag, reason) of skipped bags."""

    path: Path
    episodes: int
    steps: int
    bad: tuple[tuple[Path, str], ...]


def relabel_bags(
    bags: Sequence[Path],
    out: Path,
    config: Relabel,
    *,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RelabelResult:
    """Write each bag again below `out`, numbered from 0, with its actions replaced; the originals stay.

    custom_data: as recorded, with the policy's id and version and `relabelled_by`; stamps as recorded; raw vendor
    topics are not copied. Raises UserError when `out` already has bags or a bag is bad (with skip_bad it is listed,
    unless all are).
    """
    if out.is_dir() and find_bags(out):
        raise UserError(f"{out}: already has bags; choose an empty folder")
    relabeller = load_relabeller(config)
    written = replaced = 0
    bad: list[tuple[Path, str]] = []
    for done, bag in enumerate(bags):
        try:
            recording = read_recording(bag)
            steps, count = relabeller.relabel(recording.steps, recording.info, bag)
        except UserError as error:
            if not skip_bad:
                raise
            bad.append((bag, str(error)))
        else:
            signature = {**json.loads(relabeller.signature), "bag_blake3": recording.blake3}  # bounded: our own text
            info = recording.info if not count else _relabelled_info(recording.info, steps, signature)
            _write(out / episode_name(written), steps, info, _topic(bag))
            written, replaced = written + 1, replaced + count
        if progress:
            progress(done + 1, len(bags))
    if not written:
        raise UserError(f"{out}: no bag was written: {bad[0][1] if bad else 'none to relabel'}")
    return RelabelResult(out, written, replaced, tuple(bad))


def _relabelled_info(info: EpisodeInfo, steps: Sequence[Step], signature: dict[str, object]) -> EpisodeInfo:
    last = next(step.action for step in reversed(steps) if step.action.policy_id)
    return replace(
        info,
        policy_id=last.policy_id,
        policy_version=last.policy_version,
        relabelled_by=json.dumps(signature, sort_keys=True),
    )


def _topic(bag: Path) -> str:
    return next(name for name, (type_name, _) in bag_info(bag).topics.items() if type_name == STEP_TYPE)


def _write(path: Path, steps: Sequence[Step], info: EpisodeInfo, topic: str) -> None:
    with writing_aside(path) as folder:
        writer = McapWriter(folder, path.name, Storage(), {**info.to_custom_data(), **INCOMPLETE})
        writer.add_topic(Topic(topic, STEP_TYPE, STEP_QOS))
        for step in steps:
            stamp_ns = step.observation.stamp_ns
            writer.write(topic, encode_step(step), stamp_ns, stamp_ns)
        writer.close(info.to_custom_data())
