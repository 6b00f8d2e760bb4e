"""Readers of users' files refuse oversized, unexpected and ambiguous content at once, with one line."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core import files
from rldg_core.configuration import MAX_NODES, parse_yaml, read_yaml
from rldg_core.errors import MAX_LINE, UserError, one_line
from rldg_core.files import check_regular, open_regular, parse_json, read_bytes, read_json, read_text

SOURCES = Path(__file__).parents[2]

READERS: list[Callable[[Path], Any]] = [read_json, read_yaml, read_bytes, read_text, open_regular, check_regular]


def refusal_of(read: Callable[[], Any]) -> str:
    started_s = time.monotonic()
    with pytest.raises(UserError) as caught:
        read()
    assert time.monotonic() - started_s < 10
    message = str(caught.value)
    assert message.isprintable() and len(message) <= MAX_LINE
    return message


@pytest.mark.parametrize("read", READERS)
def test_only_regular_files_are_opened(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    fifo, device, link = tmp_path / "fifo", tmp_path / "device", tmp_path / "link"
    os.mkfifo(fifo)
    device.symlink_to("/dev/zero")
    link.symlink_to(fifo)
    for path, kind in ((fifo, "a FIFO"), (link, "a FIFO"), (device, "a device")):
        assert refusal_of(lambda path=path: read(path)) == f"{path}: {kind}, expected a regular file"
    assert refusal_of(lambda: read(tmp_path)) == f"{tmp_path}: cannot read: Is a directory"
    assert refusal_of(lambda: read(tmp_path / "none")).endswith("none: cannot read: No such file or directory")
    assert "cannot read: embedded null byte" in refusal_of(lambda: read(tmp_path / "a\0b"))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        assert "a socket, expected a regular file" in refusal_of(lambda: read(tmp_path / "socket"))


def test_file_beyond_its_limit_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    for read in (read_json, read_yaml, read_text, read_bytes):
        assert re.search(
            r"sparse\.json: 1,099,511,627,776 bytes, expected at most [0-9,]+$",
            refusal_of(lambda read=read: read(path)),
        )
    path.write_bytes(b"123")
    assert read_bytes(path, 3) == b"123"
    assert refusal_of(lambda: read_bytes(path, 2)) == f"{path}: 3 bytes, expected at most 2"
    path.write_bytes(b"\xff\xfe")
    assert refusal_of(lambda: read_text(path)) == f"{path}: cannot read: not UTF-8 text (byte 0)"


ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 10))
LONG_SCALARS = f"a: &a {'x' * 1000}\nb: [{', '.join(['*a'] * 40_000)}]\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ALIASES, f"more than {MAX_NODES:,} values with aliases expanded"),
        (MERGES, f"more than {MAX_NODES:,} values with aliases expanded"),
        (LONG_SCALARS, f"more than {MAX_NODES:,} values with aliases expanded"),
        ("a: &a [*a]", "alias 'a' refers to itself"),
        ("a: &a {b: {c: *a}}", "alias 'a' refers to itself"),
        ("a: *nowhere", "found undefined alias"),
        ("[" * 100_000, "more than 64 levels"),
        ("- " * 65 + "x", "more than 64 levels"),
        (f"a: {'9' * 5000}", "a number of 5000 digits, expected at most 100"),
        (f"a: 0x{'f' * 5000}", "a number of 5002 digits, expected at most 100"),
        (f"a: {'9' * 5000}.0", "a number of 5002 digits, expected at most 100"),
        ("a: 1\na: 2", "key 'a' comes twice"),
        ("a: {b: 1, c: 2, b: 1}", "key 'b' comes twice"),
        ("a: !!python/object:os.system {}", "could not determine a constructor for the tag"),
        ("a: !!timestamp 2026-01-01", "could not determine a constructor for the tag"),
        ("a: !!set {b}", "could not determine a constructor for the tag"),
        ("a: !!int x", "invalid literal for int"),
        ("? [a]\n: 1", "found unhashable key"),
        ("a: \0", "not valid YAML"),
        ("---\na\n---\nb", "but found another document"),
    ],
)
def test_unsafe_or_ambiguous_yaml_is_refused(text: str, reason: str) -> None:
    message = refusal_of(lambda: parse_yaml(text, "file"))
    assert message.startswith("file:")
    assert reason in message


def test_ordinary_yaml_is_read() -> None:
    text = """
base: &base {x: 1, y: [1.5, .inf]}
merged: {<<: *base, x: 2}
date: 2026-01-31
time: 12:30:45
numbers: [0x1F, 010, -3, 1e5, 1.0e+5, 1_000]
words: [yes, null, ~, =, "1", it's]
2: three
"""
    assert parse_yaml(text, "file") == {
        "base": {"x": 1, "y": [1.5, float("inf")]},
        "merged": {"x": 2, "y": [1.5, float("inf")]},
        "date": "2026-01-31",
        "time": "12:30:45",
        "numbers": [31, 8, -3, "1e5", 1e5, 1000],
        "words": [True, None, None, "=", "1", "it's"],
        2: "three",
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "more than 64 levels of lists and objects"),
        ("[" * 65 + "]" * 65, "more than 64 levels of lists and objects"),
        ('{"a":' * 65 + "1" + "}" * 65, "more than 64 levels of lists and objects"),
        ("[" + "1," * 4_100_000 + "1]", "more than 4,000,000 values"),
        ("9" * 5000, "a number of 5000 digits, expected at most 100"),
        ("1e999", "'1e999' exceeds the range of a float"),
        ('{"a": 1, "a": 2}', "key 'a' comes twice"),
        ('"' + "x" * (17 * 2**20) + '"', "bytes, expected at most"),
        ('{"a": ', "Expecting value"),
        ("", "Expecting value"),
    ],
)
def test_unsafe_or_ambiguous_json_is_refused(text: str, reason: str) -> None:
    for form in (text, text.encode()):
        message = refusal_of(lambda form=form: parse_json(form, "file"))
        assert message.startswith("file: not valid JSON: ")
        assert reason in message


def test_json_at_its_limits_is_read() -> None:
    nested = "[" * 64 + "]" * 64
    assert json.dumps(parse_json(nested, "file")) == nested
    many = [{"a": [n, 0.5]} for n in range(10_000)]
    assert parse_json(json.dumps(many), "file") == many
    assert parse_json("9" * 100, "file") == int("9" * 100)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=3000) | st.binary(max_size=3000), limit=st.integers(50, 2000))
def test_one_line_is_printable_and_bounded(text: str | bytes, limit: int) -> None:
    line = one_line(text, limit)
    assert line.isprintable()
    assert len(line) <= limit


def test_one_line_keeps_both_ends() -> None:
    line = str(UserError("file.yaml: found " + "x" * 5_000_000 + ": do this"))
    assert line.startswith("file.yaml: found x")
    assert line.endswith("x: do this")
    assert "characters left out" in line
    assert str(UserError("a\nb\x1b[31m\tc")) == "a b\\x1b[31m c"


DIRECT = re.compile(
    r"yaml\.(safe_|full_|unsafe_)?load(_all)?\(|json\.loads?\b|\.read_(text|bytes)\(|imdecode|imread|Image\.open\("
    r"|np\.load\(|(?<![.\w])open\(|\.open\((\"r|\)|encoding|mode)|os\.open\(.*RDONLY|msgpack\.(unpackb|Unpacker)|msgpack_restore\("
    r"|\bsafe_open\(|\bload_file\(|ParquetFile\(|read_table\(|Tokenizer\.from_file|h5py|pickle\.load"
)
"""Ways to open or to parse a file that know no limits."""

ALLOWED = re.compile(r"#\s*bounded: \S")
"""`# bounded: why` at the end of the line: what is read is not a user's, or was checked just before."""


def test_sources_open_files_only_with_the_bounded_readers() -> None:
    """To read a file, use rldg_core.files, rldg_core.configuration or rldg_core.image_codec."""
    own = {Path(files.__file__).name, "configuration.py", "image_codec.py"}
    found = [
        f"{path.relative_to(SOURCES)}:{number}: {line.strip()}"
        for path in sorted(SOURCES.glob("*/rldg_*/**/*.py"))
        if not (path.parent.name == "rldg_core" and path.name in own)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if DIRECT.search(line) and not ALLOWED.search(line) and not line.lstrip().startswith(("import", "from", "#"))
    ]
    assert found == []
