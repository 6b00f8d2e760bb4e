"""ResNet-10: forward pass equal to an independent one, checked weights, upstream's pickle read without executing it."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch.nn import functional

from rldg_core.errors import UserError
from rldg_rl.encoders.convert import convert, read_arrays
from rldg_rl.encoders.loading import load_encoder
from rldg_rl.encoders.resnet10 import FEATURE_SHAPE, load_resnet10, shapes

Array = NDArray[np.float32]


def weights(seed: int = 0) -> dict[str, Array]:
    """Return random weights of the right shapes."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes().items():
        scale = (2.0 / np.prod(shape[:-1])) ** 0.5 if name.endswith("kernel") else 0.2
        made[name] = (scale * rng.standard_normal(shape) + name.endswith("scale")).astype(np.float32)
    return made


@pytest.fixture(scope="module")
def tensors() -> dict[str, Array]:
    return weights()


def nested(tensors: dict[str, Any], leaf: Any = lambda x: x) -> dict[str, Any]:
    """Convert {"a/b": x} to {"a": {"b": x}}, as flax stores parameters."""
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *outer, last = name.split("/")
        at = tree
        for part in outer:
            at = at.setdefault(part, {})
        at[last] = leaf(tensor)
    return tree


def torch_forward(tensors: dict[str, Array], images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute the same network in torch (NCHW, explicit padding)."""
    torch.set_num_threads(1)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = torch.tensor((images / 255.0 - mean) / deviation, dtype=torch.float32).permute(0, 3, 1, 2)

    def conv(x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        kernel = torch.tensor(tensors[name + "/kernel"]).permute(3, 2, 0, 1)
        # flax's SAME pads 3x3 by one on each side at stride 1, and only at the far side at stride 2.
        far = kernel.shape[-1] // 2
        near = far if stride == 1 else 0
        return functional.conv2d(functional.pad(x, (near, far, near, far)), kernel, stride=stride)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        scale, bias = (torch.tensor(tensors[f"{name}/{part}"]) for part in ("scale", "bias"))
        return functional.group_norm(x, 4, scale, bias, eps=1e-5)

    kernel = torch.tensor(tensors["conv_init/kernel"]).permute(3, 2, 0, 1)
    x = functional.relu(norm(functional.conv2d(x, kernel, stride=2, padding=3), "norm_init"))
    x = functional.max_pool2d(functional.pad(x, (0, 1, 0, 1), value=float("-inf")), 3, stride=2)
    for index in range(4):
        block, stride = f"ResNetBlock_{index}", 2 if index else 1
        y = functional.relu(norm(conv(x, f"{block}/Conv_0", stride), f"{block}/MyGroupNorm_0"))
        y = norm(conv(y, f"{block}/Conv_1", 1), f"{block}/MyGroupNorm_1")
        if index:
            x = norm(conv(x, f"{block}/conv_proj", stride), f"{block}/norm_proj")
        x = functional.relu(x + y)
    return x.permute(0, 2, 3, 1).numpy()


def test_forward_pass_equals_torch_for_every_file_type(tmp_path: Path, tensors: dict[str, Array]) -> None:
    save_file(tensors, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **tensors)
    encoder = load_encoder("resnet10", tmp_path / "w.safetensors")
    images = np.random.default_rng(1).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    found, expected = encoder.encode(images), torch_forward(tensors, images)
    assert encoder.feature_shape == found.shape[1:] == expected.shape[1:] == FEATURE_SHAPE
    np.testing.assert_allclose(found, expected, rtol=4e-3, atol=4e-3)  # float16
    assert expected.std() > 0.1
    assert load_resnet10(tmp_path / "w.npz").weights_sha256 == encoder.weights_sha256
    save_file({**tensors, "norm_init/bias": tensors["norm_init/bias"] + 1}, tmp_path / "other.safetensors")
    assert load_resnet10(tmp_path / "other.safetensors").weights_sha256 != encoder.weights_sha256


def test_unsuitable_weights_are_refused_by_name(tmp_path: Path, tensors: dict[str, Array]) -> None:
    path = tmp_path / "w.safetensors"

    def message(changed: dict[str, Any]) -> str:
        save_file(changed, path)
        with pytest.raises(UserError) as caught:
            load_resnet10(path)
        assert str(caught.value).startswith(f"{path}: ")
        return str(caught.value)

    without = {name: tensor for name, tensor in tensors.items() if name != "conv_init/kernel"}
    assert "conv_init/kernel is missing" in message(without)
    assert "norm_init/bias is float32(3,), expected float32(64,)" in message(
        {**tensors, "norm_init/bias": np.zeros(3, np.float32)}
    )
    assert "norm_init/bias is int64(64,)" in message({**tensors, "norm_init/bias": np.zeros(64, np.int64)})
    assert "not finite" in message({**tensors, "norm_init/bias": np.full(64, np.inf, np.float32)})
    assert "unknown tensors head" in message({**tensors, "head": np.zeros(1, np.float32)})
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not valid safetensors"):
        load_resnet10(path)
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"objects\.npz: not an npz file of plain arrays"):
        load_resnet10(tmp_path / "objects.npz")
    (tmp_path / "broken.npz").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"broken\.npz: not an npz file of plain arrays"):
        load_resnet10(tmp_path / "broken.npz")
    with pytest.raises(UserError, match=r"none\.npz: cannot read"):
        load_resnet10(tmp_path / "none.npz")
    with pytest.raises(UserError, match="give the file of its weights"):
        load_encoder("resnet10")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("leaf", [np.asarray, np.asfortranarray, jnp.asarray])
def test_arrays_of_every_pickle_protocol_are_read_without_unpickling(protocol: int, leaf: Any) -> None:
    arrays = {"a/b": np.arange(12, dtype=np.float32).reshape(3, 4), "a/c": np.ones(2, np.float32), "d": np.zeros((1,))}
    tree = collections.OrderedDict(nested(arrays, leaf))
    found = read_arrays(pickle.dumps(tree, protocol), "here")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)


def test_file_of_upstream_becomes_safetensors_that_load(tmp_path: Path, tensors: dict[str, Array]) -> None:
    source, target = tmp_path / "resnet10_params.pkl", tmp_path / "resnet10.safetensors"
    source.write_bytes(pickle.dumps(nested(tensors | {"output_head/bias": np.zeros(1000, np.float32)})))
    command = [sys.executable, "-m", "rldg_rl.encoders.convert", str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{target}: {len(shapes())} tensors, left out: output_head/bias" in done.stdout
    assert load_file(target).keys() == tensors.keys()
    assert load_resnet10(target).encode(np.zeros((1, 128, 128, 3), np.uint8)).shape == (1, 4, 4, 512)
    source.write_bytes(pickle.dumps({"conv_init": {"kernel": np.zeros(3, np.float32)}}))
    done = subprocess.run([*command[:-1], str(tmp_path / "x")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"{source}: conv_init/kernel is float32(3,), expected float32(7, 7, 3, 64)\n"
    assert not (tmp_path / "x").exists()


class Evil:
    """Object that runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_malicious_pickle_is_refused_and_runs_nothing(tmp_path: Path, protocol: int) -> None:
    source, trace = tmp_path / "evil.pkl", tmp_path / "trace"
    data = pickle.dumps({"conv_init": Evil(trace)}, protocol)
    source.write_bytes(data)
    with pytest.raises(UserError) as caught:
        convert(source, tmp_path / "out.safetensors")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{source}: ")
    assert not trace.exists()
    assert not (tmp_path / "out.safetensors").exists()
    pickle.loads(data)  # unpickling the file does run the command
    assert trace.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cbuiltins\neval\n.", "refused: it names 'builtins.eval'"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "refused: it names 'builtins.eval'"),
        (b"}(\x8c\x01a\x8c\x01bu.", "refused: 'a' is no array"),
        (b"K\x01.", "refused: the file is no array"),
        (pickle.dumps({"a": np.array([object], dtype=object)}, 2), "refused: it names "),
        (b"\x80\x04\x8c\x04a\nb.\x8c\x01c\x93.", r"refused: it names 'a\nb..c'"),
        (pickle.dumps({"a": np.arange(3)}), "refused: an array that is not of floating-point numbers"),
        (b"\x80\x04}\x94h\x07.", "not a pickled dict of arrays"),
        (b"", "not a pickled dict of arrays"),
        (b"PK\x03\x04", "not a pickled dict of arrays"),
    ],
)
def test_pickle_without_a_dict_of_arrays_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=r"^here: ") as caught:
        read_arrays(data, "here")
    assert message in str(caught.value)


ORDINARY = pickle.dumps(nested({"a/b": np.ones((2, 3), np.float32), "c": np.zeros(4, np.float32)}))
INSTRUCTIONS = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_file_is_refused_or_still_holds_arrays(data: st.DataObject) -> None:
    damaged = bytearray(ORDINARY)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + 1] = data.draw(st.one_of(st.binary(max_size=2), st.sampled_from(INSTRUCTIONS)))
    with contextlib.suppress(_Refusal):
        found = read_or_refuse(bytes(damaged))
        assert all(isinstance(array, np.ndarray) and array.dtype.kind == "f" for array in found.values())


class _Refusal(Exception):
    """A UserError of one line."""


def read_or_refuse(data: bytes) -> dict[str, NDArray[Any]]:
    """Read the file; any error but a UserError of one line fails the test."""
    try:
        return read_arrays(data, "here")
    except UserError as error:
        if str(error).startswith("here: ") and "\n" not in str(error):
            raise _Refusal from error
        raise
