"""Synthetic Steps, Tasks and hypothesis strategies that the tests of this package share."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from rldg_core.frames import compose_delta, twists_of
from rldg_core.image_codec import encode_jpeg
from rldg_core.instructions import fault
from rldg_core.task import Task
from rldg_core.types import ExecutedAction, Observation, Source, Step

SCALE = np.array([0.015] * 3 + [0.1] * 3)
GAINS = {
    "stiffness": 2000.0,
    "damping": 90.0,
    "rotational_stiffness": 150.0,
    "rotational_damping": 7.0,
    "error_clip_m": 0.01,
    "error_clip_rad": 0.05,
}


def make_task(gripper: bool = False) -> Task:
    """A small valid task."""
    pose = (0.5, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0)
    return Task.model_validate(
        {
            "name": "insertion",
            "objects": {name: {"instruction": f"insert the {name} plug"} for name in ("usb_a", "hdmi")},
            "default_object": "usb_a",
            "action": {"gripper": gripper},
            "reset": {"pose_base_tcp": pose},
            "target_pose_base_tcp": pose,
            "safety_box": {"low": (-0.1,) * 6, "high": (0.1,) * 6},
            "cameras": {"wrist": {"topic": "/camera/image"}},
            "impedance": {"compliant": GAINS, "precise": GAINS},
            "reward": {"source": "ground_truth"},
        }
    )


@cache
def jpeg(size: int, seed: int) -> bytes:
    """JPEG of smooth noise, about as large as a camera's."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (size // 8, size // 8, 3), dtype=np.uint8)
    return encode_jpeg(np.kron(coarse, np.ones((8, 8, 1), np.uint8)).astype(np.uint8), 90)


def make_episode(
    transitions: int = 5,
    *,
    seed: int = 0,
    episode_id: str = "",
    object_name: str = "usb_a",
    source: Source = Source.POLICY,
    success: bool = True,
    image_size: int = 32,
    gripper: bool = False,
) -> list[Step]:
    """A complete episode of `transitions` + 1 Steps."""
    rng = np.random.default_rng(seed)
    dim = 7 if gripper else 6
    pose = np.array([*rng.uniform(-0.5, 0.5, 3), *Rotation.random(random_state=seed).as_quat()])
    steps = []
    for index in range(transitions + 1):
        is_last = index == transitions
        stamp = 1_700_000_000_000_000_000 + index * 100_000_000
        action = rng.uniform(-1, 1, dim).astype(np.float32)
        action[6:] = np.sign(action[6:])
        seen = Observation(
            stamp_ns=stamp,
            images={"wrist": jpeg(image_size, seed + index)},
            pose_base_tcp=pose,
            twist_base_tcp=np.zeros(6),
            wrench_tcp=rng.normal(size=6),
            joint_positions=rng.normal(size=7),
            gripper_width_m=float(np.float32(rng.uniform(0, 0.08))),
        )
        pose = compose_delta(pose, action[:6] * SCALE)
        steps.append(
            Step(
                episode_id=episode_id or f"run-{seed}",
                index=index,
                step_count=100 + index,
                task="insertion",
                object=object_name,
                instruction=f"insert the {object_name} plug",
                seed=seed,
                observation=seen,
                action=ExecutedAction(
                    observation_stamp_ns=stamp,
                    requested=np.empty(0, np.float32) if is_last else action,
                    executed=np.empty(0, np.float32) if is_last else action,
                    source=Source.NONE if is_last else source,
                    policy_id="" if is_last else "specialist",
                    policy_version=0 if is_last else 7,
                ),
                reward=float(success and index == transitions - 1),
                terminated=success and index >= transitions - 1,
                truncated=not success and index >= transitions - 1,
                is_first=index == 0,
                is_last=is_last,
                success=success and index >= transitions - 1,
            )
        )
    return with_twists(steps)


def with_twists(steps: list[Step]) -> list[Step]:
    """The Steps with the twists of their poses and stamps."""
    seen = [step.observation for step in steps]
    stamps_s = [(one.stamp_ns - seen[0].stamp_ns) / 1e9 for one in seen]
    twists = twists_of(stamps_s, np.array([one.pose_base_tcp for one in seen]))
    return [
        replace(step, observation=replace(step.observation, twist_base_tcp=twist))
        for step, twist in zip(steps, twists, strict=True)
    ]


def driven(steps: list[Step]) -> list[Step]:
    """The Steps with poses that do what their actions say, from the first one on."""
    poses = [steps[0].observation.pose_base_tcp]
    for step in steps[:-1]:
        poses.append(compose_delta(poses[-1], step.action.executed[:6] * SCALE))
    return with_twists(
        [
            replace(step, observation=replace(step.observation, pose_base_tcp=pose))
            for step, pose in zip(steps, poses, strict=True)
        ]
    )


finite32 = st.floats(-1e6, 1e6, width=32)
stamps = st.integers(0, 2**31 - 10).flatmap(lambda s: st.integers(0, 10**9 - 1).map(lambda n: s * 10**9 + n))
text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
instructions = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda said: not fault(said))


@st.composite
def episodes(draw: st.DrawFn, min_transitions: int = 0) -> list[Step]:
    """Complete episodes with arbitrary values in every field that no rule of the episode binds."""
    steps = make_episode(draw(st.integers(min_transitions, 4)), seed=draw(st.integers(0, 20)))
    common = {
        "episode_id": draw(text),
        "object": draw(instructions),
        "instruction": draw(instructions),
        "seed": draw(st.integers(0, 2**64 - 1)),
    }
    widths = draw(st.sampled_from([st.just(float("nan")), st.floats(0, 0.125, width=32)]))  # known in all or in none
    begin = draw(stamps) + 1_000_000_000
    times = [begin + k * 100_000_000 + draw(st.integers(-20_000_000, 20_000_000)) for k in range(len(steps))]
    sources = st.sampled_from([Source.POLICY, Source.HUMAN, Source.SCRIPTED, Source.HOLD])
    drawn = []
    for step, stamp_ns in zip(steps, times, strict=True):
        seen = replace(
            step.observation,
            stamp_ns=stamp_ns,
            gripper_width_m=draw(widths),
            joint_positions=draw(st.sampled_from([step.observation.joint_positions, np.empty(0)])),
        )
        action = step.action
        if not step.is_last:
            values = np.array(draw(st.lists(st.floats(-1, 1, width=32), min_size=6, max_size=6)), np.float32)
            action = replace(
                action,
                observation_stamp_ns=seen.stamp_ns,
                executed=values,
                source=draw(sources),
                action_clipped=draw(st.booleans()),
                box_clipped=draw(st.booleans()),
                policy_id=draw(text),
                policy_version=draw(st.integers(0, 2**63 - 1)),
            )
        reward = draw(finite32)
        drawn.append(replace(step, **common, observation=seen, action=action, reward=reward))  # type: ignore[arg-type]
    return drawn


def assert_same_steps(left: list[Step], right: list[Step]) -> None:
    """Equality of every field; NaN equals NaN."""
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        plain = replace(a, observation=b.observation, action=b.action)
        assert plain == b
        for one, other in ((a.observation, b.observation), (a.action, b.action)):
            for name, value in vars(one).items():
                if isinstance(value, dict | str):
                    assert value == getattr(other, name), name
                else:
                    np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)
