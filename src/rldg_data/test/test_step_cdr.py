"""The specialised decoder against the generic one (rosbags): for any message the same Step, or both refuse it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.serde import SerdeError

from rldg_core.types import Step
from rldg_data.bags import step_cdr
from rldg_data.bags.cdr import _step, decode_generic, encode_step
from rldg_data.bags.schemas import STEP_TYPE, schema_text, typestore
from rldg_data.testing.steps import assert_same_steps, make_episode

SCHEMA = schema_text(STEP_TYPE)
STEP = make_episode(1)[0]

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=9)
stamps = st.builds(SimpleNamespace, sec=st.integers(-(2**31), 2**31 - 1), nanosec=st.integers(0, 2**32 - 1))
headers = st.builds(SimpleNamespace, stamp=stamps, frame_id=texts)
uint32s, uint64s = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
float32s, float64s = st.floats(width=32), st.floats()


def vectors(names: str) -> st.SearchStrategy[SimpleNamespace]:
    return st.builds(SimpleNamespace, **dict.fromkeys(names, float64s))


def arrays(dtype: str, values: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    return st.lists(values, max_size=9).map(lambda drawn: np.array(drawn, dtype))


poses = st.builds(SimpleNamespace, position=vectors("xyz"), orientation=vectors("xyzw"))
images = st.builds(
    SimpleNamespace, header=headers, format=texts, data=st.binary(max_size=20).map(lambda d: np.frombuffer(d, np.uint8))
)
observations = st.builds(
    SimpleNamespace,
    header=headers,
    # Few names, so that one is drawn twice; their number need not be that of the images.
    camera_names=st.lists(st.sampled_from(["wrist", "side", ""]), max_size=3),
    images=st.lists(images, max_size=3),
    pose_base_tcp=poses,
    twist_base_tcp=st.builds(SimpleNamespace, linear=vectors("xyz"), angular=vectors("xyz")),
    wrench_tcp=st.builds(SimpleNamespace, force=vectors("xyz"), torque=vectors("xyz")),
    joint_positions=arrays("<f8", float64s),
    gripper_width_m=float32s,
)
actions = st.builds(
    SimpleNamespace,
    header=headers,
    observation_stamp=stamps,
    requested=arrays("<f4", float32s),
    executed=arrays("<f4", float32s),
    target_base_tcp=poses,
    source=st.integers(0, 255) | st.integers(0, 4),
    action_clipped=st.booleans(),
    box_clipped=st.booleans(),
    policy_id=texts,
    policy_version=uint64s,
)
messages = st.builds(
    SimpleNamespace,
    header=headers,
    episode_id=texts,
    index=uint32s,
    step_count=uint64s,
    task=texts,
    object=texts,
    instruction=texts,
    seed=uint64s,
    observation=observations,
    action=actions,
    reward=float32s,
    **dict.fromkeys(("terminated", "truncated", "is_first", "is_last", "success"), st.booleans()),
)


def step_or_none(data: bytes, *, generic: bool) -> Step | None:
    try:
        return decode_generic(data, SCHEMA) if generic else step_cdr.decode(data)
    except (ValueError, SerdeError):
        return None


def assert_both_agree(data: bytes) -> Step | None:
    ours, generic = step_or_none(data, generic=False), step_or_none(data, generic=True)
    assert (ours is None) == (generic is None)
    if ours is not None and generic is not None:
        assert_same_steps([ours], [generic])
    return ours


@settings(max_examples=300, deadline=None)
@given(message=messages)
def test_any_message_gives_the_same_step_or_none(message: SimpleNamespace) -> None:
    data = bytes(typestore(STEP_TYPE, SCHEMA).serialize_cdr(message, STEP_TYPE))

    step = assert_both_agree(data)

    names = message.observation.camera_names
    is_sound = len(set(names)) == len(names) == len(message.observation.images) and message.action.source <= 4
    assert (step is not None) == is_sound


def test_padding_may_hold_anything() -> None:
    """DDS leaves what was in its buffer there: bytes that change no Step for the generic decoder change none for us."""
    message = _step(STEP, "base")
    message.observation.images[0].data = np.zeros(3, np.uint8)
    data = bytes(typestore(STEP_TYPE, SCHEMA).serialize_cdr(message, STEP_TYPE))
    expected = step_cdr.decode(data)
    padding = 0
    for at in range(step_cdr.HEADER_BYTES, len(data)):
        changed = bytearray(data)
        changed[at] ^= 0xA5
        step = assert_both_agree(bytes(changed))
        padding += step is not None and encode_step(step) == encode_step(expected)

    assert padding > 10


def test_arrays_of_a_step_can_be_written_and_share_nothing() -> None:
    data = encode_step(STEP)
    step = step_cdr.decode(data)
    step.observation.pose_base_tcp[0] = 7.0
    step.action.executed[0] = 7.0
    assert_same_steps([step_cdr.decode(data)], [STEP])
