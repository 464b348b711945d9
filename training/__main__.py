"""The command `dicomtrain`: fit, export, evaluate, scan."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from inference.bundle import read_bundle
from inference.engine import Model
from inference.errors import InferenceError
from training import train
from training.config import read_experiment
from training.data import Split, of_split, read_manifest
from training.errors import TrainingError
from training.evaluate import Evaluation, ScanResult, evaluate
from training.export import export as export_bundle
from training.export import scan as segment_scan
from training.readme import METRICS, figure

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train segmentation models, measure them, and hand them over as bundles.",
)
console = Console()
complaints = Console(stderr=True)

ExperimentFile = Annotated[Path, typer.Argument(metavar="EXPERIMENT.toml", help="The experiment file.")]
BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE_DIR", help="Folder of the model bundle.")]
DataFolder = Annotated[Path | None, typer.Option("--data", help="Data folder instead of the experiment's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def fit(
    experiment_file: ExperimentFile,
    out: Annotated[Path, typer.Option("--out", help="Run folder; a run found there is continued.")],
    data: DataFolder = None,
    accept_changes: Annotated[
        bool, typer.Option(help="Continue although schedule or loss changed; the record keeps both.")
    ] = False,
) -> None:
    """Train a network. Run it again with the same --out to continue after an interruption."""
    experiment = read_experiment(experiment_file, data)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("reading cases", total=experiment.fitting.steps)

        def report(progress: train.Progress) -> None:
            text = f"loss {progress.loss:.3f}"
            if progress.val_dice is not None:
                console.print(
                    f"step {progress.step}: {text}, validation Dice {progress.val_dice:.3f} "
                    f"(best {progress.best_dice:.3f})"
                )
            bar.update(task, completed=progress.step, description=text)

        train.fit(experiment, out, report, accept_changes)
    console.print(f"Done. Next: dicomtrain export {out} BUNDLE_DIR", soft_wrap=True)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run folder of `fit`.")],
    bundle: BundleFolder,
    experiment_file: Annotated[
        Path | None,
        typer.Option("--experiment", help="Take labels, limits and texts from this file, not from the run."),
    ] = None,
    data: DataFolder = None,
    scan: Annotated[
        list[Path] | None,
        typer.Option("--scan", help="Also measure this NAME_image.nrrd; NAME_label.nrrd is its truth."),
    ] = None,
) -> None:
    """Measure the best weights of a run on the test split and write the model bundle."""
    if experiment_file is None:
        experiment = train.experiment_of(run, data)
    else:
        experiment = read_experiment(experiment_file, data)
    torch.set_num_threads(experiment.fitting.threads)
    done = export_bundle(experiment, run, bundle, scan or [], console.print)
    console.print(evaluation_table(done.test))
    for result in done.scans:
        console.print(scan_sentence(result), soft_wrap=True)
    console.print(f"{bundle} holds {done.bundle.card.name} {done.bundle.card.version}", soft_wrap=True)


@app.command(name="evaluate")
def evaluate_command(
    bundle: BundleFolder,
    experiment_file: ExperimentFile,
    data: DataFolder = None,
    split: Annotated[Split, typer.Option(help="Which split.")] = "test",
    threshold: Annotated[float | None, typer.Option(help="Instead of the probability threshold.")] = None,
    peak: Annotated[float | None, typer.Option(help="Instead of the peak probability.")] = None,
    as_json: AsJson = False,
) -> None:
    """Dice, IoU and Hausdorff distances (mm) per case, mean and median, and lesions hit."""
    experiment = read_experiment(experiment_file, data)
    model = load_model(bundle, threshold, peak)
    cases = of_split(read_manifest(experiment.data.folder), split)
    with Progress(console=complaints, transient=True) as bar:
        task = bar.add_task(f"{split} cases", total=len(cases))
        result = evaluate(model, train.load(experiment, cases), lambda: bar.advance(task))
    if as_json:
        print_json({"summary": result.to_plain(), "cases": [asdict(case) for case in result.cases]})
    else:
        console.print(case_table(result), evaluation_table(result))


@app.command()
def scan(
    bundle: BundleFolder,
    volume: Annotated[Path, typer.Argument(metavar="VOLUME.nrrd", help="A whole scan in NRRD (LPS).")],
    mask: Annotated[Path | None, typer.Option(help="Its lesions; default: NAME_label.nrrd.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Instead of the probability threshold.")] = None,
    peak: Annotated[float | None, typer.Option(help="Instead of the peak probability.")] = None,
    as_json: AsJson = False,
) -> None:
    """Segment a whole scan the way the node does, and count hits and false findings."""
    result = segment_scan(load_model(bundle, threshold, peak), volume, mask)
    if as_json:
        print_json(asdict(result))
    else:
        console.print(scan_sentence(result), soft_wrap=True)


def load_model(folder: Path, threshold: float | None, peak: float | None) -> Model:
    """The model of a bundle, with other decision limits where they are given."""
    torch.set_num_threads(2)
    bundle = read_bundle(folder)
    changed = {"probability_threshold": threshold, "peak_probability": peak}
    how = bundle.card.postprocessing.model_copy(update={k: v for k, v in changed.items() if v is not None})
    card = bundle.card.model_copy(update={"postprocessing": how})
    return Model(type(bundle)(bundle.folder, card, bundle.network_def, bundle.digest))


def evaluation_table(result: Evaluation) -> Table:
    """Mean and median per metric."""
    plain = result.to_plain()
    table = Table(
        title=f"{plain['n_cases']} cases, {plain['n_lesions_hit']} of {plain['n_lesions']} lesions hit, "
        f"{plain['n_false_findings']} false findings"
    )
    for column in ("metric", "mean", "median", "undefined"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for key, (name, unit) in METRICS.items():
        summary = plain[key]
        table.add_row(
            name + unit, figure(summary["mean"]), figure(summary["median"]), str(summary["n_undefined"])
        )
    return table


def case_table(result: Evaluation) -> Table:
    """One line per case; a distance that does not exist is a dash."""
    table = Table("case", "Dice", "IoU", "Hausdorff mm", "HD95 mm", "hit", "false")
    for case in result.cases:
        values = asdict(case.agreement).values()
        cells = (figure(value) for value in values)
        table.add_row(case.case, *cells, f"{case.n_hit}/{case.n_lesions}", str(case.n_false))
    return table


def scan_sentence(result: ScanResult) -> str:
    """One whole scan in one line."""
    start = f"{result.scan}: {result.n_findings} findings in {result.n_slices} slices"
    if result.dice is None:
        return f"{start}; no mask, so nothing is known of their truth"
    return (
        f"{start}; {result.n_hit} of {result.n_lesions} lesions hit, {result.n_false} false; "
        f"Dice of hits {result.dice_of_hits:.3f}, of everything {result.dice:.3f}"
    )


def print_json(content: dict[str, Any]) -> None:
    """JSON on standard output, unstyled."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Entry point: errors of this project end in one message and exit code 1, without a traceback."""
    try:
        app()
    except (TrainingError, InferenceError) as error:
        complaints.print(f"[bold red]error:[/] {error}", soft_wrap=True, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        complaints.print("interrupted; `dicomtrain fit` continues from its last validation")
        sys.exit(130)


if __name__ == "__main__":
    main()
