"""Commands that save a node and bring it back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from dicomnode.backups.make import make_backup
from dicomnode.backups.manifest import Content
from dicomnode.backups.restore import restore_backup
from dicomnode.commands.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    admin_audit,
    console,
    open_node,
    print_json,
)


def backup(
    folder: Annotated[Path, typer.Argument(help="Where the backup goes, into a new folder below this one.")],
    config: ConfigOption = DEFAULT_CONFIG,
    spool: Annotated[
        Content, typer.Option(help="Which images and results: what is needed to go on, or more.")
    ] = Content.UNFINISHED,
    as_json: JsonOption = False,
) -> None:
    """Save database, configuration, profiles, anchors and files of the spool, while the node runs.

    Keys and passwords are not saved, nor are the model bundles.
    """
    settings, database = open_node(config)
    made = make_backup(settings, database, admin_audit(), config, folder, spool)
    if as_json:
        print_json(
            {
                "folder": made.folder,
                "manifest_sha256": made.manifest_sha256,
                "file_count": made.manifest.size,
                "size_bytes": made.size_bytes,
                "missing": made.manifest.missing,
            }
        )
    else:
        size = f"{made.manifest.size} files, {made.size_bytes / 1e6:.1f} MB"
        console.print(f"written: {escape(str(made.folder))} ({size})")
        console.print(f"SHA-256 of its manifest: {made.manifest_sha256}")
        for name in made.manifest.missing:
            console.print(f"[yellow]note[/]  not on the disk any more: {escape(name)}")


def restore(
    backup: Annotated[Path, typer.Argument(help="Folder of one backup, as `dicomnode backup` wrote it.")],
    config: ConfigOption = DEFAULT_CONFIG,
    data: Annotated[
        Path | None, typer.Option(help="Data folder, instead of the one that the saved configuration names.")
    ] = None,
) -> None:
    """Bring a backup back: its configuration to the file that --config names, its data to an empty folder.

    Checks every digest and the whole audit trail first, and overwrites nothing. Stop the old node before.
    """
    restored = restore_backup(backup, config, data, admin_audit())
    console.print(
        f"restored to {escape(str(restored.settings.node.data))}: the node {restored.manifest.ae_title} of "
        f"{restored.manifest.made_at:%Y-%m-%d %H:%M:%S} UTC, {restored.check.event_count} events unbroken"
    )
    console.print(f"next: dicomnode check --config {escape(str(config))}")
