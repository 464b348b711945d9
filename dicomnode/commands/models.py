"""Commands about models: what is there, what it may do, and changing that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape
from sqlalchemy.orm import Session

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
from dicomnode.models.agreement import Agreement, agreement
from dicomnode.models.life import Life
from dicomnode.records.model_tables import ModelRow
from dicomnode.records.standing import limit, missing_live, state_here
from dicomnode.settings.node import Settings
from dicomnode.show.agreement import agreement_record, agreement_sentences
from inference.bundle import ModelBundle
from inference.registry import find_bundles

models = typer.Typer(no_args_is_help=True, help="Look at models, and say what each may do here.")

ModelArgument = Annotated[str, typer.Argument(help="NAME, NAME@VERSION, or the beginning of a digest.")]
ReasonOption = Annotated[str, typer.Option(help="Why; kept in the audit trail.")]


@models.command("list")
def models_list(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """List the model bundles: name, version, modality, state here, digest."""
    settings, database = open_node(config)
    life = _life(settings)
    registry = life.registry
    with database.transaction() as session:
        life.enrol(session)
        bundles = [bundle for name in registry.names for bundle in registry.versions(name)]
        rows = [_record(session, settings, bundle) for bundle in bundles]
        missing = [sentence for name in registry.names for sentence in missing_live(session, registry, name)]
    if as_json:
        print_json(rows)
        return
    table = table_of("Name", "Version", "Modality", "State", "Digest", "Title")
    for row in rows:
        table.add_row(
            row["name"], row["version"], row["modality"], row["state"], row["digest"][:12], row["title"]
        )
    console.print(table)
    for sentence in missing:
        console.print(f"[red]missing[/] {escape(sentence)}")
    for folder, problem in registry.problems.items():
        console.print(f"[red]unusable[/] {folder.name}: {escape(problem)}")


@models.command("show")
def models_show(
    model: ModelArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """Show one model: its state and who set it, what it segments, and how good it was in tests."""
    settings, database = open_node(config)
    life = _life(settings)
    bundle = life.registry.find(model)
    with database.transaction() as session:
        life.enrol(session)
        record = _record(session, settings, bundle) | {
            "limit": limit(settings.models, bundle.card.name),
            "labels": [label.name for label in bundle.card.labels],
            "metrics": bundle.card.metrics,
            "folder": str(bundle.folder),
        }
    if as_json:
        print_json(record)
        return
    for key, value in record.items():
        console.print(f"{key.replace('_', ' ')}: {escape(str('-' if value is None else value))}")


@models.command("promote")
def models_promote(model: ModelArgument, reason: ReasonOption, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """One step up: draft or retired to shadow, shadow to live.

    What was live of the same name until then is retired, and its open jobs go to the new one.
    """
    _change(config, model, lambda life, session, bundle: life.promote(session, bundle, reason))


@models.command("demote")
def models_demote(model: ModelArgument, reason: ReasonOption, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """One step down: live to shadow (nothing is sent any more), shadow to draft."""
    _change(config, model, lambda life, session, bundle: life.demote(session, bundle, reason))


@models.command("retire")
def models_retire(model: ModelArgument, reason: ReasonOption, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """The model does nothing any more. Its open jobs end: those of a live model as failed."""
    _change(config, model, lambda life, session, bundle: life.retire(session, bundle, reason))


@models.command("rollback")
def models_rollback(
    name: Annotated[str, typer.Argument(help="Name of a model.")],
    reason: ReasonOption,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """The version of NAME that was live before serves again; the live one is retired."""
    settings, database = open_node(config)
    life = _life(settings)
    with database.transaction() as session:
        _tell(life.rollback(session, name, reason))


@models.command("compare")
def models_compare(
    live: Annotated[str, typer.Argument(help="NAME@VERSION or a digest: what was live.")],
    candidate: Annotated[str, typer.Argument(help="NAME@VERSION or a digest: what ran in shadow.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Say how CANDIDATE agrees with LIVE over the series that both have seen.

    Dice of their label maps, lesions that both or only one of them saw, their volumes, and where they
    disagree most.
    """
    settings, database = open_node(config)
    registry = _life(settings).registry
    one, other = registry.find(live), registry.find(candidate)
    with database.snapshot() as session:
        found = agreement(session, one.digest, other.digest)
    if as_json:
        print_json(agreement_record(found))
        return
    names = [f"{bundle.card.name} {bundle.card.version}" for bundle in (one, other)]
    console.print(f"{names[1]} (candidate) against {names[0]} (live)")
    for sentence in agreement_sentences(found):
        console.print(sentence)
    if found.worst:
        _print_worst(found)


def _print_worst(found: Agreement) -> None:
    table = table_of("Study", "Dice", "Live", "Candidate", "Lesions of both / live only / candidate only")
    table.title = "Where they disagree most"
    for row in found.worst:
        volumes = (row.live_volume_mm3, row.candidate_volume_mm3)
        table.add_row(
            row.study_instance_uid,
            f"{row.dice:.3f}",
            *("-" if volume is None else f"{volume / 1000:.2f} ml" for volume in volumes),
            f"{row.found_by_both} / {row.only_live} / {row.only_candidate}",
        )
    console.print(table)


def _change(
    config: ConfigOption, reference: str, change: Callable[[Life, Session, ModelBundle], ModelRow]
) -> None:
    settings, database = open_node(config)
    life = _life(settings)
    bundle = life.registry.find(reference)
    with database.transaction() as session:
        _tell(change(life, session, bundle))


def _life(settings: Settings) -> Life:
    registry = find_bundles(settings.models.folder, settings.models.trusted_digests)
    return Life(settings, registry, admin_audit())


def _tell(row: ModelRow) -> None:
    console.print(f"{row.name} {row.version} (digest {row.digest[:12]}) is {row.state}")


def _record(session: Session, settings: Settings, bundle: ModelBundle) -> dict[str, Any]:
    row = session.get_one(ModelRow, bundle.digest)
    return {
        "name": bundle.card.name,
        "version": bundle.card.version,
        "modality": bundle.card.modality,
        "state": state_here(session, settings.models, bundle),
        "digest": bundle.digest,
        "title": bundle.card.title,
        "changed_at": row.changed_at,
        "changed_by": row.changed_by,
        "reason": row.reason,
    }
