"""Fuzzing guided by coverage: atheris changes the input towards code that no input has reached yet.

`python -m tests.fuzz.guided TARGET SECONDS SEED FOLDER` runs one target; `guide` starts it and reads what
it reports.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ATHERIS_MISSING = (
    "fuzzing guided by coverage is skipped: atheris is not installed; install it with pip install '.[fuzz]'"
)
INSTRUMENTED = ["dicomnode", "pydicom", "pynetdicom", "inference"]
EXPECTED = {"refused", "parked", "taken"}
LONGEST_CASE_S = 60
MOST_MEMORY_MB = 4096
LONGEST_INPUT_BYTES = 65536
FINDING = re.compile(r"^ === Uncaught Python exception: ===\n(.*?)\n|^(==\d+== ?ERROR: .*)$", re.M)


@dataclass(frozen=True)
class Guided:
    """What became of one target."""

    target: str
    cases: int
    coverage: tuple[int, int]
    """Edges of the code that the first input reached, and all input together."""
    corpus: int
    """Inputs that each reached something new."""
    peak_mb: int
    finding: str = ""


def guide(target: str, minutes: float, seed: int) -> Guided:
    """Run one target in a process of its own for so long, or until something is found."""
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{target}-") as folder:
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.guided",
            target,
            str(round(minutes * 60)),
            str(seed),
            folder,
        ]
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=ROOT, check=False)
    return read_report(target, ran.stderr + ran.stdout, ran.returncode)


def read_report(target: str, report: str, status: int) -> Guided:
    """What libFuzzer says at its end."""
    coverage = [int(found) for found in re.findall(r"\bcov: (\d+)", report)]
    corpus = re.findall(r"\bcorp: (\d+)", report)
    found = FINDING.search(report)
    words = next(filter(None, found.groups()), "") if found else report[-300:]
    return Guided(
        target,
        _number(report, "stat::number_of_executed_units"),
        (coverage[0], coverage[-1]) if coverage else (0, 0),
        int(corpus[-1]) if corpus else 0,
        _number(report, "stat::peak_rss_mb"),
        f"{target}: {words.strip()}" if status else "",
    )


def guided_table(runs: list[Guided]) -> str:
    """The figures of a run."""
    lines = [
        "| target | cases | edges reached at first | at the end | kept | most memory (MiB) | findings |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {run.target} | {run.cases} | {run.coverage[0]} | {run.coverage[1]} | {run.corpus} "
            f"| {run.peak_mb} | {int(bool(run.finding))} |"
            for run in runs
        ),
    ]
    return "\n".join(lines)


def _number(report: str, name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+)", report)
    return int(found[1]) if found else 0


def run(target: str, seconds: int, seed: int, folder: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS, corpus
    for number, content in enumerate(corpus(target)):
        (folder / f"first-{number:03}").write_bytes(content)
    case = TARGETS[target]

    def one(content: bytes) -> None:
        assert case(content) in EXPECTED

    options = [
        f"-max_total_time={seconds}", f"-seed={seed}", f"-timeout={LONGEST_CASE_S}",
        f"-rss_limit_mb={MOST_MEMORY_MB}", f"-max_len={LONGEST_INPUT_BYTES}", "-print_final_stats=1",
        f"-artifact_prefix={tempfile.gettempdir()}/finding-{target}-",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(folder)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
