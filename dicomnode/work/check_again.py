"""Runs a past job again from the images that were kept, and compares the objects bit for bit.

Nothing is sent, and nothing stored unless somebody asks to mend files.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.encode.context import Result
from dicomnode.encode.equipment import software_version
from dicomnode.errors import PermanentError
from dicomnode.forms import DEFAULT_KINDS, ResultKind
from dicomnode.records.audit import Event
from dicomnode.records.db import Database
from dicomnode.records.instances import stored_instances
from dicomnode.records.tables import AuditRow, InstanceRow, JobRow, ResultRow
from dicomnode.spool import Spool, sha256_of
from dicomnode.study import Series, read_instance
from dicomnode.work.pipeline import Assignment, process_series
from inference.compiled import keep_compiled_in
from inference.errors import NotCompiled
from inference.registry import Registry
from inference.resident import ResidentModels


@dataclass(frozen=True)
class Compared:
    """One object of the past job, and what came out now."""

    kind: str
    sop_instance_uid: str
    sha256_then: str
    path: Path
    """Its file."""
    made: Result | None
    """None: it was not made again."""

    @property
    def sha256_now(self) -> str | None:
        """Of what was made now."""
        return None if self.made is None else self.made.sha256

    @property
    def same(self) -> bool:
        """Whether it is the same, bit for bit."""
        return self.sha256_then == self.sha256_now


@dataclass(frozen=True)
class SecondRun:
    """How a second run compares, and what could explain a difference."""

    job: JobRow
    objects: tuple[Compared, ...]
    differences: tuple[str, ...]
    """In the circumstances: software, device."""

    @property
    def same(self) -> bool:
        """Whether every object is the same."""
        return all(compared.same for compared in self.objects)


def run_again(
    database: Database, registry: Registry, job_id: int, compile_in: Path, device: str = "auto"
) -> SecondRun:
    """Run job `job_id` again and compare; where it ran compiled, compiled in `compile_in` again.

    Raises PermanentError when it has no results, its images or its model are not what they were;
    UnreadableSeries, InferenceError or ResultRejected as the job itself would.
    """
    models = ResidentModels(device)
    with database.snapshot() as session:
        job = session.get(JobRow, job_id)
        results = session.scalars(select(ResultRow).where(ResultRow.job_id == job_id)).all()
        if job is None or not results or any(result.purged_at for result in results):
            raise PermanentError(f"job {job_id} has no results, or none that are kept; see: dicomnode jobs")
        rows = _inputs(session, job)
        told = _circumstances(session, job)
    bundle = registry.get(job.model_digest)  # says what to do when it is not there
    models.load(bundle, ())
    if told.get("compiled"):
        keep_compiled_in(compile_in)
        with suppress(NotCompiled):  # then it differs from the job, which is told
            models.compile(bundle.digest)
    assignment = Assignment(
        series=_series(job, rows),
        segmenter=partial(models.segment, digest=bundle.digest),
        card=bundle.card,
        model_digest=job.model_digest,
        instance_number=results[0].instance_number,
        created_at=job.created_at.astimezone(),
        notes=tuple(job.notes["lines"]),
        kinds=DEFAULT_KINDS | {cast(ResultKind, result.kind) for result in results},
    )
    findings = process_series(assignment, lambda _: nullcontext())
    made = {str(result.dataset.SOPInstanceUID): result for result in findings.results}
    objects = (
        Compared(r.kind, r.sop_instance_uid, r.sha256, Path(r.path), made.get(r.sop_instance_uid))
        for r in results
    )
    return SecondRun(job, tuple(objects), tuple(_differences(told, models, bundle.digest)))


def mend(spool: Spool, second: SecondRun) -> tuple[str, ...]:
    """Write the files that are damaged or lost again; their SOP Instance UIDs.

    Raises PermanentError where one of them did not come out as it was, OSError when it cannot be written.
    """
    broken = [found for found in second.objects if sha256_of(found.path) != found.sha256_then]
    lost = [found.kind for found in broken if not found.same]
    if lost:
        why = "; ".join(second.differences) or "nothing is known to be different"
        raise PermanentError(
            f"job {second.job.id}: {', '.join(lost)} did not come out as made ({why}); nothing was put back"
        )
    for found in broken:
        if found.made is not None:
            spool.write(found.path, found.made.content)
    return tuple(found.sop_instance_uid for found in broken)


def _inputs(session: Session, job: JobRow) -> list[InstanceRow]:
    """The instances as they were when the job was made, whatever came later."""
    return [
        row
        for row in stored_instances(session, job.study_instance_uid, until=job.created_at)
        if row.series_instance_uid == job.series_instance_uid
    ]


def _series(job: JobRow, rows: list[InstanceRow]) -> Series:
    missing = [row for row in rows if not Path(row.path).exists()]
    if missing or not rows:
        raise PermanentError(
            f"{len(missing) or 'all'} of the images of job {job.id} are not kept any more, so it cannot run"
        )
    instances = [read_instance(Path(row.path), row.sha256) for row in rows]
    series = Series(tuple(sorted(instances, key=lambda instance: instance.sop_instance_uid)))
    if series.digest != job.input_digest:
        raise PermanentError(
            f"the images of job {job.id} are not those that it was made for (digest "
            f"{series.digest[:12]}, the job had {job.input_digest[:12]})"
        )
    return series


def _circumstances(session: Session, job: JobRow) -> dict[str, Any]:
    """What the trail says of how the job ran."""
    ended = select(AuditRow.detail).where(
        AuditRow.job_id == job.id, AuditRow.event == Event.JOB_SUCCEEDED.value
    )
    return session.scalar(ended.order_by(AuditRow.id.desc()).limit(1)) or {}


def _differences(then: dict[str, Any], models: ResidentModels, digest: str) -> list[str]:
    found, device = [], str(models.device)
    version, worker = then.get("software_version"), str(then.get("worker", ""))
    if version is None:
        found.append("the version of the software that made them is not recorded")
    elif version != software_version():
        found.append(f"made by version {version} of the software, this is {software_version()}")
    if worker and worker.split(" pid ")[0] != device:
        found.append(f"made on {worker.split(' pid ')[0]}, this ran on {device}")
    if then.get("compiled") and not models.is_compiled(digest):
        found.append("made by the network compiled, this ran it as it is")
    return found
