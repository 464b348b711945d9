"""What the simulation rests on, as docs/scale.md shows it: the costs, and the check against a real node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dicomnode.records.audit import Stage
from tests.bench.results import StageResult
from tests.scale.costs import Costs, Line, Prediction

MEASURE = "python -m tests.scale measure"
PREDICTED = """\
{0.jobs} studies at random times, one worker on the CPU, {0.utilisation:.0%} busy. The median job took \
{0.busy_job_s:.2f} s, and {0.quiet_job_s:.2f} s while studies came one at a time. Seconds:
"""
EXPLAINED = """
The second line tests the model of the queue. The predictions begin at the moments of sending and take all
else from the costs above; they miss what a busy node costs: senders, receiver, housekeeping and worker share
the cores, which the model ignores."""


def cost_lines(costs: Costs, sources: Sequence[StageResult]) -> Iterator[str]:
    """Which runs measured, and what they found."""
    measured = costs.measured
    yield from ("## What was measured", "", "| by | when | on |", "|---|---|---|")
    for one in sources:
        yield _run(one.command, one.date, one.commit, one.machine)
    yield _run(MEASURE, measured.date, measured.commit, measured.machine)
    yield from ("", "| cost | value |", "|---|---|")
    yield f"| one receiver, an image that is safe on the disk | {_ms_each(costs.receive_s, 'MB')} |"
    yield f"| database, an image and its event, of many in one transaction | {_ms(measured.record_s)} |"
    events = f"{measured.job_transactions:.0f} a job"
    yield f"| database, an event in a transaction of its own | {_ms(costs.transaction_s)}, {events} |"
    yield f"| from the last image to the job | {costs.completion_s:.2f} s |"
    for name, line in costs.job_s.items():
        network = ", by the lung model on one core" if name == Stage.SEGMENT else ""
        yield f"| job on the CPU, {name}{network} | {_ms_each(line, 'million voxels')} |"
    yield f"| from the end of a job to its delivery | {costs.delivery_s:.2f} s |"
    yield f"| results of a job | {_kb_each_image(measured.result_bytes)} of the series |"
    rows = measured.rows
    yield f"| rows of a study with one job | {rows.fixed:.0f} + {rows.each:.1f} for each image |"
    yield f"| database of such a study | {_kb_each_image(measured.database_bytes)} |"
    yield ""


def check_lines(prediction: Prediction | None) -> Iterator[str]:
    """What the real node did, beside what was said of it."""
    yield from ("## The simulation beside the real node", "")
    if prediction is None:
        yield "Not run yet: `python -m tests.scale check --write`."
        return
    yield f"`{prediction.command}`, {prediction.date}, commit {prediction.commit}; {prediction.machine}."
    yield from ("", PREDICTED.format(prediction), "| | 50th | 95th | 99th percentile |", "|---|---|---|---|")
    for name, values in (
        ("a job's wait for the worker, really", prediction.real_s),
        ("simulated, each job as long as it really was", prediction.simulated_s),
        ("predicted, each job as long as on the quiet node", prediction.predicted_s),
        ("from sending to the last delivery, really", prediction.real_total_s),
        ("predicted", prediction.predicted_total_s),
    ):
        yield f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |"
    yield EXPLAINED


def _run(command: str, date: str, commit: str, machine: str) -> str:
    return f"| `{command}` | {date}, commit {commit} | {machine} |"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def _ms_each(line: Line, unit: str) -> str:
    return f"{_ms(line.fixed)} + {_ms(line.each)} for each {unit}"


def _kb_each_image(line: Line) -> str:
    return f"{line.fixed / 1e3:.0f} + {line.each / 1e3:.1f} kB for each image"
