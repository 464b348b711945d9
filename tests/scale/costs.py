"""What one image and one job cost: measured on the real node, and what could not be measured."""

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


class Costs(_Part):
    """Measured by `python -m tests.scale measure` on one machine."""

    machine: str
    date: str
    commit: str
    receive_cpu_s: float
    """Of the receiver, for one image."""
    disk_s: Line
    """To write and sync one image, by MB."""
    record_s: float
    """A transaction that records one image and its event, with its sync."""
    transaction_s: float
    """A transaction that records one event."""
    job_transactions: float
    """Events of a job, its deliveries and its study, beside those of the images."""
    job_cpu_s: dict[str, Line]
    """Stage -> seconds on the CPU, by millions of voxels of the series."""
    delivery_s: float
    """From the end of a job to its last delivery."""
    result_bytes: Line
    """Of all results of a job, by images of the series."""
    rows: Line
    """Of the database for one study, by images."""
    database_bytes: Line
    """Of the database for one study, by images."""


class Prediction(_Part):
    """A small load on the real node, and what the simulation said of it."""

    command: str
    machine: str
    date: str
    commit: str
    jobs: int
    utilisation: float
    """Of the one worker."""
    real_s: tuple[float, float, float]
    """How long jobs waited for the worker: 50th, 95th and 99th percentile."""
    simulated_s: tuple[float, float, float]
    """The same arrivals, every job as long as it was on the busy node."""
    from_quiet_s: tuple[float, float, float]
    """The same arrivals, every job as long as the median of a node that had one study at a time."""


class Known(_Part):
    """All of docs/scale.json."""

    costs: Costs | None = None
    prediction: Prediction | None = None


def read_known() -> Known:
    """What was measured so far."""
    return Known.model_validate_json(FILE.read_text("utf-8")) if FILE.exists() else Known()


def write_known(known: Known) -> None:
    """Keep it."""
    FILE.write_text(known.model_dump_json(indent=1) + "\n", "utf-8")
