"""Octo's weights on disk: written for upstream's loader, read in every form, damaged ones refused."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import msgpack
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from octo_samples import SMALLEST

from rldg_core.errors import UserError
from rldg_policy.octo.checkpoint import OctoCheckpoint, parameter_shapes, random_checkpoint, read_params, write_params


@cache
def checkpoint() -> OctoCheckpoint:
    """Return random weights, made at their first use."""
    return random_checkpoint(SMALLEST, 3)


@cache
def params():
    return flatten_dict(checkpoint().params)


@cache
def expected():
    return parameter_shapes(checkpoint().module, checkpoint().example_batch)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "default"
    write_params(folder, checkpoint().params)
    return folder


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """Write weights with the current orbax, as earlier versions of this package did."""
    folder = tmp_path_factory.mktemp("store") / "default"
    ocp.PyTreeCheckpointer().save(folder, checkpoint().params)
    return folder


def is_ours(found) -> bool:
    flat = flatten_dict(found)
    return flat.keys() == params().keys() and all(
        np.array_equal(value, params()[path]) and value.dtype == params()[path].dtype for path, value in flat.items()
    )


def test_weights_are_written_for_the_loader_of_upstream(written):
    """orbax 0.4.4 reads every array from one msgpack file (flax's extension 1) and the names from another; see
    compatibility.md."""
    assert {path.name for path in written.iterdir()} == {"checkpoint", "_METADATA"}
    found = {}
    for path, (code, data) in flatten_dict(msgpack.unpackb((written / "checkpoint").read_bytes())).items():
        shape, dtype, values = msgpack.unpackb(data)
        assert code == 1
        found[path] = np.frombuffer(values, dtype).reshape(shape)
    assert is_ours(unflatten_dict(found))
    metadata = json.loads((written / "_METADATA").read_text())["tree_metadata"]
    for path in found:
        entry = metadata.pop(str(path))
        assert [(key["key"], key["key_type"]) for key in entry["key_metadata"]] == [(name, 2) for name in path]
        assert entry["value_metadata"] == {"value_type": "jax.Array", "skip_deserialize": True}
    assert not metadata


def test_every_form_of_weights_is_read(written, stored, tmp_path):
    assert is_ours(read_params(written, expected())) and is_ours(read_params(stored, expected()))
    several_hosts = Path(shutil.copytree(stored, tmp_path / "default"))
    names = unflatten_dict({path: "PLACEHOLDER://" + ".".join(path) for path in params()})
    (several_hosts / "checkpoint").write_bytes(msgpack.packb(names))
    assert is_ours(read_params(several_hosts, expected()))


def test_other_names_in_a_store_are_refused(stored):
    with pytest.raises(UserError, match=r"default: 89 arrays, config.json describes 90: first missing: more/bias"):
        read_params(
            stored, {**expected(), "more/bias": expected()["heads_action/diffusion_model/cond_encoder/Dense_0/bias"]}
        )


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def largest(folder: Path) -> Path:
    return max(folder.rglob("*"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    ("form", "damage", "reason"),
    [
        ("written", lambda f: (f / "checkpoint").unlink(), "neither checkpoint nor manifest.ocdbt found"),
        ("written", lambda f: cut_in_half(f / "checkpoint"), "Unpack failed: incomplete"),
        ("written", lambda f: (f / "checkpoint").write_bytes(b""), "cannot mmap an empty file"),
        (
            "written",
            lambda f: (f / "checkpoint").write_bytes(b"\x81\xa1a\x07"),
            "checkpoint holds values that are not arrays",
        ),
        ("stored", lambda f: cut_in_half(f / "manifest.ocdbt"), "DATA_LOSS: "),
        ("stored", lambda f: cut_in_half(largest(f)), "OUT_OF_RANGE: "),
        ("stored", lambda f: shutil.rmtree(f / "ocdbt.process_0"), "[A-Z_]+: Error reading"),
    ],
)
def test_damaged_weights_are_refused_without_other_output(form, damage, reason, request, tmp_path, capfd):
    folder = Path(shutil.copytree(request.getfixturevalue(form), tmp_path / "default"))
    damage(folder)
    capfd.readouterr()
    with pytest.raises(UserError, match=f"/default: damaged weights: {reason}") as error:
        read_params(folder, expected())
    assert "\n" not in str(error.value) and capfd.readouterr() == ("", "")


def outcome(folder: Path) -> str:
    try:
        read_params(folder, expected())
    except UserError as error:
        return str(error)
    return "read"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_edited_weights_are_read_or_refused(written, tmp_path_factory, data):
    """Names, types and shapes lie between the arrays' values; only the checksums detect a flipped value."""
    content = bytearray((written / "checkpoint").read_bytes())
    head = content[:200]
    position = data.draw(st.integers(0, len(head) - 1))
    content[position] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "checkpoint").write_bytes(content)
    assert "\n" not in outcome(folder)
