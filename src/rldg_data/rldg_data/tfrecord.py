"""TFRecord files and tf.train.Example without TensorFlow.

TFRecord (tensorflow/core/lib/io/record_writer.h): uint64 length, masked CRC-32C of the length, payload,
masked CRC-32C of the payload, all little endian. Example (tensorflow/core/example/{example,feature}.proto):
map<string, Feature>, a Feature being one of bytes_list (1), float_list (2), int64_list (3), numbers packed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError

Feature = Sequence[bytes] | NDArray[np.float32] | NDArray[np.int64]
"""One feature: bytes list, float list or int64 list (one-dimensional)."""

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_LENGTH_DELIMITED = 2
_BYTES, _FLOAT, _INT64 = 1, 2, 3


def masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and offset so that a CRC of data that holds CRCs stays well distributed."""
    crc = int(google_crc32c.value(data))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def write_record(stream: BinaryIO, payload: bytes) -> int:
    """Append one record and return its size in the file [bytes]."""
    length = struct.pack("<Q", len(payload))
    stream.write(b"".join([length, _CRC.pack(masked_crc(length)), payload, _CRC.pack(masked_crc(payload))]))
    return len(payload) + 16


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the payloads of a file. Raises UserError naming it when it is truncated or a CRC differs."""
    try:
        with path.open("rb") as stream:
            while header := stream.read(12):
                yield _read_payload(stream, header, path)
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error


def _read_payload(stream: BinaryIO, header: bytes, path: Path) -> bytes:
    if len(header) < 12:
        raise UserError(f"{path}: truncated: a record header is cut off")
    length, crc = _HEADER.unpack(header)
    if crc != masked_crc(header[:8]):
        raise UserError(f"{path}: corrupt or no TFRecord file: CRC of a record's length differs")
    data = stream.read(length + 4)
    if len(data) < length + 4:
        raise UserError(f"{path}: truncated: a record of {length} bytes is cut off")
    payload = data[:length]
    if _CRC.unpack(data[length:])[0] != masked_crc(payload):
        raise UserError(f"{path}: corrupt: CRC of a record differs")
    return payload


def encode_example(features: Mapping[str, Feature]) -> bytes:
    """Features -> serialised tf.train.Example; keys are sorted, so equal features give equal bytes."""
    entries = [
        _field(1, _field(1, key.encode()) + _field(2, _encode_feature(features[key]))) for key in sorted(features)
    ]
    return _field(1, b"".join(entries))


def decode_example(data: bytes) -> dict[str, Feature]:
    """Serialised tf.train.Example -> features. Raises ValueError on malformed bytes."""
    features: dict[str, Feature] = {}
    for _, map_field in _fields(memoryview(data)):
        for _, entry in _fields(map_field):
            parts = dict(_fields(entry))
            features[bytes(parts.get(1, b"")).decode()] = _decode_feature(parts.get(2, memoryview(b"")))
    return features


def _encode_feature(values: Feature) -> bytes:
    if not isinstance(values, np.ndarray):
        return _field(_BYTES, b"".join(_field(1, value) for value in values))
    if values.dtype == np.float32:
        return _field(_FLOAT, _field(1, np.ascontiguousarray(values, dtype="<f4").tobytes()))
    return _field(_INT64, _field(1, b"".join(_varint(int(v) & 0xFFFFFFFFFFFFFFFF) for v in values)))


def _decode_feature(data: memoryview) -> Feature:
    for kind, values in _fields(data):
        if kind == _BYTES:
            return [bytes(value) for _, value in _fields(values)]
        packed = b"".join(value for _, value in _fields(values))
        if kind == _FLOAT:
            return np.frombuffer(packed, dtype="<f4").astype(np.float32)
        return np.array(_varints(packed), dtype=np.uint64).astype(np.int64)
    return []


def _field(number: int, payload: bytes) -> bytes:
    return b"".join([_varint(number << 3 | _LENGTH_DELIMITED), _varint(len(payload)), payload])


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Fields of a message; Example and what it holds know length-delimited ones only."""
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        if tag & 7 != _LENGTH_DELIMITED:
            raise ValueError(f"protobuf wire type {tag & 7} in an Example")
        size, position = _read_varint(data, position)
        if position + size > len(data):
            raise ValueError("protobuf field is cut off")
        yield tag >> 3, data[position : position + size]
        position += size


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("protobuf number is cut off")


def _varints(data: bytes) -> list[int]:
    values, position = [], 0
    while position < len(data):
        value, position = _read_varint(data, position)
        values.append(value)
    return values
