"""Fuzzing of all readers of bags: any bytes give the recorded data or one UserError."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from rldg_core.errors import UserError
from rldg_core.types import Step
from rldg_data.bags import step_cdr
from rldg_data.bags.cdr import _step, decode_generic, encode_step, step_decoder
from rldg_data.bags.mcap_writer import McapWriter
from rldg_data.bags.metadata import Storage, StoredTopic, Topic
from rldg_data.bags.reading import bag_info, content_blake3, episode_info, read_episode, read_steps
from rldg_data.bags.recording import STEP_QOS, write_episode
from rldg_data.bags.repair import repair_bag
from rldg_data.bags.schemas import STEP_TYPE, schema_text, type_hash
from rldg_data.bags.summary import summarize
from rldg_data.external.importing import read_external
from rldg_data.external.mapping import ExternalMapping
from rldg_data.testing.steps import assert_same_steps, episodes, make_episode, make_task

FUZZ = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SCHEMA = schema_text(STEP_TYPE)
STEPS = make_episode(6)
MESSAGES = [encode_step(step) for step in STEPS]
MAPPING = ExternalMapping.model_validate(
    {
        "task": "a",
        "object": "b",
        "instruction": "c",
        "success": True,
        "cameras": {"wrist": {"topic": "/rldg/step", "size_px": 32}},
        "pose": {"topic": "/rldg/step", "field": "observation.pose_base_tcp"},
        "action": {"kind": "target", "topic": "/rldg/step", "field": "action.target_base_tcp"},
    }
)


@pytest.fixture(scope="module")
def good_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_episode(tmp_path_factory.mktemp("bags"), STEPS, make_task())


@st.composite
def edits(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Return a strategy of a few flips, cuts, repetitions and insertions anywhere."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "cut", "repeat", "insert", "zero"]),
                st.floats(0, 1, exclude_max=True),
                st.binary(min_size=1, max_size=9),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def edit(content: bytes) -> bytes:
        for kind, place, extra in steps:
            at, size = int(place * len(content)), len(extra)
            before, middle, after = content[:at], content[at : at + size], content[at + size :]
            flipped = bytes(a ^ b for a, b in zip(middle, extra, strict=False))
            new = {
                "flip": flipped,
                "cut": b"",
                "repeat": middle * 2,
                "insert": extra + middle,
                "zero": bytes(len(middle)),
            }
            content = before + new[kind] + after
        return content

    return edit


def result_or_line(call: Callable[[], Any], name: str) -> Any:
    """Return the result, or None after a UserError of one line that names the bag."""
    try:
        return call()
    except UserError as error:
        line = str(error)
    assert "\n" not in line
    assert name in line
    return None


def read_all_ways(bag: Path) -> list[Step] | None:
    """Read the bag with every reader; each may raise nothing but a UserError."""
    steps: list[Step] | None = result_or_line(lambda: read_episode(bag), bag.name)
    for call in (bag_info, episode_info, read_steps, summarize, content_blake3):
        result_or_line(lambda call=call: call(bag), bag.name)
    result_or_line(lambda: read_external(MAPPING, bag), bag.name)
    result_or_line(lambda: repair_bag(bag), bag.name)
    return steps


@FUZZ
@given(edit=edits())
def test_edited_file_gives_the_recorded_steps_or_user_error(good_bag: Path, edit: Callable[[bytes], bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(shutil.copytree(good_bag, Path(folder) / good_bag.name))
        file = bag_info(bag).file
        file.write_bytes(edit(file.read_bytes()))
        steps = read_all_ways(bag)
        if steps is not None:
            assert_same_steps(steps, STEPS)


@FUZZ
@given(content=st.binary(max_size=200), magic=st.booleans())
def test_random_bytes_as_file_are_refused(good_bag: Path, content: bytes, magic: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(shutil.copytree(good_bag, Path(folder) / good_bag.name))
        file = bag_info(bag).file
        file.write_bytes(file.read_bytes()[:8] + content if magic else content)
        assert read_all_ways(bag) is None


@FUZZ
@given(edit=edits())
def test_edited_metadata_give_the_recorded_steps_or_user_error(good_bag: Path, edit: Callable[[bytes], bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(shutil.copytree(good_bag, Path(folder) / good_bag.name))
        file = bag / "metadata.yaml"
        file.write_bytes(edit(file.read_bytes()))
        steps = read_all_ways(bag)
        if steps is not None:
            assert_same_steps(steps, STEPS)


KEYS = ["storage_identifier", "duration", "starting_time", "message_count", "topics_with_message_count"]
KEYS += ["relative_file_paths", "custom_data", "files", "version"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@FUZZ
@given(
    data=st.data(),
    key=st.sampled_from(KEYS),
)
def test_any_metadata_value_gives_the_recorded_steps_or_user_error(
    good_bag: Path, data: st.DataObject, key: str
) -> None:
    document = yaml.safe_load((good_bag / "metadata.yaml").read_text())
    document["rosbag2_bagfile_information"][key] = data.draw(values)
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(shutil.copytree(good_bag, Path(folder) / good_bag.name))
        (bag / "metadata.yaml").write_text(yaml.safe_dump(document))
        steps = read_all_ways(bag)
        if steps is not None:
            assert_same_steps(steps, STEPS)


@pytest.mark.parametrize("name", ["../other.mcap", "/etc/passwd", "..", "a/b.mcap", "", "a\\nb"])
def test_paths_outside_the_bag_are_refused(good_bag: Path, tmp_path: Path, name: str) -> None:
    bag = Path(shutil.copytree(good_bag, tmp_path / good_bag.name))
    text = (bag / "metadata.yaml").read_text().replace(f"{bag.name}_0.mcap", f'"{name}"')
    (bag / "metadata.yaml").write_text(text)
    with pytest.raises(UserError, match=r"relative_file_paths: .* is not a file name inside the bag"):
        read_episode(bag)


def write_messages(folder: Path, messages: list[bytes], topic: Topic | None = None) -> Path:
    """Write a bag of the given messages, with valid checksums."""
    path = folder / "episode_000000"
    writer = McapWriter(path, path.name, Storage(), {})
    topic = topic or Topic("/rldg/step", STEP_TYPE, STEP_QOS)
    writer.add_topic(topic)
    for number, message in enumerate(messages):
        writer.write(topic.name, message, number, number)
    writer.close({})
    return path


@FUZZ
@given(edit=edits(), place=st.integers(0, len(MESSAGES) - 1))
def test_edited_message_with_valid_checksums_is_decoded_or_refused(edit: Callable[[bytes], bytes], place: int) -> None:
    """Edit a serialised Step, which no checksum detects."""
    messages = [edit(m) if number == place else m for number, m in enumerate(MESSAGES)]
    with tempfile.TemporaryDirectory() as folder:
        bag = write_messages(Path(folder), messages)
        steps = read_all_ways(bag)
        if steps is not None:
            assert len(steps) == len(STEPS)
            assert all(left.index == right.index for left, right in zip(steps, STEPS, strict=True))


def decoded(decode: Callable[[bytes], Step], data: bytes) -> tuple[Step | None, str]:
    try:
        return decode(data), ""
    except (ValueError, AttributeError, SerdeError) as error:
        return None, repr(error)


@settings(FUZZ, max_examples=300)
@given(edit=edits(), place=st.integers(0, len(MESSAGES) - 1))
def test_both_decoders_agree_on_damaged_messages(edit: Callable[[bytes], bytes], place: int) -> None:
    damaged = edit(MESSAGES[place])

    if damaged[:2] != step_cdr.LITTLE_ENDIAN:
        return
    ours, ours_failed = decoded(step_cdr.decode, damaged)
    generic, generic_failed = decoded(lambda data: decode_generic(data, SCHEMA), damaged)
    if ours and generic:
        assert_same_steps([ours], [generic])
    assert bool(ours) == bool(generic), (ours_failed, generic_failed)


def test_decoder_layout_matches_the_installed_message() -> None:
    """Fail when rldg_msgs changes: until step_cdr follows, bags are read by the slower generic decoder."""
    assert type_hash(STEP_TYPE) == step_cdr.LAYOUT_HASH


@settings(max_examples=100, deadline=None)
@given(steps=episodes())
def test_both_decoders_agree_on_any_step(steps: list[Step]) -> None:
    decode = step_decoder(SCHEMA)
    messages = [encode_step(step) for step in steps]
    assert_same_steps([decode(m) for m in messages], [decode_generic(m, SCHEMA) for m in messages])
    assert_same_steps([step_cdr.decode(m) for m in messages], steps)


def test_bag_with_another_definition_is_read_by_its_own_schema(tmp_path: Path) -> None:
    """Read Steps with one more field: the type hash differs, so the generic decoder reads them."""
    text = SCHEMA.replace("string episode_id", "int8[3] more\nstring episode_id", 1)
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(text, STEP_TYPE))
    messages = []
    for step in STEPS:
        message = _step(step, "base")
        message.more = np.array([1, 2, 3], np.int8)
        messages.append(bytes(store.serialize_cdr(message, STEP_TYPE)))
    topic = Topic("/rldg/step", STEP_TYPE, given=StoredTopic(text, store.hash_rihs01(STEP_TYPE), ""))
    assert_same_steps(read_episode(write_messages(tmp_path, messages, topic)), STEPS)
    wrong = Topic("/rldg/step", STEP_TYPE, given=StoredTopic("string data\n", "", ""))
    bag = write_messages(tmp_path / "b", messages, wrong)
    with pytest.raises(UserError, match=f"^{bag}/episode_000000_0.mcap: "):
        read_episode(bag)


@pytest.mark.parametrize("key", [*KEYS, "topic_metadata", "offered_qos_profiles"])
def test_metadata_values_of_another_kind_are_user_errors_or_ignored(good_bag: Path, tmp_path: Path, key: str) -> None:
    bag = Path(shutil.copytree(good_bag, tmp_path / good_bag.name))
    for value in (None, True, 3, 2.5, "text", [], [1], {}, {"name": 1}):
        document = yaml.safe_load((good_bag / "metadata.yaml").read_text())
        information = document["rosbag2_bagfile_information"]
        topic = information["topics_with_message_count"][0]
        holders = {"topic_metadata": topic, "offered_qos_profiles": topic["topic_metadata"]}
        holders.get(key, information)[key] = value
        (bag / "metadata.yaml").write_text(yaml.safe_dump(document))
        for call in (bag_info, read_steps, lambda path: read_external(MAPPING, path)):
            result_or_line(lambda call=call: call(bag), bag.name)
