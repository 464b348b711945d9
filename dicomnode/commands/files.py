"""Commands that work on a folder of files, without a network or a database."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from dicomnode.commands.options import DEFAULT_CONFIG, ConfigOption, JsonOption, console, print_json, table_of
from dicomnode.commands.run import usable_models
from dicomnode.config import load_settings
from dicomnode.errors import NodeError, PermanentError
from dicomnode.forms import DEFAULT_KINDS, Form, ResultKind, kinds_of
from dicomnode.read.folder import FolderContent, read_folder
from dicomnode.records.audit import Stage
from dicomnode.route.exclusions import exclusion
from dicomnode.route.routing import route_study
from dicomnode.settings.node import Settings
from dicomnode.show.validators import Verdict, judge
from dicomnode.spool import is_uid
from dicomnode.study import Series
from inference.bundle import ModelBundle, ModelState
from inference.errors import InferenceError
from inference.registry import Registry

FolderArgument = Annotated[Path, typer.Argument(help="Folder with DICOM files; subfolders are read too.")]


def segment(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for the results; made when missing.")],
    config: ConfigOption = DEFAULT_CONFIG,
    model: Annotated[
        str | None,
        typer.Option(
            help="Run this model (NAME, NAME@VERSION or a digest) on every series of its modality, whatever "
            "the routes say."
        ),
    ] = None,
    form: Annotated[
        list[Form] | None,
        typer.Option(help="Make this form of the results as well, as a destination may want it. Repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the node's pipeline on files: SEG, reports, measurements as JSON, one picture per lesion.

    Needs no network and no database. Exit code 1 when a series failed.
    """
    settings = load_settings(config)
    registry = usable_models(settings)
    content = read_folder(folder)
    if model is not None:
        chosen = _series_for(_bundle(registry, settings, model), content)
    else:
        decisions = [d for study in content.studies for d in route_study(study, settings.route)]
        chosen = [
            (d.series, _bundle(registry, settings, d.route.model)) for d in decisions if d.route is not None
        ]
    if not chosen:
        raise PermanentError(f"no series in {folder} goes to a model; `dicomnode explain {folder}` says why")
    kinds = DEFAULT_KINDS | kinds_of(form or ())
    summaries = [_segment_one(series, bundle, out, kinds) for series, bundle in chosen]
    if as_json:
        print_json(summaries)
    else:
        _print_summaries(summaries)
    if any("error" in summary for summary in summaries):
        raise typer.Exit(1)


def verify(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Have installed validators judge every segmentation and report in FOLDER.

    Runs dciodvfy, DCMTK, PixelMed and dcmqi, those that are there. Exit code 1 when one finds an error,
    or when nothing could be judged.
    """
    results = {path: modality for path in sorted(folder.rglob("*")) if (modality := _result_modality(path))}
    verdicts: list[Verdict] = []
    with console.status("") as status:
        for path, modality in results.items():
            status.update(f"judging {escape(path.name)}")
            verdicts += judge(path, modality)
    if as_json:
        print_json([asdict(verdict) for verdict in verdicts])
    else:
        _print_verdicts(folder, verdicts)
    states = {verdict.state for verdict in verdicts}
    if "passed" not in states or "failed" in states:
        raise typer.Exit(1)


def _result_modality(path: Path) -> str | None:
    """SEG or SR; None for any other file."""
    if not path.is_file():
        return None
    try:
        modality = str(dcmread(path, specific_tags=["Modality"]).get("Modality", ""))
    except (InvalidDicomError, OSError):
        return None
    return modality if modality in ("SEG", "SR") else None


def _print_verdicts(folder: Path, verdicts: list[Verdict]) -> None:
    if not verdicts:
        console.print(f"no segmentation or report in {escape(str(folder))}")
        return
    table = table_of("File", "Validator", "Verdict", title=f"Validators on {folder}")
    for verdict in verdicts:
        text = "\n".join((verdict.state, *verdict.complaints))
        table.add_row(escape(str(verdict.path.relative_to(folder))), verdict.validator, escape(text))
    console.print(table)


def _bundle(registry: Registry, settings: Settings, reference: str) -> ModelBundle:
    """Of several versions of a name the newest one that its card or the configuration calls live.

    What commands have promoted is in the database, which this does without.
    """
    versions = registry.versions(reference)
    states = settings.models.states
    live = [b for b in versions if states.get(reference, b.card.state) is ModelState.LIVE]
    return (live or versions or [registry.find(reference)])[-1]


def _series_for(bundle: ModelBundle, content: FolderContent) -> list[tuple[Series, ModelBundle]]:
    return [
        (series, bundle)
        for study in content.studies
        for series in study.series
        if series.modality == bundle.card.modality and exclusion(series) is None
    ]


def _segment_one(
    series: Series, bundle: ModelBundle, out: Path, kinds: frozenset[ResultKind]
) -> dict[str, Any]:
    """Process one series and write everything into its own folder below `out`."""
    from dicomnode.show.result_folder import write_results
    from dicomnode.work.pipeline import Assignment, process_series
    from inference.engine import Model
    from inference.predict import segment as segment_volume

    if not is_uid(series.series_instance_uid):  # it names the folder of the results
        raise PermanentError("a series has a malformed SeriesInstanceUID; correct it at its source")
    with console.status(f"series {series.series_instance_uid}: loading {bundle.card.name}") as status:
        seconds: dict[str, float] = {}
        try:
            model = Model(bundle)
            model.check_precision()
            assignment = Assignment(
                series=series,
                segmenter=partial(segment_volume, model=model),
                card=bundle.card,
                model_digest=bundle.digest,
                instance_number=1,
                created_at=datetime.now().astimezone().replace(microsecond=0),
                kinds=kinds,
            )
            findings = process_series(assignment, partial(_timed, seconds, status))
        except (NodeError, InferenceError) as error:
            return {"series_instance_uid": series.series_instance_uid, "error": str(error)}
        folder = out / series.series_instance_uid
        record = write_results(findings, folder)
        record |= {"model": bundle.card.name, "model_digest": bundle.digest, "stages_s": seconds}
        (folder / "measurements.json").write_text(json.dumps(record, indent=2), "utf-8")
        return {**record, "folder": str(folder)}


@contextmanager
def _timed(seconds: dict[str, float], status: Status, stage: Stage) -> Iterator[None]:
    """Show the stage that is running, and keep its seconds."""
    status.update(f"{stage.value} ...")
    started = time.monotonic()
    yield
    seconds[stage.value] = round(time.monotonic() - started, 3)


def _print_summaries(summaries: list[dict[str, Any]]) -> None:
    for summary in summaries:
        if "error" in summary:
            console.print(
                f"[red]failed[/] series {summary['series_instance_uid']}: {escape(summary['error'])}"
            )
            continue
        table = lesion_table(summary["lesions"])
        console.print(table if summary["lesions"] else "nothing found")
        console.print(f"model {summary['model']}; results in {summary['folder']}")


def lesion_table(lesions: list[dict[str, Any]]) -> Table:
    """Lesions with their main numbers, for a terminal."""
    table = table_of("No", "Finding", "Long axis", "Short axis", "Volume", "Slices", "Centre LPS (mm)")
    for lesion in lesions:
        first, last = lesion["slice_range"]
        centre = lesion["centroid_lps_mm"]
        table.add_row(
            str(lesion["number"]),
            lesion["label"] + (" (cut off by the image border)" if lesion["truncated"] else ""),
            *(_cell(lesion[name]) for name in ("long_axis", "short_axis", "volume")),
            f"{first + 1}-{last + 1}",
            ", ".join(f"{value:.1f}" for value in centre) if isinstance(centre, list) else "-",
        )
    return table


def _cell(quantity: dict[str, Any]) -> str:
    return f"{quantity['value']:.1f} {quantity['unit']}" if "value" in quantity else "-"
