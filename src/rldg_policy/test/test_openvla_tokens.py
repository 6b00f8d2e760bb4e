"""Action tokens, prompts and training sequences: known values and edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.errors import UserError
from rldg_policy.action_bins import CENTRES, EDGES
from rldg_policy.openvla.processing import (
    PromptTokenizer,
    action_ids,
    action_values,
    ar_example,
    inference_ids,
    is_action,
    parallel_example,
    prompt,
    write_byte_tokenizer,
)


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (-1.0, 31999),
        (-7.0, 31999),
        (-1.0 + 1e-9, 31999),
        (EDGES[1], 31998),
        (np.nextafter(EDGES[1], -1), 31999),
        (0.0, 31872),
        (EDGES[254], 31745),
        (np.nextafter(EDGES[254], -1), 31746),
        (np.nextafter(1.0, 0), 31745),
        (1.0, 31744),
        (3.0, 31744),
    ],
)
def test_tokeniser_gives_the_known_values(value, token):
    assert action_ids([value])[0] == token


def test_every_edge_is_in_the_bin_above_it():
    np.testing.assert_array_equal(action_ids(EDGES), 32000 - np.arange(1, 257))


@pytest.mark.parametrize(
    ("token", "value"),
    [
        (31999, CENTRES[0]),
        (31746, CENTRES[253]),
        (31745, CENTRES[254]),
        (31744, CENTRES[254]),
        (31743, CENTRES[254]),
        (2, CENTRES[254]),
        (32000, CENTRES[0]),
        (32063, CENTRES[0]),
    ],
)
def test_decoding_gives_the_known_values(token, value):
    assert action_values([token])[0] == np.float32(value)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1.5, 1.5), min_size=7, max_size=7))
def test_round_trip_error_is_at_most_half_a_bin(values):
    decoded = action_values(action_ids(values))
    assert np.all(np.abs(decoded - np.clip(values, -1, 1)) <= 1 / 255 + 1e-6)
    np.testing.assert_array_equal(action_ids(decoded), np.maximum(action_ids(values), 31745))


def test_action_mask_selects_the_action_tokens():
    ids = np.array([-100, 2, 31743, 31744, 31999, 32000, 32063])
    assert is_action(ids).tolist() == [False, False, False, True, True, False, False]


def test_prompt_has_the_form_of_openvla():
    assert prompt("Insert the USB-A plug") == ("In: What action should the robot take to insert the usb-a plug?\nOut:")
    with pytest.raises(UserError, match="instruction: must not be empty"):
        prompt("  ")


def test_inference_ids_end_in_a_single_space_token():
    assert inference_ids([1, 5]).tolist() == [1, 5, 29871]
    assert inference_ids([1, 5, 29871]).tolist() == [1, 5, 29871]


def test_autoregressive_training_sequence():
    example = ar_example([1, 5, 6], [-1, 1, 0, -2, 2, 0.5, 1])
    answer = [31999, 31744, 31872, 31999, 31744, 31808, 31744]
    assert example.ids.tolist() == [1, 5, 6, 29871, *answer, 2]
    assert example.labels.tolist() == [-100] * 4 + [*answer, 2]
    assert not example.slots.any()


def test_parallel_training_sequence():
    example = parallel_example([1, 5, 6], [[-1] * 7, [1] * 7])
    assert example.labels.tolist() == [-100] * 4 + [31999] * 7 + [31744] * 7
    assert example.slots.tolist() == [False] * 4 + [True] * 14
    assert example.ids[:4].tolist() == [1, 5, 6, 29871]
    assert len(example.ids) == 18


def test_byte_tokenizer_has_the_special_ids_of_llama(tmp_path):
    write_byte_tokenizer(tmp_path)
    ids = PromptTokenizer(tmp_path)("Insert é")
    assert ids[0] == 1
    assert bytes(i - 3 for i in ids[1:]).decode() == ("In: What action should the robot take to insert é?\nOut:")


def test_damaged_tokenizers_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json: missing"):
        PromptTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        PromptTokenizer(tmp_path)
