"""Writes the report folder.

README.md    tables, with links to the pictures
index.html   the same as one file that holds the pictures
results.csv  one line per task, protocol, network, label and metric
cases.csv    one line per case and label
pictures/    box plots, learning curves, overlays
"""

from __future__ import annotations

from pathlib import Path

from training.comparison import Comparison
from training.report.content import compose
from training.report.document import to_markdown
from training.report.entries import Results, collect
from training.report.numbers import CaseLine, Line, case_lines, lines, write_csv
from training.report.page import to_html

REPORT = "report"


def write_report(comparison: Comparison, out: Path, command: str) -> Results:
    """Report on what is finished below `out`; `command` is what made it. Returns what was found.

    Raises DataError when the cases that are shown cannot be read.
    """
    results = collect(comparison, out)
    folder = out / REPORT
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "results.csv", Line, lines(results))
    write_csv(folder / "cases.csv", CaseLine, case_lines(results))
    blocks = compose(results, folder, command)
    (folder / "README.md").write_text(to_markdown(blocks, folder), encoding="utf-8")
    (folder / "index.html").write_text(
        to_html(blocks, "Comparison of segmentation networks"), encoding="utf-8"
    )
    return results
