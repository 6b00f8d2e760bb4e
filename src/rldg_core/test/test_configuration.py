"""Configuration files: every mistake is one line that names the file and, where there is one, the key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from rldg_core.configuration import load_model
from rldg_core.errors import UserError


class Small(BaseModel):
    """A model with one nested key."""

    model_config = ConfigDict(extra="forbid")
    rate: float = 1.0
    inner: dict[str, int] = {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"rate: fast", "rate: Input should be a valid number, unable to parse string as a number, got 'fast'"),
        (b"inner: {a: b}", "inner.a: Input should be a valid integer"),
        (b'"a\\nb": 1', "'a\\nb': Extra inputs are not permitted"),
        (b"1: 2", "1: Keys should be strings"),
        (b"- 1", "list, expected a mapping (a small file)"),
        (b"", "NoneType, expected a mapping (a small file)"),
        (b"\xff\xfe\x00", "cannot read: not UTF-8 text (byte 0)"),
        (b"a: [", "line 2: not valid YAML: "),
        (b"rate: 2026-99-99", "rate: Input should be a valid number"),
    ],
)
def test_mistake_is_refused_with_file_and_key(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "small.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_model(Small, path, "small")
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_overrides_replace_keys(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("rate: 2\ninner: {a: 1}")
    assert load_model(Small, path, "small", {"rate": 3.0}) == Small(rate=3.0, inner={"a": 1})
    with pytest.raises(UserError, match=r"none\.yaml: cannot read: No such file"):
        load_model(Small, tmp_path / "none.yaml", "small")


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=40))
def test_any_bytes_are_a_model_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    message = ""
    try:
        load_model(Small, path, "small")
    except UserError as error:
        message = str(error)
    assert message.isprintable()
