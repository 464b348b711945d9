"""What a backup holds: every file with its digest, so that restoring can prove that nothing was changed.

manifest.json       this
node.sqlite         the database of one moment; of PostgreSQL node.pgdump, in pg_dump's custom format
node.toml           the configuration, and profiles/ of the peers; never keys or passwords
audit-anchors.jsonl the anchors of the audit trail
spool/              images and results, below the same names as in the spool
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from dicomnode.errors import PermanentError

MANIFEST = "manifest.json"
DATABASE = "node.sqlite"
DUMP = "node.pgdump"
CONFIGURATION = "node.toml"
PROFILES = "profiles"
ANCHORS = "audit-anchors.jsonl"
SPOOL = "spool"
CHUNK_BYTES = 1 << 20


class Content(StrEnum):
    """Which files of the spool a backup holds."""

    NONE = "none"
    """Only the database: what is not finished cannot be finished after restoring."""
    UNFINISHED = "unfinished"
    """Images of studies that are not done, and results that are not delivered: the work goes on."""
    RESULTS = "results"
    """These, and every other result."""
    ALL = "all"
    """Every image and every result."""


class Manifest(BaseModel):
    """`manifest.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    made_at: AwareDatetime
    version: str
    ae_title: str
    content: Content
    spool: Path
    """Where the spool was; the database names files below it."""
    missing: tuple[str, ...]
    """Files that should be in the backup and were not on the disk."""
    files: dict[str, str]
    """SHA-256 by path in the backup."""

    @property
    def size(self) -> int:
        """Number of files."""
        return len(self.files)


def file_sha256(path: Path) -> str:
    """Digest of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(backup: Path) -> Manifest:
    """Raises PermanentError when there is none, or it is not one of ours."""
    try:
        return Manifest.model_validate_json((backup / MANIFEST).read_bytes())
    except OSError as error:
        raise PermanentError(
            f"{backup} is not a backup: {MANIFEST} cannot be read ({error.strerror})"
        ) from error
    except ValidationError as error:
        raise PermanentError(
            f"{backup / MANIFEST} is not a manifest of this kind of node: {error}"
        ) from error


def check_files(backup: Path, manifest: Manifest) -> None:
    """Raises PermanentError naming the first file that is missing, changed, or not in the manifest."""
    here = {str(path.relative_to(backup)) for path in backup.rglob("*") if not path.is_dir()}
    for name in sorted(here - set(manifest.files) - {MANIFEST}):
        raise PermanentError(f"the backup holds {name}, which its manifest does not know")
    for name, sha256 in sorted(manifest.files.items()):
        if name not in here:
            raise PermanentError(f"{name} is missing from the backup")
        path = backup / name
        if path.is_symlink() or file_sha256(path) != sha256:
            raise PermanentError(f"{name} was changed since the backup was made")
