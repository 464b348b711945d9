"""Whether the file of a result is still what was made, byte for byte."""

from __future__ import annotations

from pathlib import Path

from dicomnode.records.tables import ResultRow
from dicomnode.spool import sha256_of


def size_of(result: ResultRow) -> int:
    """Bytes of its file; 0 where it cannot be seen."""
    try:
        return Path(result.path).stat().st_size
    except OSError:
        return 0


def damage_of(result: ResultRow) -> str | None:
    """What is wrong with the content of a result's file, and what to do; None when it is as it was made.

    None, too, for a file that cannot be read: who sends it says so, and tries again.
    """
    found = sha256_of(Path(result.path))
    if found is None or found == result.sha256:
        return None
    return (
        f"its file is damaged: SHA-256 {found[:12]}, made with {result.sha256[:12]}; "
        f"`dicomnode replay --mend {result.job_id}` makes it again and sends it"
    )
