"""Brings a backup back to an empty place, after proving that it is what was saved."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, update

from dicomnode.backups.databases import brought_back, take_away
from dicomnode.backups.manifest import (
    ANCHORS,
    CONFIGURATION,
    DATABASE,
    MANIFEST,
    PROFILES,
    SPOOL,
    Manifest,
    check_files,
    file_sha256,
    read_manifest,
)
from dicomnode.config import load_settings
from dicomnode.errors import PermanentError, TransientError
from dicomnode.records.anchors import read_anchors
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.chain import ChainCheck, verify_chain
from dicomnode.records.db import Database, migrate
from dicomnode.records.tables import InstanceRow, ResultRow
from dicomnode.settings.node import Settings
from dicomnode.spool import Spool

LOST_AND_FOUND = "lost+found"
"""What an empty disk holds (ext4)."""


@dataclass(frozen=True)
class Restored:
    """What was brought back."""

    settings: Settings
    manifest: Manifest
    check: ChainCheck


def restore_backup(backup: Path, config: Path, data: Path | None, audit: Audit) -> Restored:
    """Write configuration and data of a backup; `data` takes the place of `node.data` in the configuration.

    Nothing is in place before all digests and the audit chain have been checked. Raises PermanentError when
    something does not hold or would be overwritten, TransientError when the disk does not take it.
    """
    manifest = read_manifest(backup)
    check_files(backup, manifest)
    if config.exists():
        raise PermanentError(f"{config} is there already; restore to another --config, or move it away")
    draft = config.with_name(f".{config.name}.{os.getpid()}.restoring.toml")
    try:
        settings = _write_configuration(backup, draft, data)
        _refuse_to_overwrite(settings)
        check = _bring_data(backup, manifest, settings, audit)
        _bring_what_is_beside(backup, settings)
        _give_to_owner(settings, draft)
        draft.rename(config)
    except OSError as error:
        raise TransientError(f"the backup cannot be restored: {error.strerror} ({error.filename})") from error
    finally:
        draft.unlink(missing_ok=True)
    return Restored(settings, manifest, check)


def _bring_data(backup: Path, manifest: Manifest, settings: Settings, audit: Audit) -> ChainCheck:
    """Fill the data folder from one inside it: it may be a disk of its own, which cannot be exchanged."""
    folder, is_new = settings.node.data, not settings.node.data.exists()
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    staged = folder / f".{os.getpid()}.restoring"
    try:
        check = _stage(backup, manifest, settings, staged, audit)
        _give_to_owner(settings, staged)
        for part in sorted(staged.iterdir(), key=lambda part: part.name == DATABASE):
            part.rename(folder / part.name)  # the database last: beside a spool alone no node begins
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it is not empty: all went well
                folder.rmdir()
    return check


def _bring_what_is_beside(backup: Path, settings: Settings) -> None:
    """Anchors and profiles, which may be outside of the data folder."""
    if (backup / ANCHORS).exists() and not settings.anchors.exists():
        shutil.copyfile(backup / ANCHORS, settings.anchors)
        _give_to_owner(settings, settings.anchors)
    if (backup / PROFILES).is_dir():
        shutil.copytree(backup / PROFILES, settings.delivery.profiles, dirs_exist_ok=True)
        _give_to_owner(settings, settings.delivery.profiles)


def _give_to_owner(settings: Settings, restored: Path) -> None:
    """What root brings back is for the user of the node, whose the data folder is."""
    if os.geteuid() == 0:
        owner = settings.node.data.stat()
        for path in (restored, *restored.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)


def _write_configuration(backup: Path, draft: Path, data: Path | None) -> Settings:
    """The configuration beside its place, with another `node.data` if there is to be one."""
    text = (backup / CONFIGURATION).read_text("utf-8")
    draft.parent.mkdir(parents=True, exist_ok=True)
    draft.touch(mode=0o640)
    draft.write_text(text, "utf-8")
    if data is not None:
        before = load_settings(draft).node.data
        quoted = f"'{data.absolute()}'"
        draft.write_text(
            re.sub(r"(?m)^(\s*data\s*=\s*)(\"[^\"\n]*\"|'[^'\n]*')", rf"\1{quoted}", text, count=1)
        )
        if load_settings(draft).node.data != data.absolute():
            raise PermanentError(
                f"node.data ({before}) could not be replaced in the configuration; do it by hand"
            )
    return load_settings(draft)


def _refuse_to_overwrite(settings: Settings) -> None:
    folder = settings.node.data
    if folder.exists() and any(path.name != LOST_AND_FOUND for path in folder.iterdir()):
        raise PermanentError(f"{folder} is not empty; restore to another --data, or move it away")


def _stage(backup: Path, manifest: Manifest, settings: Settings, staged: Path, audit: Audit) -> ChainCheck:
    """Fill a new folder, with everything pointing to where it will be."""
    staged.mkdir(mode=0o700)
    spool = Spool(staged / settings.spool.relative_to(settings.node.data))
    spool.prepare()
    if (backup / SPOOL).is_dir():
        shutil.copytree(backup / SPOOL, spool.folder, dirs_exist_ok=True)
    anchors = read_anchors(backup / ANCHORS) if (backup / ANCHORS).exists() else []
    database = brought_back(backup, settings.database_url, staged)
    try:
        migrate(database)
        with database.snapshot() as session:
            check = verify_chain(session, anchors)
        if check.faults:
            raise PermanentError(
                f"the audit trail of the backup is broken at event {check.broken_at}; take an earlier backup"
            )
        _move_paths(database, manifest.spool, settings.spool)
        with database.transaction() as session:
            audit.record(
                session,
                Event.BACKUP_RESTORED,
                Subject(),
                manifest_sha256=file_sha256(backup / MANIFEST),
                made_at=manifest.made_at.isoformat(),
                content=manifest.content.value,
            )
    except BaseException:
        take_away(database)
        raise
    finally:
        database.engine.dispose()
    return check


def _move_paths(database: Database, old: Path, new: Path) -> None:
    """The database names files by their whole paths."""
    with database.transaction() as session:
        for table in (InstanceRow, ResultRow):
            session.execute(
                update(table)
                .where(table.path.startswith(f"{old}/", autoescape=True))
                .values(path=str(new) + func.substr(table.path, len(str(old)) + 1))
            )
