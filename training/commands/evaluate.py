"""`dicomtrain evaluate` and `dicomtrain scan`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer

from inference.bundle import read_bundle
from inference.engine import Model
from training.calibrate import with_limits
from training.cases import Split, of_split
from training.commands.console import (
    AsJson,
    BundleFolder,
    DataFolder,
    ExperimentFile,
    console,
    print_json,
    progress_bar,
)
from training.commands.tables import case_table, evaluation_table, scan_sentence
from training.config import read_experiment
from training.evaluate import evaluate as evaluate_cases
from training.evaluate import model_finder
from training.export import scan as segment_scan
from training.train import load, used_cases

Threshold = Annotated[float | None, typer.Option(help="Instead of the probability threshold.")]
Peak = Annotated[float | None, typer.Option(help="Instead of the peak probability.")]


def evaluate(
    bundle: BundleFolder,
    experiment_file: ExperimentFile,
    data: DataFolder = None,
    split: Annotated[Split, typer.Option(help="Which split.")] = "test",
    threshold: Threshold = None,
    peak: Peak = None,
    as_json: AsJson = False,
) -> None:
    """Agreement with the truth per case, mean and median with 95 % intervals, and lesions hit.

    The experiment file names the data; any one with the same labels will do, so that a model can be
    measured on another set than its own.
    """
    experiment = read_experiment(experiment_file, data)
    model = load_model(bundle, threshold, peak)
    data_set, cases = used_cases(experiment)
    chosen = of_split(cases, split)
    with progress_bar() as bar:
        task = bar.add_task(f"{split} cases", total=len(chosen))
        result = evaluate_cases(
            model_finder(model), load(data_set, chosen), model.bundle.card.labels, lambda: bar.advance(task)
        )
    if as_json:
        print_json({"figures": result.figures(), "evaluation": result.to_plain()})
    else:
        console.print(case_table(result), evaluation_table(result))


def scan(
    bundle: BundleFolder,
    volume: Annotated[Path, typer.Argument(metavar="VOLUME.nrrd", help="A whole scan in NRRD (LPS).")],
    mask: Annotated[Path | None, typer.Option(help="Its lesions; default: NAME_label.nrrd.")] = None,
    threshold: Threshold = None,
    peak: Peak = None,
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
    changed = {"probability_threshold": threshold, "peak_probability": peak}
    limits = {key: value for key, value in changed.items() if value is not None}
    return with_limits(Model(read_bundle(folder)), **limits)
