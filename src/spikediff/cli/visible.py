"""What a command prints: names from files are shown, and not obeyed by the terminal."""

import re
from typing import Any, TextIO

from spikediff.at_work import Heard
from spikediff.errors import visible

_COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")  # tyro's, in the help text on a terminal


class Visible:
    """A text file whose control characters are written as escapes, and what it cannot encode too.

    Args:
        file: Where the text goes.
    """

    def __init__(self, file: TextIO | Heard) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write a text; line breaks, tabs and, on a terminal, colours stay."""
        parts = _COLOURS.split(text) if self._file.isatty() else [text]
        shown = "".join(p if i % 2 else visible(p) for i, p in enumerate(parts))
        try:
            self._file.write(shown)
        except UnicodeEncodeError:
            encoding = self._file.encoding or "ascii"
            self._file.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
