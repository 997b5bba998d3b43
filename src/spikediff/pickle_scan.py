"""What a pickle would build, counted without building it.

An unpickler computes the hash of every key. That of a tuple is computed anew each time, so that a
few hundred bytes of tuples in each other, each holding the one before it twice, never come to an
end; and the index of a memo entry alone can ask for gigabytes. Both show in the opcodes.
"""

import pickletools
import zipfile
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from spikediff.reading import MIB, open_regular

MOST_DEPTH = 64
MOST_PARTS = 4_000_000  # of an object, each reference written out
_MOST_BYTES = 256 * MIB  # of the pickle within a file of torch.save; tensors lie beside it
_LEGACY_PICKLES = 5  # a file of torch.save before the zip format: marks, the object, storage keys
_MARK = object()
_Size = tuple[int, int]  # parts, depth


def scan_torch_file(path: Path) -> None:
    """Refuse a file of `torch.save` whose pickle would build too much.

    Args:
        path: The file.

    Raises:
        ValueError: It would, or its pickle is damaged.
        UserError: The file is no regular one.
    """
    with open_regular(path) as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for entry in archive.infolist():
                    if entry.compress_type != zipfile.ZIP_STORED:
                        raise ValueError("its parts are compressed, and torch.save compresses none")
                    if entry.filename.endswith(".pkl"):
                        if entry.file_size > _MOST_BYTES:
                            raise ValueError(f"a pickle of {entry.file_size:,} bytes")
                        scan_pickle(BytesIO(archive.read(entry)))
            return
        file.seek(0)
        for _ in range(_LEGACY_PICKLES):
            scan_pickle(file)


def scan_pickle(file: IO[bytes]) -> None:
    """Refuse a pickle that would build too much; the file is left behind its end.

    Args:
        file: A file at the beginning of a pickle.

    Raises:
        ValueError: Parts lie too deeply in each other or are too many, a memo index is larger than
            any pickle needs, or the bytes are no pickle.
    """
    stack: list[Any] = []
    memo: dict[int, _Size] = {}
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if argument > count:  # the memo is numbered through
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


def _apply(opcode: Any, stack: list[Any]) -> None:
    """Replace what an opcode takes from the stack by the sizes of what it leaves there."""
    before = list(opcode.stack_before)
    parts, depth = 1, 0
    if pickletools.stackslice in before:  # down to the mark, and what stands before it
        while True:
            taken = _pop(stack)
            if taken is _MARK:
                break
            parts, depth = parts + taken[0], max(depth, taken[1])
        before = before[: before.index(pickletools.markobject)]
    elif pickletools.markobject in before:
        before = []
        while _pop(stack) is not _MARK:
            pass
    for _ in before:
        taken = _pop(stack)
        if taken is _MARK:
            raise ValueError("a mark in the place of a value")
        parts, depth = parts + taken[0], max(depth, taken[1])
    if depth >= MOST_DEPTH:
        raise ValueError(f"values lie more than {MOST_DEPTH} levels deep in each other")
    if parts > MOST_PARTS:
        raise ValueError(f"holds more than {MOST_PARTS:,} values when references are written out")
    kept = depth if opcode.name in _SAME_LEVEL else depth + 1
    stack.extend((parts, kept) for _ in opcode.stack_after)


# Opcodes that fill the container before them; it lies no deeper for that.
_SAME_LEVEL = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}


def _top(stack: list[Any]) -> Any:
    if not stack:
        raise ValueError("an empty stack")
    return stack[-1]


def _pop(stack: list[Any]) -> Any:
    if not stack:
        raise ValueError("an empty stack")
    return stack.pop()
