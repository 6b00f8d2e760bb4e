"""Checkpoints of the golden references in upstream's form, with weights drawn by the rule in golden/README.md."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
from flax.serialization import msgpack_serialize
from flax.traverse_util import unflatten_dict
from golden.drawn import Layout, image, noise, weight
from numpy.typing import NDArray
from safetensors.numpy import save_file

_STORED = Path(__file__).parent / "golden"
OCTO_STEP = 6
OPENVLA_7B_TENSORS = _STORED / "openvla" / "openvla_7b_state_dict.txt"
OCTO_BASE_PARAMS = _STORED / "octo" / "octo_base_params.txt"


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return name -> shape from a file with one line `name (2, 3)` per tensor."""
    lines = [re.fullmatch(r"(\S+) \((.*)\)", line) for line in path.read_text().splitlines()]
    return {line[1]: tuple(int(size) for size in line[2].split(",") if size.strip()) for line in lines if line}


def reference(model: str) -> dict[str, NDArray]:
    """Return inputs and upstream's outputs, by name. model: "openvla" or "octo"."""
    with np.load(_STORED / model / "reference.npz") as stored:
        arrays = dict(stored)
    if model == "openvla":
        return arrays | {"pixel_values": noise("pixel_values", (1, 6, 224, 224))}
    return arrays | {"image_primary": image("image_primary", (4, 2, 128, 128, 3))}


def write_openvla(folder: Path) -> None:
    """Write the folder that upstream's save_pretrained wrote, in transformers' form."""
    folder.mkdir()
    for name in ("config.json", "generation_config.json"):
        shutil.copy(_STORED / "openvla" / name, folder / name)
    save_file(_weights("openvla", "torch"), folder / "model.safetensors", metadata={"format": "pt"})
    _check_digest("openvla", folder)


def write_octo(folder: Path) -> None:
    """Write the folder that upstream's save_pretrained wrote: its weights in the form of orbax 0.4.4."""
    default = folder / str(OCTO_STEP) / "default"
    default.mkdir(parents=True)
    for name in ("config.json", "dataset_statistics.json", "example_batch.msgpack"):
        shutil.copy(_STORED / "octo" / name, folder / name)
    shutil.copytree(_STORED / "octo" / "tiny-t5", folder / "tiny-t5")
    shutil.copy(_STORED / "octo" / "_METADATA", default / "_METADATA")
    (default / "checkpoint").write_bytes(msgpack_serialize(unflatten_dict(_weights("octo", "flax"), sep="/")))
    _check_digest("octo", folder)


def _weights(model: str, layout: Layout) -> dict[str, NDArray[np.float32]]:
    return {name: weight(name, shape, layout) for name, shape in tensor_shapes(_STORED / model / "tensors.txt").items()}


def _check_digest(model: str, folder: Path) -> None:
    """Check that the drawn weights are, byte for byte, the file that upstream wrote."""
    digest, name = (_STORED / model / "checksums.txt").read_text().split()
    found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert found == digest, f"{name}: SHA-256 {found}, expected {digest}: the drawn bytes differ from upstream's"
