"""The table of docs/viewers.md, written by the tests from what the viewer showed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "viewers.md"
BEGIN, END = "<!-- written by make viewers -->\n", "<!-- end -->\n"
COLUMNS = ("Result", "Segmentation", "Report of diameters", "Report of volumes")
WRITES = "WRITE_VIEWER_TABLE"
"""Environment variable with which the document is written instead of compared."""

Cells = tuple[str, str, str]


def table(rows: Mapping[str, Cells]) -> str:
    """Markdown, in the order of the situations."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *((name, *cells) for name, cells in rows.items())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def documented() -> dict[str, Cells]:
    """The rows that the document holds."""
    _, text, _ = _parts()
    rows = [tuple(line.strip("| ").split(" | ")) for line in text.splitlines()[2:]]
    return {name: (seg, diameters, volumes) for name, seg, diameters, volumes in rows}


def write(rows: Mapping[str, Cells]) -> None:
    """Put other rows into the document."""
    before, _, after = _parts()
    DOCUMENT.write_text(before + table(rows) + after, encoding="utf-8")


def is_written() -> bool:
    """Whether this run writes the document."""
    return bool(os.environ.get(WRITES))


def _parts() -> tuple[str, str, str]:
    text = DOCUMENT.read_text(encoding="utf-8")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:start], text[start:end], text[end:]
