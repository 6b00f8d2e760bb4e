"""Weights on disk as the Hugging Face hub lays them out: model.safetensors, or shards and their index.

Both directions hold one tensor, or one shard, in memory besides the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rldg_core.errors import UserError
from rldg_core.files import check_regular, read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9

Shapes = dict[str, tuple[int, ...]]


def locate(folder: Path) -> dict[Path, list[str] | None]:
    """File -> the tensors that the index says are in it (None: no index, all of it).

    Raises UserError when there are none.
    """
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.is_file():
        return {single: None}
    if index.is_file():
        values = read_json(index)
        weight_map = values.get("weight_map") if isinstance(values, dict) else None
        if not isinstance(weight_map, dict) or not all(_plain(name) for name in weight_map.values()):
            raise UserError(f"{index}: weight_map: expected names of tensors and of files beside it")
        files: dict[Path, list[str] | None] = {}
        for name, file in weight_map.items():
            names = files.setdefault(folder / file, [])
            assert names is not None
            names.append(name)
        return files
    if (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"{folder}: holds LoRA adapters alone: merge them into their base model first")
    if list(folder.glob("pytorch_model*.bin")):
        raise UserError(f"{folder}: weights in pickle files are not read: convert them to safetensors first")
    raise UserError(f"{single}: missing, and no {INDEX_FILE} either")


def read_shapes(folder: Path) -> Shapes:
    """Name -> shape of every tensor, without reading them. Raises UserError when a file is missing or damaged."""
    shapes: Shapes = {}
    for path, listed in locate(folder).items():
        with _opened(path) as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        if listed is not None and set(listed) != set(found):
            name = min(set(listed) ^ set(found))
            raise UserError(f"{path}: does not hold what {INDEX_FILE} says, first {name}")
        shapes |= found
    return shapes


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor on the CPU), one after another. Raises UserError when a file is missing or damaged."""
    for path in locate(folder):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)


def check_shapes(where: object, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UserError with number and first name of tensors that are missing, not expected, or of another shape."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshapen = [name for name in expected if name in found and found[name] != expected[name]]
    if missing:
        raise UserError(f"{where}: {len(missing)} of {len(expected)} tensors missing, first {missing[0]}")
    if unexpected:
        raise UserError(f"{where}: {len(unexpected)} tensors unexpected, first {unexpected[0]}")
    if misshapen:
        name = misshapen[0]
        shapes = f"{name} {found[name]}, expected {expected[name]}"
        raise UserError(f"{where}: {len(misshapen)} of {len(expected)} tensors of another shape, first {shapes}")


def write_tensors(folder: Path, tensors: Iterable[tuple[str, Tensor]], shard_bytes: int = SHARD_BYTES) -> str:
    """Write into a folder that exists, in one file or in shards of at most `shard_bytes` with their index.

    Returns the dtype of the first tensor, such as "bfloat16".
    """
    shards: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    size = total = 0
    dtype = ""
    for name, tensor in tensors:
        dtype = dtype or str(tensor.dtype).removeprefix("torch.")
        bytes_ = tensor.numel() * tensor.element_size()
        if pending and size + bytes_ > shard_bytes:
            shards.append(_write_shard(folder, len(shards), pending))
            pending, size = {}, 0
        pending[name] = tensor.detach().cpu().contiguous()
        size, total = size + bytes_, total + bytes_
    shards.append(_write_shard(folder, len(shards), pending))
    if len(shards) == 1:
        (folder / _part(0)).rename(folder / SINGLE_FILE)
        return dtype
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / _part(number)).rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
    return dtype


def _write_shard(folder: Path, number: int, tensors: dict[str, Tensor]) -> list[str]:
    save_file(tensors, folder / _part(number), metadata={"format": "pt"})
    return list(tensors)


def _part(number: int) -> str:
    return f".part-{number:05d}.safetensors"


def _plain(name: object) -> bool:
    """A file's name, without a way out of the folder."""
    return isinstance(name, str) and name == Path(name).name and name not in ("", ".", "..")


def _opened(path: Path) -> safe_open:
    check_regular(path)
    try:
        return safe_open(path, framework="pt", device="cpu")  # bounded: checked above
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UserError(f"{path}: damaged: {' '.join(str(error).split())}") from error
