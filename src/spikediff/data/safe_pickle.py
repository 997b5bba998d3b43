"""Plain data out of a pickle, without running anything that the pickle names.

CIFAR-10 is published as pickles, and a pickle may name any function to be called. Here only
containers, numbers, texts and arrays of unsigned bytes exist; even numpy's own constructors are
replaced by inert records, so that hostile bytes never reach compiled code.
"""

import io
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spikediff.data.files import brief
from spikediff.errors import UserError
from spikediff.pickle_scan import scan_pickle
from spikediff.reading import GIB, read_regular

MOST_BYTES = 1 * GIB


class _ArrayType:
    """Stands for `numpy.ndarray`, which a pickle only ever passes on."""


class _DType:
    """Stands for `numpy.dtype`: remembers whether it means unsigned bytes."""

    def __init__(self, code: object, *_flags: object) -> None:
        self.is_uint8 = code in ("u1", b"u1", "|u1", b"|u1", "uint8", b"uint8")

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment: a byte has neither."""


class _Array:
    """Stands for an array under construction; `finished` makes the real one."""

    def __init__(self, *_template: object) -> None:
        self.parts: tuple[object, object, object] | None = None

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _version, shape, dtype, fortran_order, content = state
        if fortran_order:
            raise ValueError("an array in Fortran order")
        self.parts = (shape, dtype, content)

    def finished(self) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """Return the array after checking that it is one of unsigned bytes."""
        shape, dtype, content = self.parts or ((), None, b"")
        if not isinstance(dtype, _DType) or not dtype.is_uint8:
            raise ValueError("an array of other than unsigned bytes")
        if not isinstance(content, bytes | bytearray) or not isinstance(shape, tuple):
            raise ValueError("an array without content")
        if len(content) != math.prod(shape):
            raise ValueError(f"an array of {len(content)} bytes declared as {list(shape)}")
        return np.frombuffer(bytes(content), np.uint8).reshape(shape)


def _from_buffer(content: object, dtype: object, shape: object, order: object) -> _Array:
    """Stand for the constructor that newer pickles of arrays name."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order != "C", content))
    return array


def _encode(text: str, encoding: str) -> bytes:
    """Stand for `_codecs.encode`, by which old protocols spell bytes."""
    if encoding != "latin1":
        raise ValueError(f"bytes spelled in {encoding}")
    return text.encode("latin1")


@dataclass(frozen=True)
class _Row:
    """What a name in a pickle stands for."""

    modules: tuple[str, ...]
    name: str
    stand_in: Any


_ROWS = (
    _Row(("numpy.core.multiarray", "numpy._core.multiarray"), "_reconstruct", _Array),
    _Row(("numpy.core.numeric", "numpy._core.numeric"), "_frombuffer", _from_buffer),
    _Row(("numpy",), "ndarray", _ArrayType),
    _Row(("numpy",), "dtype", _DType),
    _Row(("_codecs",), "encode", _encode),
)
_STAND_INS = {(module, row.name): row.stand_in for row in _ROWS for module in row.modules}


class _PlainUnpickler(pickle.Unpickler):
    """Finds stand-ins only."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in, or refuse."""
        if (module, name) not in _STAND_INS:
            raise UserError(
                f"refused: it names {module}.{name}, and only plain data are loaded; "
                "fetch the file from its publisher"
            )
        return _STAND_INS[(module, name)]


def load_plain(path: Path) -> object:
    """Read a pickle of plain data.

    Args:
        path: the file, as written by Python 2 or 3.

    Returns:
        Containers, numbers, texts; uint8 arrays as values of the outermost dictionary.

    Raises:
        UserError: the pickle names anything else, or is damaged. Nothing was executed.
    """
    try:
        content = read_regular(path, MOST_BYTES)
        scan_pickle(io.BytesIO(content))
        loaded = _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(loaded, dict):
            return loaded
        return {key: _finished(value) for key, value in loaded.items()}
    except UserError as error:
        named = str(error).startswith(str(path))
        raise UserError(error if named else f"{path}: {error}") from None
    except Exception as error:  # damaged pickle bytes can raise nearly anything
        reason = brief(error)
        raise UserError(f"{path}: damaged pickle ({reason}); fetch the file again") from None


def _finished(value: object) -> object:
    """Turn a stand-in for an array into the array."""
    return value.finished() if isinstance(value, _Array) else value
