"""Commands that talk to peers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydicom.uid import UID
from pynetdicom.sop_class import StorageCommitmentPushModel
from rich.markup import escape
from rich.progress import track

from dicomnode.commands.files import FolderArgument
from dicomnode.commands.options import DEFAULT_CONFIG, ConfigOption, JsonOption, console, print_json, table_of
from dicomnode.config import load_settings
from dicomnode.deliver import sender
from dicomnode.deliver.answers import Fate
from dicomnode.errors import PermanentError
from dicomnode.profiles import (
    NEEDS,
    SOP_CLASS_NAMES,
    Profile,
    choose_forms,
    now,
    profile_path,
    write_profile,
)
from dicomnode.read.folder import read_folder
from dicomnode.settings.node import PeerSettings, Settings

PeerArgument = Annotated[str, typer.Argument(help="Name of a peer in the configuration.")]

COMMITMENT = str(StorageCommitmentPushModel)


def echo(peer: PeerArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Send a C-ECHO to PEER."""
    settings = load_settings(config)
    found = _peer(settings, peer)
    sender.echo(settings.node.ae_title, found)
    console.print(f"{found.ae_title} answers at {found.host}:{found.port}")


def send(folder: FolderArgument, peer: PeerArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Send every DICOM file below FOLDER to PEER by C-STORE.

    Exit code 1 when one was not accepted, or a file was passed over: it is broken, or no DICOM instance.
    """
    settings = load_settings(config)
    found = _peer(settings, peer)
    content = read_folder(folder)
    paths: list[Path] = [
        instance.path for study in content.studies for series in study.series for instance in series.instances
    ]
    responses = sender.send(settings.node.ae_title, found, paths, settings.delivery.response_timeout_s)
    refused = []
    for response in track(responses, description=f"sending to {peer}", total=len(paths), console=console):
        if response.fate is not Fate.ACCEPTED:
            refused.append(response)
    for response in refused:
        console.print(f"[red]{escape(response.path.name)}[/]: {escape(response.status)}")
    for path, reason in content.skipped.items():
        console.print(f"[red]{escape(path.name)}[/]: not sent, {reason}")
    console.print(f"{len(paths) - len(refused)} of {len(paths)} accepted by {peer}")
    if refused or content.skipped:
        raise typer.Exit(1)


def probe(
    peer: PeerArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say it; write no profile.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Learn by association what PEER accepts, and write its profile: the forms in which it gets results.

    Sends no object. A running node reads the profile when it starts next; `forms` of the peer in the
    configuration goes before it. Exit code 1 when PEER accepts no form of result.
    """
    settings = load_settings(config)
    found = _peer(settings, peer)
    classes = sorted({uid for needed in NEEDS.values() for uid in needed})
    accepted = sender.accepted_syntaxes(settings.node.ae_title, found, [*classes, COMMITMENT])
    commits = accepted.pop(COMMITMENT, None) is not None
    forms = choose_forms(accepted)
    path = profile_path(settings.delivery.profiles, peer)
    if forms and not dry_run:
        if path is None:
            raise PermanentError(
                f"peer {peer!r} cannot have a profile: name it by letters, digits, - _ and ."
            )
        write_profile(path, Profile(ae_title=found.ae_title, probed_at=now(), forms=forms, accepted=accepted))
    if as_json:
        print_json({"peer": peer, "forms": forms, "accepted": accepted, "storage_commitment": commits})
    else:
        _print_probe(found, accepted)
        console.print(f"forms: {', '.join(forms) or 'none: it accepts no form of result'}")
        if commits and not found.storage_commitment:
            console.print(
                "it offers storage commitment: set storage_commitment = true once it knows this node"
            )
        if forms and not dry_run:
            console.print(f"written to {escape(str(path))}; a running node reads it when it starts next")
    if not forms:
        raise typer.Exit(1)


def _print_probe(peer: PeerSettings, accepted: dict[str, tuple[str, ...]]) -> None:
    table = table_of("Form", "SOP class", "Accepted in", title=f"What {peer.name} ({peer.ae_title}) accepts")
    for form, needed in NEEDS.items():
        for uid in needed:
            name = SOP_CLASS_NAMES.get(uid) or UID(uid).name
            syntaxes = ", ".join(UID(syntax).name for syntax in accepted.get(uid, ()))
            table.add_row(form, name, syntaxes or "-")
    console.print(table)


def _peer(settings: Settings, name: str) -> PeerSettings:
    if name not in settings.peers:
        known = ", ".join(settings.peers) or "none"
        raise PermanentError(f"no peer is called {name!r} (known: {known}); add a [[peer]]")
    return settings.peers[name]
