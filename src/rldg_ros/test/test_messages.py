"""Types -> messages -> types loses nothing; constants of the message definitions equal those in the documents."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core import from_msg
from rldg_core.types import ExecutedAction, Observation, Source, Step
from rldg_ros import to_msg

floats = st.floats(-10, 10, width=32)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    stamp = draw(st.integers(0, 2**31 * 1_000_000_000 - 1))
    is_last = draw(st.booleans())
    action = np.array([] if is_last else draw(st.lists(st.floats(-1, 1, width=32), min_size=6, max_size=7)), np.float32)

    def vector(n: int) -> np.ndarray:
        return np.array(draw(st.lists(floats, min_size=n, max_size=n)))

    return Step(
        episode_id=draw(st.text(max_size=8)),
        index=draw(st.integers(0, 1000)),
        step_count=draw(st.integers(0, 2**40)),
        task="insertion",
        object="vga",
        instruction=draw(st.text(min_size=1, max_size=20).filter(lambda t: "\x00" not in t)),
        seed=draw(st.integers(0, 2**63 - 1)),
        observation=Observation(
            stamp, {"wrist": draw(st.binary(max_size=50))}, vector(7), vector(6), vector(6), vector(7), draw(floats)
        ),
        action=ExecutedAction(
            stamp,
            action,
            action,
            Source.NONE if is_last else Source.POLICY,
            draw(st.booleans()),
            draw(st.booleans()),
            "p",
            3,
        ),
        reward=draw(st.sampled_from([0.0, 1.0])),
        terminated=draw(st.booleans()),
        truncated=False,
        is_first=False,
        is_last=is_last,
        success=draw(st.booleans()),
    )


def equal(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if hasattr(a, "__dataclass_fields__"):
        return all(equal(getattr(a, f), getattr(b, f)) for f in a.__dataclass_fields__)
    return a == b


@settings(max_examples=60)
@given(steps().filter(lambda s: "\x00" not in s.episode_id))
def test_step_survives_a_round_trip(step: Step) -> None:
    back = from_msg.step(to_msg.step(step))
    assert equal(step, back), (step, back)
