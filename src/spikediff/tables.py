"""Tables for a terminal of 80 columns and for a notebook (the first row is the header); figures."""

from collections.abc import Sequence
from html import escape
from itertools import zip_longest
from textwrap import fill, wrap

from spikediff.errors import cut

Rows = Sequence[Sequence[str]]


def text_table(rows: Rows, width: int = 80) -> str:
    """Return the rows as lines: the first column left, the others right.

    A first cell that leaves no room for the others has a line of its own.

    Example:
        >>> print(text_table([["layer", "uJ"], ["head", "1.5"], ["a.long.name", "12"]], width=10))
        layer  uJ
        head  1.5
        a.long.name
               12
    """
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[1:]]
    room = width - sum(widths) - len(widths)
    fitting = [len(name) for name, *_ in rows if len(name) <= room]
    first, lines = max(fitting, default=0), []
    for name, *cells in rows:
        if len(name) > room:
            lines.append(cut(name, max(width, 16)))
            name = ""
        numbers = (f" {cell:>{size}}" for cell, size in zip(cells, widths, strict=True))
        lines.append(f"{name:<{first}}{''.join(numbers)}".rstrip())
    return "\n".join(lines)


def column_table(rows: Rows, widths: Sequence[int]) -> str:
    """Return the rows as lines, with every cell wrapped to the width of its column.

    Example:
        >>> print(column_table([["layer", "why"], ["Head", "real numbers"]], widths=(5, 7)))
        layer  why
        Head   real
               numbers
    """
    lines = []
    for row in rows:
        cells = [
            wrap(cell, width, break_on_hyphens=False)
            for cell, width in zip(row, widths, strict=True)
        ]
        for parts in zip_longest(*cells, fillvalue=""):
            padded = (f"{part:<{width}}" for part, width in zip(parts, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def html_table(rows: Rows, caption: str) -> str:
    """Return the rows as a table of HTML, which Jupyter shows.

    Example:
        >>> html_table([["layer"], ["head"]], "50 uJ")
        '<table><caption>50 uJ</caption><tr><th>layer</th></tr><tr><td>head</td></tr></table>'
    """
    header, *body = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    lines = "".join(f"<tr>{cells}</tr>" for cells in (header.replace("td>", "th>"), *body))
    return f"<table><caption>{escape(caption)}</caption>{lines}</table>"


def wrapped(*paragraphs: str, width: int = 80, indent: int = 0) -> str:
    """Return paragraphs in lines of a terminal; words, such as paths, stay whole.

    Example:
        >>> print(wrapped("  key  a value", width=10, indent=7))
          key  a
               value
    """
    return "\n".join(
        fill(
            text,
            width,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for text in paragraphs
    )


def rounded(value: float) -> float:
    """Round a result of float32 features to six digits; more depend on the number of threads."""
    return float(f"{value:.6g}")
