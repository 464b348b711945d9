"""`dicomtrain fast`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from inference.bundle import read_bundle
from training.cases import of_split
from training.commands.console import BundleFolder, DataFolder, ExperimentFile, console, progress_bar
from training.config import read_experiment
from training.fast import measure, write_fast
from training.train import load, used_cases

MOST_OBSERVED = 16
"""Validation cases from which the limits of layers are taken."""


def fast(
    bundle_folder: BundleFolder,
    experiment_file: ExperimentFile,
    folder: Annotated[Path, typer.Argument(metavar="NEW_BUNDLE_DIR", help="Where the fast version goes.")],
    version: Annotated[str, typer.Option(help="Version of the fast bundle, such as 1.1.0.")],
    data: DataFolder = None,
) -> None:
    """Measure the fast mode of a bundle on the test split, and write it as a new version when it passes.

    Large convolutions then multiply numbers of 8 bits, on CPUs that can.
    """
    torch.set_num_threads(2)
    bundle = read_bundle(bundle_folder)
    data_set, cases = used_cases(read_experiment(experiment_file, data))
    seen, tested = of_split(cases, "val")[:MOST_OBSERVED], of_split(cases, "test")
    with progress_bar() as bar:
        task = bar.add_task("cases", total=len(seen) + len(tested))
        found = measure(bundle, load(data_set, seen), load(data_set, tested), lambda: bar.advance(task))
    console.print(
        f"{found.n_cases} test cases: {found.agreement:.4%} of voxels agree, "
        f"Dice {found.fast_dice:.4f} (exact: {found.exact_dice:.4f})",
        soft_wrap=True,
    )
    written = write_fast(bundle, found, version, folder)
    console.print(f"{folder} holds {written.card.name} {written.card.version}", soft_wrap=True)
