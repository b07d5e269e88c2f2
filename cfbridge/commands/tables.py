"""How is a table printed? Plain aligned columns under lower-case headings, as the `cf` CLI prints them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from egress.values import printable


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[printable(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "   ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def _width(written: str) -> int:
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in written)
    return len(written) + wide - sum(unicodedata.combining(c) != 0 for c in written)
