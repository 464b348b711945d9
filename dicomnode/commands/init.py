"""`dicomnode init`: a few questions, and a commented configuration that holds."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from dicomnode.commands.options import DEFAULT_CONFIG, console
from dicomnode.config import load_settings
from dicomnode.errors import ConfigurationError, PermanentError
from dicomnode.first_configuration import Answers, configuration_text
from inference.registry import find_bundles


def _not_there_yet(config: Path) -> Path:
    """Said before the first question is asked."""
    try:
        is_there = config.exists()
    except OSError as error:
        raise _unwritable(config, error) from error
    if is_there:
        raise PermanentError(f"{config} is there already; change it by hand, or name another with --config")
    return config


def init(
    config: Annotated[
        Path,
        typer.Option(
            "--config",
            "-c",
            envvar="DICOMNODE_CONFIG",
            is_eager=True,
            callback=_not_there_yet,
            help="The file to write.",
        ),
    ] = DEFAULT_CONFIG,
    ae_title: Annotated[str, typer.Option(prompt="AE title of this node")] = "LESIONNODE",
    port: Annotated[int, typer.Option(prompt="Port to listen on")] = 11112,
    data: Annotated[
        Path, typer.Option(prompt="Folder for images, results and database, on a disk with room")
    ] = Path("/var/lib/lesion-node"),
    models: Annotated[Path, typer.Option(prompt="Folder of the model bundles")] = Path("models"),
    pacs_ae_title: Annotated[str, typer.Option(prompt="AE title of the PACS")] = "PACS",
    pacs_host: Annotated[str, typer.Option(prompt="Host name or address of the PACS")] = "127.0.0.1",
    pacs_port: Annotated[int, typer.Option(prompt="Port of the PACS")] = 104,
    count_instances: Annotated[
        bool,
        typer.Option(
            "--count-instances/--no-count-instances",
            prompt="Does the PACS answer C-FIND with the number of instances of a study",
        ),
    ] = False,
) -> None:
    """Ask a few questions and write a commented configuration. Every answer can be an option, for scripts.

    Routes are made for the models that are found. Refuses to overwrite a file.
    """
    answers = Answers(ae_title, port, data, models, pacs_ae_title, pacs_host, pacs_port, count_instances)
    registry = find_bundles(config.parent / models)
    cards = [registry.versions(name)[-1].card for name in registry.names]
    _write(config, configuration_text(answers, cards))
    console.print(f"written: {escape(str(config))}, with {len(cards)} model(s)")
    if not cards:
        console.print(
            f"[yellow]note[/]  no model bundle in {escape(str(models))}: add one, and a route to it"
        )
    console.print(
        f"next: dicomnode check --config {escape(str(config))}\n"
        f"then let the PACS forward studies to {escape(ae_title)} at this machine's address, port {port}"
    )


def _write(config: Path, text: str) -> None:
    """Under its name only when it holds; an answer that does not fit is told by the check of settings."""
    draft = config.with_name(f".{config.name}.{os.getpid()}.draft.toml")
    try:
        config.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, "utf-8")
        draft.chmod(0o640)
        load_settings(draft)
        os.link(draft, config)  # unlike a rename, it never takes the place of a file
    except ConfigurationError as error:
        raise PermanentError(str(error).replace(str(draft), str(config))) from error
    except FileExistsError as error:
        raise PermanentError(f"{error.filename2 or error.filename} is there already") from error
    except OSError as error:
        raise _unwritable(config, error) from error
    finally:
        with suppress(OSError):  # its folder cannot be used: it was never there
            draft.unlink()


def _unwritable(config: Path, error: OSError) -> PermanentError:
    return PermanentError(f"{config} cannot be written ({error.strerror}); name another file with --config")
