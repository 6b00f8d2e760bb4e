"""The layout decoder of Steps equals the full decoder: equal Steps and errors for any sequence of messages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.types import Step
from rldg_data.bags import step_cdr, step_layout
from rldg_data.bags.cdr import encode_step
from rldg_data.bags.step_layout import StepDecoder
from rldg_data.testing.steps import assert_same_steps, episodes, make_episode


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Draw Steps of several episodes with images of any length and none, one or two cameras, in decoding order."""
    steps = [step for _ in range(draw(st.integers(1, 3))) for step in draw(episodes())]
    cameras = draw(st.sampled_from([("wrist",), ("wrist", "scene"), ()]))

    def photographed(step: Step) -> Step:
        images = {name: draw(st.binary(max_size=20)) for name in cameras}
        return replace(step, observation=replace(step.observation, images=images))

    return [encode_step(photographed(step)) for step in steps]


@settings(max_examples=100, deadline=None)
@given(stream=streams())
def test_every_stream_decodes_as_by_the_full_decoder(stream: list[bytes]) -> None:
    decode = StepDecoder()
    assert_same_steps([decode(data) for data in stream], [step_cdr.decode(data) for data in stream])


@settings(max_examples=300, deadline=None)
@given(stream=st.just([encode_step(s) for s in make_episode(3)]), data=st.data())
def test_damaged_messages_decode_as_by_the_full_decoder(stream: list[bytes], data: st.DataObject) -> None:
    """Flip a bit outside the image, or cut off the end, after an intact message of the same episode."""
    decode = StepDecoder()
    decode(stream[0])
    message = bytearray(stream[1])
    if data.draw(st.booleans()):
        image = bytes(message).index(b"\xff\xd8\xff")
        places = [*range(image), *range(len(message) - 420, len(message))]
        message[data.draw(st.sampled_from(places))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del message[data.draw(st.integers(0, len(message) - 1)) :]
    damaged = bytes(message)
    try:
        expected = step_cdr.decode(damaged)
    except ValueError as error:
        with pytest.raises(type(error)):
            decode(damaged)
        return
    assert_same_steps([decode(damaged)], [expected])
    assert_same_steps([decode(stream[2])], [step_cdr.decode(stream[2])])


def test_padding_bytes_are_ignored() -> None:
    """DDS leaves old buffer contents in the padding: those bytes change neither a Step nor the layout."""
    first, second = (encode_step(step) for step in make_episode(2)[:2])
    noisy = bytearray(second)
    image = second.index(b"\xff\xd8\xff")
    for at in [*range(4, image), *range(len(second) - 420, len(second))]:
        tried = bytearray(noisy)
        tried[at] ^= 0xA5
        try:
            same = encode_step(step_cdr.decode(bytes(tried))) == second
        except ValueError:
            continue
        noisy = tried if same else noisy
    assert sum(a != b for a, b in zip(noisy, second, strict=True)) > 10
    layout = step_layout._layout_of(first, step_cdr.decode(first))
    assert layout is not None
    step = layout.decode(bytes(noisy))
    assert step is not None
    assert_same_steps([step], [step_cdr.decode(second)])


def test_full_decoder_runs_once_for_a_whole_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        step_layout.step_cdr, "decode", lambda data, real=step_cdr.decode: calls.append(1) or real(data)
    )
    decode = StepDecoder()
    steps = [decode(encode_step(step)) for step in make_episode(30)]
    # The first and the last Step; the last has no action.
    assert len(calls) == 2
    steps[3].observation.pose_base_tcp[0] = 1.0
    steps[3].action.executed[0] = 1.0
    assert not np.array_equal(steps[3].observation.pose_base_tcp, steps[4].observation.pose_base_tcp)
