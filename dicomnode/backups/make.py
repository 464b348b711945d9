"""Makes a backup while the node runs: anchors, then the database of one moment, then the files that it names.

Files of the spool never change once the database names them, so the two fit together.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from dicomnode.backups.databases import saved_database
from dicomnode.backups.manifest import (
    ANCHORS,
    CONFIGURATION,
    MANIFEST,
    PROFILES,
    SPOOL,
    Content,
    Manifest,
    file_sha256,
)
from dicomnode.errors import PermanentError, TransientError
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.states import DeliveryState, JobState, StudyState
from dicomnode.records.tables import DeliveryRow, InstanceRow, JobRow, ResultRow, StudyRow
from dicomnode.settings.node import Settings

PACKAGE = "pacs-lesion-node"
OPEN_STUDIES = (StudyState.RECEIVING.value, StudyState.COMPLETE.value, StudyState.PARKED.value)
OPEN_JOBS = (JobState.QUEUED.value, JobState.RUNNING.value, JobState.FAILED.value)


@dataclass(frozen=True)
class Made:
    """A finished backup."""

    folder: Path
    manifest: Manifest
    manifest_sha256: str
    size_bytes: int


def make_backup(
    settings: Settings, database: Database, audit: Audit, config: Path, target: Path, content: Content
) -> Made:
    """Write a backup into a new folder below `target`, whole or not at all, and record it.

    Raises TransientError when the disk does not take it.
    """
    made_at = utc_now()
    folder = target / f"node-{made_at:%Y%m%dT%H%M%S}Z"
    part = target / f".{folder.name}.{os.getpid()}.part"
    if folder.exists():
        raise PermanentError(f"{folder} is there already; try again in a second")
    try:
        part.mkdir(parents=True, mode=0o700)
        missing = _fill(settings, database, config, part, content)
        names = sorted(str(path.relative_to(part)) for path in part.rglob("*") if path.is_file())
        manifest = Manifest(
            made_at=made_at,
            version=version(PACKAGE),
            ae_title=settings.node.ae_title,
            content=content,
            spool=settings.spool,
            missing=tuple(missing),
            files={name: file_sha256(part / name) for name in names},
        )
        (part / MANIFEST).write_text(manifest.model_dump_json(indent=1), "utf-8")
        size_bytes = sum((part / name).stat().st_size for name in names)
        os.sync()
        part.rename(folder)
    except OSError as error:
        raise TransientError(f"the backup cannot be written to {target}: {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    made = Made(folder, manifest, file_sha256(folder / MANIFEST), size_bytes)
    with database.transaction() as session:
        audit.record(
            session,
            Event.BACKUP_MADE,
            Subject(),
            manifest_sha256=made.manifest_sha256,
            content=content.value,
            file_count=manifest.size,
            size_bytes=size_bytes,
        )
    return made


def _fill(settings: Settings, database: Database, config: Path, part: Path, content: Content) -> list[str]:
    """Everything but the manifest. Returns files that the database names and the disk does not have."""
    if settings.anchors.exists():  # first: an anchor may name nothing that the database does not hold
        shutil.copyfile(settings.anchors, part / ANCHORS)
    with saved_database(database, part) as session:
        paths = {path: None for path in _wanted(session, content)}
    shutil.copyfile(config, part / CONFIGURATION)
    if settings.delivery.profiles.is_dir():
        shutil.copytree(settings.delivery.profiles, part / PROFILES)
    missing = []
    for path in paths:
        name = str(Path(path).relative_to(settings.spool))
        to = part / SPOOL / name
        to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            shutil.copyfile(path, to)
        except FileNotFoundError:
            missing.append(name)
    return missing


def _wanted(session: Session, content: Content) -> Iterator[str]:
    """Paths of the files of the spool that belong into the backup."""
    images = select(InstanceRow.path).where(InstanceRow.purged_at.is_(None))
    results = select(ResultRow.path).where(ResultRow.purged_at.is_(None))
    open_jobs = select(JobRow.study_instance_uid).where(JobRow.state.in_(OPEN_JOBS))
    open_studies = select(StudyRow.study_instance_uid).where(
        or_(StudyRow.state.in_(OPEN_STUDIES), StudyRow.study_instance_uid.in_(open_jobs))
    )
    undelivered = select(DeliveryRow.sop_instance_uid).where(
        DeliveryRow.state != DeliveryState.DELIVERED.value
    )
    if content is not Content.ALL:
        images = images.where(InstanceRow.study_instance_uid.in_(open_studies))
    if content is Content.UNFINISHED:
        results = results.where(ResultRow.sop_instance_uid.in_(undelivered))
    if content is not Content.NONE:
        yield from session.scalars(images)
        yield from session.scalars(results)
