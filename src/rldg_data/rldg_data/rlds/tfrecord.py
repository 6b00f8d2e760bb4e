"""TFRecord files and tf.train.Example without TensorFlow.

TFRecord (tensorflow/core/lib/io/record_writer.h): uint64 length, masked CRC-32C of the length, payload,
masked CRC-32C of the payload, all little endian. Example (tensorflow/core/example/{example,feature}.proto):
map<string, Feature>, a Feature being one of bytes_list (1), float_list (2), int64_list (3), numbers packed.

A payload is written in parts, so that images of an episode are never copied.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.files import open_regular

Feature = Sequence[bytes] | NDArray[np.float32] | NDArray[np.int64]
"""One feature: bytes list, float list or int64 list (one-dimensional)."""

RECORD_OVERHEAD_BYTES = 16
"""Overhead of a record in the file."""

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_LENGTH_DELIMITED = 2
_BYTES, _FLOAT, _INT64 = 1, 2, 3
_JOINED_BYTES = 1 << 16
"""Smaller features are joined into one part, which is faster than many parts."""
_ONE_BYTE = 0x80
"""Smaller numbers are varints of one byte."""


def masked_crc(*parts: bytes) -> int:
    """CRC-32C, rotated and offset so that a CRC of data that holds CRCs stays well distributed."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def write_record(stream: BinaryIO, *payload: bytes) -> int:
    """Append one record, its payload given in parts, and return the payload's masked CRC."""
    length = struct.pack("<Q", sum(map(len, payload)))
    crc = masked_crc(*payload)
    stream.write(length + _CRC.pack(masked_crc(length)))
    stream.writelines(payload)
    stream.write(_CRC.pack(crc))
    return crc


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the payloads of a file. Raises UserError naming it when it is truncated or a CRC differs."""
    try:
        with open_regular(path) as stream:
            left = os.fstat(stream.fileno()).st_size
            while header := stream.read(_HEADER.size):
                payload = _read_payload(stream, header, left, path)
                left -= len(payload) + RECORD_OVERHEAD_BYTES
                yield payload
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error


def _read_payload(stream: BinaryIO, header: bytes, left: int, path: Path) -> bytes:
    """left: bytes from the header to the end of the file; a length beyond it is never allocated."""
    if len(header) < _HEADER.size:
        raise UserError(f"{path}: truncated: a record header is truncated")
    length, crc = _HEADER.unpack(header)
    if crc != masked_crc(header[:8]):
        raise UserError(f"{path}: corrupt or not a TFRecord file: CRC of a record's length differs")
    if length + RECORD_OVERHEAD_BYTES > left:
        raise UserError(f"{path}: truncated: a record of {length} bytes is truncated")
    payload = stream.read(length)
    if stream.read(_CRC.size) != _CRC.pack(masked_crc(payload)):
        raise UserError(f"{path}: corrupt: CRC of a record differs")
    return payload


def encode_example(features: Mapping[str, Feature]) -> list[bytes]:
    """Features -> parts of a serialised tf.train.Example; keys are sorted, so equal features give equal bytes."""
    entries: list[bytes] = []
    for key in sorted(features):
        entries += _nested(1, [_field(1, key.encode()), *_nested(2, _feature_parts(features[key]))])
    return _nested(1, entries)


def decode_example(data: bytes) -> dict[str, Feature]:
    """Serialised tf.train.Example -> features. Raises ValueError on malformed bytes."""
    features: dict[str, Feature] = {}
    for _, map_field in _fields(memoryview(data)):
        for _, entry in _fields(map_field):
            parts = dict(_fields(entry))
            features[bytes(parts.get(1, b"")).decode()] = _decode_feature(parts.get(2, memoryview(b"")))
    return features


def _feature_parts(values: Feature) -> list[bytes]:
    if not isinstance(values, np.ndarray):
        parts = [part for value in values for part in (_head(1, len(value)), value)]
        small = sum(map(len, parts)) < _JOINED_BYTES
        return _nested(_BYTES, [b"".join(parts)] if small else parts)
    if values.dtype == np.float32:
        return _nested(_FLOAT, [_field(1, np.ascontiguousarray(values, dtype="<f4").tobytes())])
    return _nested(_INT64, [_field(1, _varints(values.astype(np.int64, copy=False)))])


def _decode_feature(data: memoryview) -> Feature:
    for kind, values in _fields(data):
        if kind == _BYTES:
            return [bytes(value) for _, value in _fields(values)]
        packed = b"".join(value for _, value in _fields(values))
        if kind == _FLOAT:
            return np.frombuffer(packed, dtype="<f4").astype(np.float32)
        if kind == _INT64:
            return _read_varints(packed)
        raise ValueError(f"a feature of kind {kind}")
    return []


@lru_cache(maxsize=1 << 14)
def _head(number: int, size: int) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(size)


def _field(number: int, payload: bytes) -> bytes:
    return _head(number, len(payload)) + payload


def _nested(number: int, parts: list[bytes]) -> list[bytes]:
    """A field whose payload is these parts."""
    return [_head(number, sum(map(len, parts))), *parts]


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Fields of a message; Example and what it holds know length-delimited ones only."""
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        if tag & 7 != _LENGTH_DELIMITED:
            raise ValueError(f"protobuf wire type {tag & 7} in an Example")
        size, position = _read_varint(data, position)
        if position + size > len(data):
            raise ValueError("protobuf field is truncated")
        yield tag >> 3, data[position : position + size]
        position += size


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= _ONE_BYTE:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < _ONE_BYTE:
            return value, position
        shift += 7
    raise ValueError("protobuf number is truncated")


def _varints(values: NDArray[np.int64]) -> bytes:
    if ((values >= 0) & (values < _ONE_BYTE)).all():
        return values.astype(np.uint8).tobytes()
    return b"".join(_varint(int(value) & 0xFFFFFFFFFFFFFFFF) for value in values)


def _read_varints(data: bytes) -> NDArray[np.int64]:
    if data.isascii():
        return np.frombuffer(data, dtype=np.uint8).astype(np.int64)
    values, position = [], 0
    while position < len(data):
        value, position = _read_varint(data, position)
        values.append(value & 0xFFFFFFFFFFFFFFFF)
    return np.array(values, dtype=np.uint64).astype(np.int64)
