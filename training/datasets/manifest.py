"""The manifest of a data folder: a CSV file with a header and one line per image."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from training.cases import Case, Split
from training.errors import DataError

MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class Row:
    """One line of a manifest; `line` counts from 1, the header being line 1."""

    path: Path
    line: int
    values: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    def get(self, column: str) -> str:
        """The value of a column that may be absent, then empty."""
        return self.values.get(column, "")

    @property
    def where(self) -> str:
        """How error messages name this line."""
        return f"{self.path} line {self.line}"

    def split(self, column: str = "split") -> Split:
        """The split in `column`; raises DataError when it is none of the three."""
        for split in get_args(Split):
            if self[column] == split:
                found: Split = split
                return found
        raise DataError(
            f"{self.where}: split {self[column]!r} is none of {', '.join(get_args(Split))}; correct the line"
        )

    def number(self, column: str) -> float:
        """The positive number in `column`; raises DataError when it is none."""
        try:
            value = float(self[column])
        except ValueError:
            value = 0.0
        if not 0.0 < value < float("inf"):
            raise DataError(
                f"{self.where}: {column} {self[column]!r} is no positive number; correct the line"
            )
        return value


def read_manifest(folder: Path, columns: Sequence[str]) -> list[Row]:
    """The lines of `folder`/manifest.csv; every one of `columns` is there and filled in each line.

    Raises DataError when the file is missing or is no CSV file in UTF-8, lacks a column, has a line
    without one of the values, or lists nothing.
    """
    path = folder / MANIFEST
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [Row(path, reader.line_num, _filled(line)) for line in reader]
            header = reader.fieldnames or ()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give the folder that holds it") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file in UTF-8 ({error}); save it as one") from error
    missing = [column for column in columns if column not in header]
    if missing:
        raise DataError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(header) or 'none'}"
        )
    if not rows:
        raise DataError(f"{path} lists no cases")
    for row in rows:
        empty = [column for column in columns if not row[column]]
        if empty:
            raise DataError(f"{row.where} lacks {', '.join(empty)}; fill it in")
    return rows


def by_name(rows: Sequence[Row], name: Callable[[Row], str]) -> dict[str, Row]:
    """The lines under the names of their cases; raises DataError when two have one name."""
    named: dict[str, Row] = {}
    for row in rows:
        first = named.setdefault(name(row), row)
        if first is not row:
            raise DataError(f"{row.where} names the case {name(row)} as line {first.line} does; rename one")
    return named


def refuse_contradictions(folder: Path, cases: Sequence[Case]) -> None:
    """Raises DataError when a case is listed twice or a group lies in more than one split."""
    path = folder / MANIFEST
    twice = sorted(name for name, count in Counter(case.name for case in cases).items() if count > 1)
    if twice:
        raise DataError(f"{path} lists cases twice: {', '.join(twice)}; give each its own name")
    torn = torn_groups(cases)
    if torn:
        raise DataError(
            f"{path} puts groups into more than one split: {', '.join(torn)}; keep each in one, or the "
            "evaluation sees what the training saw"
        )


def torn_groups(cases: Sequence[Case]) -> list[str]:
    """The groups that lie in more than one split."""
    splits: dict[str, set[str]] = {}
    for case in cases:
        splits.setdefault(case.group, set()).add(case.split)
    return sorted(group for group, found in splits.items() if len(found) > 1)


def _filled(line: Mapping[str | None, object]) -> dict[str, str]:
    """Values without blanks around them; what a line has beyond the header is left out."""
    return {str(key): str(value or "").strip() for key, value in line.items() if key is not None}
