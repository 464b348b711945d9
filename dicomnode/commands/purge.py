"""The command that removes, or shows, what retention lets go."""

from __future__ import annotations

from typing import Annotated

import typer

from dicomnode.commands.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    admin_audit,
    console,
    open_node,
    print_json,
    table_of,
)
from dicomnode.errors import PermanentError
from dicomnode.retention import Purgeable, Retention

NO_LIMIT = 1_000_000


def purge(
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove the files of studies that are done and past their retention; housekeeping does so by itself.

    Never anything unprocessed, parked, failed or not delivered. What the database says of them stays.
    """
    settings, database = open_node(config)
    rules = settings.retention
    if rules.inputs_days is None and rules.results_days is None:
        raise PermanentError("nothing is ever purged: set retention.inputs_days or retention.results_days")
    retention = Retention(rules, database, admin_audit())
    gone = retention.due(NO_LIMIT)
    sizes = {found.study_instance_uid: found.size_bytes for found in gone}
    if not dry_run:
        while retention.purge_due():
            pass
    if as_json:
        print_json([_record(found, sizes) for found in gone])
        return
    table = table_of("Study", "Images", "Results", "MB")
    for found in gone:
        size = f"{sizes[found.study_instance_uid] / 1e6:.1f}"
        table.add_row(found.study_instance_uid, str(len(found.inputs)), str(len(found.results)), size)
    console.print(table)
    verb = "would be" if dry_run else "were"
    console.print(f"{len(gone)} studies, {sum(sizes.values()) / 1e6:.1f} MB {verb} purged")


def _record(found: Purgeable, sizes: dict[str, int]) -> dict[str, object]:
    return {
        "study_instance_uid": found.study_instance_uid,
        "inputs": len(found.inputs),
        "results": len(found.results),
        "size_bytes": sizes[found.study_instance_uid],
    }
