"""A document in blocks, so that Markdown and HTML say the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Heading:
    """`level` 1 is the title of the document."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """One paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines to be typed."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the line."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A PNG file; `text` says what it shows to those who cannot see it."""

    path: Path
    text: str


Block = Heading | Text | Code | Table | Picture


def to_markdown(blocks: list[Block], folder: Path) -> str:
    """The document as Markdown; pictures are linked relative to `folder`."""
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Code(text):
            return f"```\n{text}\n```"
        case Picture(path, text):
            return f"![{text}]({path.relative_to(folder).as_posix()})"
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    rule = tuple("---" if number == 0 else "---:" for number in range(len(table.columns)))
    lines = [_line(table.columns), _line(rule), *map(_line, table.rows)]
    return f"**{table.caption}**\n\n" + "\n".join(lines)


def _line(cells: tuple[str, ...]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"
