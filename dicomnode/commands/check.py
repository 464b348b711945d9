"""`dicomnode check`: proves the configuration, and with `--self-test` the whole installation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.markup import escape

from dicomnode.checks.finding import Finding, Verdict
from dicomnode.checks.node import check_node
from dicomnode.commands.options import DEFAULT_CONFIG, ConfigOption, JsonOption, console, print_json
from dicomnode.config import load_settings
from dicomnode.settings.node import Settings

COLOURS = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.WRONG: "red"}


def check(
    config: ConfigOption = DEFAULT_CONFIG,
    listen: Annotated[
        float,
        typer.Option(min=0.0, help="Wait so many seconds for every peer to call; send C-ECHOs from them."),
    ] = 0.0,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test", help="Send a phantom through a temporary node and compare what comes back."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check everything the node needs: configuration, database, disk, models, clock, devices, peers.

    Exit code 1 when something is wrong.
    """
    settings = load_settings(config)
    findings = []
    if not as_json:
        console.print(f"[green]ok[/]     configuration {config}")
    for finding in _findings(settings, listen, self_test):
        findings.append(finding)
        if not as_json:
            colour, word = COLOURS[finding.verdict], f"{finding.verdict.value:6}"
            console.print(f"[{colour}]{word}[/] {escape(f'{finding.subject}: {finding.detail}')}")
    if as_json:
        print_json([vars(finding) for finding in findings])
    if any(finding.verdict is Verdict.WRONG for finding in findings):
        raise typer.Exit(1)


def _findings(settings: Settings, listen_s: float, self_test: bool) -> Iterator[Finding]:
    yield from check_node(settings, listen_s)
    if self_test:
        from dicomnode.selftest.run import self_test as run_self_test

        yield from run_self_test(settings.worker.devices[0])
