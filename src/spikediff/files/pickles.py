"""Read plain data from untrusted pickles without running code.

CIFAR-10 and `torch.save` files are pickles, and a pickle may call any function by name.
`load_plain` accepts only containers, numbers, texts and arrays of unsigned bytes. Even numpy's
constructors are replaced by inert records, so hostile bytes never reach compiled code.
`scan_pickle` counts the objects of a pickle without building them. This is necessary because
nested tuples that each contain the previous one twice take forever to hash, and the index of a
single memo entry can demand gigabytes.
"""

import math
import pickle
import pickletools
import zipfile
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from spikediff.errors import UserError, brief
from spikediff.files.reading import GIB, MIB, MOST_DEPTH, open_regular, read_regular

_MOST_PARTS = 4_000_000  # parts of an object, with every reference expanded
_MOST_BYTES = 1 * GIB  # size of a pickle of plain data
_MOST_TORCH_BYTES = 256 * MIB  # size of the pickle in a torch.save file; tensors are separate
_LEGACY_PICKLES = 5  # in a torch.save file before the zip format: marks, object, storage keys


def load_plain(path: Path) -> object:
    """Read a pickle of plain data, written by Python 2 or 3; execute nothing.

    Returns:
        Containers, numbers and texts; uint8 arrays only as values of the outermost dictionary.
    """
    try:
        content = read_regular(path, _MOST_BYTES)
        scan_pickle(BytesIO(content))
        loaded = _PlainUnpickler(BytesIO(content), encoding="bytes").load()
        if not isinstance(loaded, dict):
            return loaded
        return {k: v.finished() if isinstance(v, _Array) else v for k, v in loaded.items()}
    except UserError as error:
        named = str(error).startswith(str(path))
        raise UserError(error if named else f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise almost any exception
        reason = brief(error)
        raise UserError(f"{path}: damaged pickle ({reason}); fetch the file again") from None


class _PlainUnpickler(pickle.Unpickler):
    """Resolves names to inert stand-ins only."""

    def find_class(self, module: str, name: str) -> Any:
        plain = module.replace("numpy._core", "numpy.core")  # renamed in numpy 2
        if (plain, name) not in _STAND_INS:
            raise UserError(
                f"refused: it names {module}.{name}, and only plain data are loaded; "
                "fetch the file from its publisher"
            )
        return _STAND_INS[(plain, name)]


class _DType:
    """Stand-in for `numpy.dtype` that records whether the type is unsigned bytes."""

    def __init__(self, code: object, *_flags: object) -> None:
        self.is_uint8 = code in ("u1", b"u1", "|u1", b"|u1", "uint8", b"uint8")

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment, which do not matter for bytes."""


class _Array:
    """Stand-in for an array under construction; `finished` builds the array."""

    def __init__(self, *_template: object) -> None:
        self.parts: tuple[object, object, object] | None = None

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _version, shape, dtype, fortran_order, content = state
        if fortran_order:
            raise ValueError("an array in Fortran order")
        self.parts = (shape, dtype, content)

    def finished(self) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """Return the array after checking that it holds unsigned bytes."""
        shape, dtype, content = self.parts or ((), None, b"")
        if not isinstance(dtype, _DType) or not dtype.is_uint8:
            raise ValueError("an array of other than unsigned bytes")
        if not isinstance(content, bytes | bytearray) or not isinstance(shape, tuple):
            raise ValueError("an array without content")
        if len(content) != math.prod(shape):
            raise ValueError(f"an array of {len(content)} bytes declared as {list(shape)}")
        return np.frombuffer(bytes(content), np.uint8).reshape(shape)


def _from_buffer(content: object, dtype: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order != "C", content))
    return array


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes spelled in {encoding}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,  # newer pickles of arrays
    ("numpy", "ndarray"): object,  # a pickle only passes it on
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,  # old protocols encode bytes with it
}


def scan_torch_file(path: Path) -> None:
    """Raise a `ValueError` for a file of `torch.save` whose pickle would build too many objects."""
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            for _ in range(_LEGACY_PICKLES):
                scan_pickle(file)
            return
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError("its parts are compressed, and torch.save compresses none")
                if entry.filename.endswith(".pkl"):
                    if entry.file_size > _MOST_TORCH_BYTES:
                        raise ValueError(f"a pickle of {entry.file_size:,} bytes")
                    scan_pickle(BytesIO(archive.read(entry)))


def scan_pickle(file: IO[bytes]) -> None:
    """Raise a `ValueError` for an excessive pickle; leave the file position after its end.

    A pickle is excessive if its values are too many or nested too deeply, or if a memo index is
    larger than any pickle needs.
    """
    stack: list[Any] = []  # pairs (values, depth), and marks
    memo: dict[int, Any] = {}
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if argument > count:  # memo entries are numbered consecutively
                raise ValueError(f"memo index {argument} in opcode {count}")
            memo[argument] = _top(stack)
        elif name == "MEMOIZE":
            memo[len(memo)] = _top(stack)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in memo:
                raise ValueError(f"memo index {argument} is not set")
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "DUP":
            stack.append(_top(stack))
        else:
            _apply(opcode, stack)


def _top(stack: list[Any]) -> Any:
    if not stack:
        raise ValueError("an empty stack")
    return stack[-1]


def _apply(opcode: Any, stack: list[Any]) -> None:
    """Replace the stack entries that an opcode takes by the sizes of those it leaves."""

    def pop() -> Any:
        taken = _top(stack)
        del stack[-1]
        return taken

    entries: list[tuple[int, int]] = []
    before = list(opcode.stack_before)
    if pickletools.stackslice in before:  # down to the mark, and what stands before it
        while (taken := pop()) is not _MARK:
            entries.append(taken)
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        taken = pop()
        if taken is _MARK:
            raise ValueError("a mark in the place of a value")
        entries.append(taken)
    parts = 1 + sum(parts for parts, _ in entries)
    depths = [1 + depth for _, depth in entries]
    if opcode.name in _FILLING:
        depths[-1] -= 1
    depth = max(depths, default=1)
    if opcode.stack_after and depth > MOST_DEPTH:
        raise ValueError(f"values lie more than {MOST_DEPTH} levels deep")
    if parts > _MOST_PARTS:
        raise ValueError(f"holds more than {_MOST_PARTS:,} values when references are written out")
    stack.extend((parts, depth) for _ in opcode.stack_after)


_MARK = object()
# Opcodes that fill the container that stands before what they take.
_FILLING = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
