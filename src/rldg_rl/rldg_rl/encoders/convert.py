"""Convert upstream's `resnet10_params.pkl` to safetensors: `python -m rldg_rl.encoders.convert in.pkl out.safetensors`.

The file (release `resnet10` of github.com/rail-berkeley/serl) is a pickled dict of arrays, and unpickling a file can
run any command. The file is therefore not unpickled: `pickletools` lists its instructions without executing
them, and the interpreter below implements those that build dicts, tuples, numbers, text and arrays. A file that names
anything but the constructors of NumPy's, JAX's and flax's containers is refused; no name in it is imported or called.
"""

from __future__ import annotations

import pickletools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from rldg_core.errors import UserError
from rldg_core.files import read_bytes, write_bytes
from rldg_rl.encoders.resnet10 import check, shapes


class _UnreadableError(Exception):
    """Why a file is not read."""


@dataclass(frozen=True)
class _Name:
    """A constructor that the file names."""

    name: str


@dataclass
class _DType:
    """Kind and size such as f4, and the order of bytes."""

    code: str
    order: str = "="


@dataclass
class _Array:
    """An array that is being built."""

    value: NDArray[Any] | None = None


def _dtype(code: Any, *_: Any) -> _DType:
    return _DType(str(code))


def _array_of(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    if not isinstance(dtype, _DType) or dtype.code not in ("f2", "f4", "f8") or dtype.order not in ("<", ">", "=", "|"):
        raise _UnreadableError("an array that is not of floating-point numbers")
    if not isinstance(data, (bytes, bytearray)) or order not in ("C", "F"):
        raise _UnreadableError("an array without its bytes")
    flat = np.frombuffer(data, np.dtype(dtype.order.replace("|", "=") + dtype.code))
    return _Array(flat.reshape(shape, order=order))


def _jax_array(_: Any, __: Any, state: Any, *___: Any) -> _Array:
    return _filled(_Array(), state)


def _filled(array: _Array, state: Any) -> _Array:
    _, shape, dtype, fortran, data = state
    array.value = _array_of(data, dtype, shape, "F" if fortran else "C").value
    return array


def _encoded(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _UnreadableError(f"text encoded as {encoding!r}")
    return text.encode("latin1")


_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": lambda pairs=(): dict(pairs),
    "flax.core.frozen_dict FrozenDict": lambda value: value,
    "_codecs encode": _encoded,
    "jax._src.array _reconstruct_array": _jax_array,
    "jax._src.device_array reconstruct_device_array": _jax_array,
    "numpy dtype": _dtype,
    "numpy ndarray": lambda *_: _Array(),
    **{f"{core}.multiarray _reconstruct": lambda *_: _Array() for core in ("numpy.core", "numpy._core")},
    **{f"{core}.numeric _frombuffer": _array_of for core in ("numpy.core", "numpy._core")},
}
"""Constructors that a file may name, and the functions that replace them."""


class _Interpreter:
    """Stack and memo of one file: the instructions of protocols 2 to 5 that build data."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            self._do(opcode.name, argument)
        raise _UnreadableError("the end is missing")

    def _do(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "GLOBAL":
            stack.append(self._named(str(argument)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(self._named(f"{module} {attribute}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, constructor = stack.pop(), stack.pop()
            if not isinstance(constructor, _Name):
                raise _UnreadableError("a call of something that is no constructor")
            stack.append(_CONSTRUCTORS[constructor.name](*arguments))
        elif name == "BUILD":
            state = stack.pop()
            self._build(stack[-1], state)
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("SETITEM", "SETITEMS"):
            items: list[Any] = self._marked() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = self._marked() if name == "APPENDS" else [stack.pop()]
            stack[-1].extend(items)
        elif name not in ("PROTO", "FRAME"):
            raise _UnreadableError(f"instruction {name}")

    def _marked(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    @staticmethod
    def _named(name: str) -> _Name:
        if name not in _CONSTRUCTORS:
            raise _UnreadableError(f"it names {name.replace(' ', '.')!r}")
        return _Name(name)

    @staticmethod
    def _build(value: Any, state: Any) -> None:
        if isinstance(value, _DType):
            value.order = state[1]
        elif isinstance(value, _Array):
            _filled(value, state)
        else:
            raise _UnreadableError("state of something that is neither array nor dtype")


_VALUES = (
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}


def read_arrays(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    """Bytes of a pickled (nested) dict of arrays -> {"outer/inner": array}; executes nothing of it.

    Raises UserError `where: reason` on anything else.
    """
    try:
        return dict(_flattened(_Interpreter().run(data), ""))
    except _UnreadableError as error:
        raise UserError(f"{where}: refused: {error}") from error
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where}: not a pickled dict of arrays: {reason}") from error


def _flattened(value: Any, prefix: str) -> Iterator[tuple[str, NDArray[Any]]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flattened(inner, f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(value, _Array) and value.value is not None:
        yield prefix, value.value
    else:
        raise _UnreadableError(f"{prefix!r} is no array" if prefix else "the file is no array")


def convert(source: Path, target: Path) -> list[str]:
    """Write the backbone of `source` to `target` (safetensors); returns what was left out, such as a classifier.

    Raises UserError naming the file; nothing is written then.
    """
    try:
        data = read_bytes(source)
    except OSError as error:
        raise UserError(f"{source}: cannot read: {error.strerror}") from error
    arrays = read_arrays(data, str(source))
    outer = {name.split("/")[0] for name in shapes()}
    backbone = {name: array for name, array in arrays.items() if name.split("/")[0] in outer}
    write_bytes(target, save(check(backbone, str(source))))
    return sorted(arrays.keys() - backbone.keys())


def main() -> None:
    """Entry point."""
    if len(sys.argv) != 3:
        print("usage: python -m rldg_rl.encoders.convert resnet10_params.pkl resnet10.safetensors", file=sys.stderr)
        sys.exit(2)
    try:
        left_out = convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(f"{sys.argv[2]}: {len(shapes())} tensors" + (f", left out: {', '.join(left_out)}" if left_out else ""))


if __name__ == "__main__":
    main()
