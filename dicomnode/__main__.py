"""The command `dicomnode`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer
from rich.console import Console
from rich.markup import escape

from dicomnode.commands import (
    admin,
    audit,
    audit_export,
    backup,
    check,
    explain,
    files,
    init,
    models,
    move,
    peers,
    purge,
    run,
    web,
)
from dicomnode.errors import NodeError
from inference.errors import InferenceError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Receives studies from a PACS, segments their lesions, and sends SEG and reports back.",
)

PANELS: dict[str, list[Callable[..., None]]] = {
    "Set it up": [init.init, check.check],
    "Run the node": [run.serve, run.receive, run.housekeep, run.work, web.web],
    "Look after it": [
        admin.status,
        admin.jobs,
        admin.replay,
        purge.purge,
        backup.backup,
        backup.restore,
        move.move_database,
    ],
    "Work on files": [explain.explain, files.segment, files.verify],
    "Talk to peers": [peers.echo, peers.probe, peers.send],
}
for panel, functions in PANELS.items():
    for function in functions:
        app.command(rich_help_panel=panel)(function)
audit.audit.command("export")(audit_export.audit_export)
app.add_typer(audit.audit, name="audit", rich_help_panel="Look after it")
app.add_typer(web.users, name="users", rich_help_panel="Look after it")
app.add_typer(models.models, name="models", rich_help_panel="Look after it")


def main() -> None:
    """Run a command; an expected error is one clear message and exit code 1."""
    try:
        app()
    except (NodeError, InferenceError) as error:
        Console(stderr=True, highlight=False).print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
