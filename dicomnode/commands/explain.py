"""`dicomnode explain`: for files, or for a study that the node knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydicom.errors import InvalidDicomError
from rich.markup import escape
from rich.table import Table

from dicomnode.commands.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    console,
    open_database,
    print_json,
    table_of,
)
from dicomnode.config import load_settings
from dicomnode.errors import PermanentError
from dicomnode.read.folder import read_folder
from dicomnode.records.lookup import find_one
from dicomnode.route.explanation import Explanation, explain_study, latest_decisions, stored_study
from dicomnode.settings.node import RouteSettings, Settings

Routes = tuple[RouteSettings, ...]


@dataclass(frozen=True)
class _Explained:
    title: str
    series: list[Explanation]
    skipped: dict[Path, str]
    show_descriptions: bool
    """Of files that somebody has in hand; a description may hold a name, and the database is asked by all."""


def explain(
    what: Annotated[
        str,
        typer.Argument(help="Folder with DICOM files, or accession number or UID of a study that is known."),
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    other: Annotated[
        Path | None, typer.Option(help="Another configuration; says what would be different under it.")
    ] = None,
    conditions: Annotated[
        bool, typer.Option("--conditions", help="Show every condition of every route as well.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say for every series which route takes it, or which condition fails, and which series won and why.

    For a folder, the answer is that of the running node, without a database. For a known study it is also
    what was decided when the study came, and whether the configuration would decide otherwise today.
    """
    settings = load_settings(config)
    other_routes = load_settings(other).route if other else None
    if Path(what).is_dir() or what.startswith(("/", ".", "~")):
        explained = _explain_folder(Path(what), settings, other_routes)
    else:
        explained = _explain_known(what, settings, other_routes)
    if as_json:
        print_json([explanation.as_json() for explanation in explained.series])
        return
    console.print(_table(explained))
    _print_differences(explained, other)
    if conditions:
        _print_conditions(explained)
    for path, reason in explained.skipped.items():
        console.print(f"skipped {escape(path.name)}: {reason}")


def _explain_folder(folder: Path, settings: Settings, other_routes: Routes | None) -> _Explained:
    content = read_folder(folder)
    series = [e for study in content.studies for e in explain_study(study, settings.route, other_routes)]
    return _Explained(f"Routing of {folder}", series, content.skipped, show_descriptions=True)


def _explain_known(identifier: str, settings: Settings, other_routes: Routes | None) -> _Explained:
    database = open_database(settings)
    with database.snapshot() as session:
        hit = find_one(session, identifier)
        if hit.study is None:
            raise PermanentError(f"{identifier!r} was refused before it belonged to a study")
        uid = hit.study.study_instance_uid
        then = latest_decisions(session, uid)
        try:
            study = stored_study(session, uid)
        except (InvalidDicomError, OSError) as error:
            raise PermanentError(f"a stored image of study {uid} cannot be read: {error}") from error
    series = explain_study(study, settings.route, other_routes, then)
    return _Explained(f"Routing of study {uid}", series, {}, show_descriptions=False)


def _name(explanation: Explanation, show_descriptions: bool) -> str:
    number = explanation.series.header.get("SeriesNumber", "")
    description = explanation.series.description if show_descriptions else ""
    return f"{number} {description}".strip() or explanation.series.series_instance_uid


def _table(explained: _Explained) -> Table:
    table = table_of("Series", "Modality", "Images", "Route", "Why", title=explained.title)
    for explanation in explained.series:
        table.add_row(
            escape(_name(explanation, explained.show_descriptions)),
            explanation.series.modality,
            str(len(explanation.series.instances)),
            explanation.now.route or "-",
            escape(explanation.now.reason),
            style="bold yellow" if explanation.differences else None,
        )
    return table


def _print_differences(explained: _Explained, other: Path | None) -> None:
    found = False
    for explanation in explained.series:
        for difference in explanation.differences:
            found = True
            name = _name(explanation, explained.show_descriptions)
            console.print(f"[bold yellow]different[/] series {escape(name)} {escape(difference)}")
    if other and not found:
        console.print(f"{escape(str(other))} sends every series to the same place")


def _print_conditions(explained: _Explained) -> None:
    for explanation in explained.series:
        console.print(f"\nseries {escape(_name(explanation, explained.show_descriptions))}:")
        for sentence in explanation.now.condition_sentences():
            console.print(f"  {escape(sentence)}")
