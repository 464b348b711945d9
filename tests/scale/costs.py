"""What one image and one job cost: from the benchmark, and from a real node where that has nothing."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

FILE = Path(__file__).parents[2] / "docs" / "scale.json"
MEGABYTE = 1e6


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Line(_Part):
    """A cost that grows with something: `fixed` of each, and `each` for each unit."""

    fixed: float
    each: float

    def of(self, units: float) -> float:
        """The cost of so many units."""
        return self.fixed + self.each * units

    @classmethod
    def through(cls, small: tuple[float, float], large: tuple[float, float]) -> Line:
        """The line through two measured points (units, cost); never negative."""
        (x1, y1), (x2, y2) = small, large
        each = max(0.0, (y2 - y1) / (x2 - x1))
        return cls(fixed=max(0.0, y1 - each * x1), each=each)


class Measured(_Part):
    """Measured by `python -m tests.scale measure`: what the benchmark does not tell."""

    machine: str
    date: str
    commit: str
    record_s: float
    """File, row and event of one tiny image, in a transaction with many others."""
    job_transactions: float
    """Events of a job, its deliveries and its study, beside those of the images."""
    segment_s: Line
    """The lung model on one core, by millions of voxels of the series."""
    result_bytes: Line
    """Of all results of a job, by images of the series."""
    rows: Line
    """Of the database for one study, by images."""
    database_bytes: Line
    """Of the database for one study, by images."""


class Costs(_Part):
    """All that the simulation asks for."""

    measured: Measured
    receive_s: Line
    """One process that takes one image and has it safe on the disk, by MB."""
    completion_s: float
    """From the last image to the job, where the sender is asked how many images there are."""
    transaction_s: float
    """One event in a transaction of its own."""
    job_s: dict[str, Line]
    """Stage -> seconds, by millions of voxels of the series."""
    delivery_s: float
    """From the end of a job to its last delivery."""


class Prediction(_Part):
    """A small load on the real node, and what the simulation said of it; 50th, 95th and 99th percentiles."""

    command: str
    machine: str
    date: str
    commit: str
    jobs: int
    utilisation: float
    """Of the one worker."""
    quiet_job_s: float
    """The median job of a node that had one study at a time."""
    busy_job_s: float
    """The median job under the load."""
    real_s: tuple[float, float, float]
    """How long jobs waited for the worker."""
    simulated_s: tuple[float, float, float]
    """The same jobs, every one as long as it was on the busy node."""
    predicted_s: tuple[float, float, float]
    """The same sending, every job as long as the quiet median, everything else by its cost."""
    real_total_s: tuple[float, float, float]
    """From the moment of sending to the last delivery."""
    predicted_total_s: tuple[float, float, float]


class Known(_Part):
    """All of docs/scale.json."""

    measured: Measured | None = None
    prediction: Prediction | None = None


def read_known() -> Known:
    """What was measured so far."""
    return Known.model_validate_json(FILE.read_text("utf-8")) if FILE.exists() else Known()


def write_known(known: Known) -> None:
    """Keep it."""
    FILE.write_text(known.model_dump_json(indent=1) + "\n", "utf-8")
