"""Writes docs/defects.md: which gate catches which planted defect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dicomnode.show.validators import VALIDATORS, judge
from tests.dicomnode.encode.defects import Defect, Modality

PAGE = Path(__file__).parents[3] / "docs" / "defects.md"
OWN = "node"
HEAD = f"""# Planted defects and who notices them

Written by `make defects`, not by hand. Each defect is planted into a sound result of a CT, an MR and an
ultrasound study. `{OWN}` is the node's own check, which runs before anything is sent; the rest are
programs of others, which `dicomnode verify` runs: {", ".join(v.name for v in VALIDATORS)}. A program counts
where it finds an error in the object with the defect. A dash with a reason: that modality cannot have it.

| object | defect | CT | MR | US |
|---|---|---|---|---|
"""


def complaining(path: Path, modality: str) -> list[str]:
    """Names of the installed validators that find an error in a file."""
    return [verdict.validator for verdict in judge(path, modality) if verdict.state == "failed"]


def line(defect: Defect, gates: Sequence[Sequence[str] | str]) -> str:
    """One row: for every modality the gates that caught the defect, or why there is none to catch."""
    cells = [gate if isinstance(gate, str) else ", ".join(gate) for gate in gates]
    return f"| {defect.kind} | {defect.name} | " + " | ".join(cells) + " |"


def not_possible(defect: Defect, modality: Modality) -> str:
    """Why a modality cannot have a defect."""
    return f"- ({defect.unlike[modality]})"


def write(lines: Sequence[str], unseen: int) -> None:
    """The page, with how many defects only the node's own check caught."""
    total = (
        f"\n{unseen} of {len(lines)} defects are caught by the node's own check alone, in every modality.\n"
    )
    PAGE.write_text(HEAD + "\n".join(lines) + "\n" + total, "utf-8")


def listed() -> set[tuple[str, str]]:
    """Kind and name of every defect on the page."""
    rows = [row.split("|") for row in PAGE.read_text("utf-8").splitlines() if row.startswith("| s")]
    return {(row[1].strip(), row[2].strip()) for row in rows}
