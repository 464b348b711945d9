"""Whether the file of a result is still what was made, byte for byte."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dicomnode.records.tables import ResultRow


def damage_of(result: ResultRow) -> str | None:
    """What is wrong with the content of a result's file, and what to do; None when it is as it was made.

    None, too, for a file that cannot be read: who sends it says so, and tries again.
    """
    try:
        with Path(result.path).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    if found == result.sha256:
        return None
    return (
        f"its file is damaged: SHA-256 {found[:12]}, made with {result.sha256[:12]}; "
        f"put {result.path} back from a backup, then `dicomnode replay --study {result.study_instance_uid}`"
    )
