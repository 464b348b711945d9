"""What the name of a schema's revision tells programs that are older than it.

Two versions of the program share a database while they are exchanged one process after another, so most
migrations only add what older programs do not look at. A revision is named `NNNN`, or `NNNN_needs_MMMM` from
the first one on that programs cannot bear whose own newest revision is below MMMM. See
docs/decisions/0042-two-versions.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dicomnode.errors import ConfigurationError

_NAME = re.compile(r"(\d{4})(?:_needs_(\d{4}))?")


@dataclass(frozen=True)
class Revision:
    """One step of the schema."""

    number: int
    needs: int = 0
    """Programs that know no revision of this number or above cannot work with it."""

    @classmethod
    def named(cls, name: str) -> Revision:
        """Raises ConfigurationError for a name of another form: no program of ours gave it."""
        found = _NAME.fullmatch(name)
        if found is None:
            raise ConfigurationError(
                f"the database has a schema {name!r} that is not ours; is it this node's?"
            )
        return cls(int(found[1]), int(found[2] or 0))


def is_newer(found: str | None, own: str) -> bool:
    """Whether the schema of a database is newer than the newest one that this program knows."""
    return found is not None and Revision.named(found).number > Revision.named(own).number


def can_work_with(found: str | None, own: str) -> bool:
    """Whether a program whose newest revision is `own` can work with a database of revision `found`."""
    if not is_newer(found, own):
        return found == own
    return found is not None and Revision.named(found).needs <= Revision.named(own).number


def refuse_what_is_too_new(found: str, own: str) -> None:
    """Raises ConfigurationError when this program is too old for the database."""
    if not can_work_with(found, own):
        raise ConfigurationError(
            f"the database has schema {found}, and this program, which knows {own}, is too old for it; "
            "install the newer version again, or restore a backup from before"
        )
