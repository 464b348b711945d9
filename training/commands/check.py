"""`dicomtrain check`."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.table import Table

from training.checks import check as check_data
from training.commands.console import (
    AsJson,
    DataFolder,
    ExperimentFile,
    console,
    print_json,
    progress_bar,
)
from training.config import read_experiment
from training.datasets.catalogue import open_dataset


def check(experiment_file: ExperimentFile, data: DataFolder = None, as_json: AsJson = False) -> None:
    """Look for what ruins a study before training starts: leaks between splits, damaged or empty cases.

    Exit code 1 when there is an error; warnings are for people to judge.
    """
    experiment = read_experiment(experiment_file, data)
    source = experiment.data
    data_set = open_dataset(source.format, source.folder, source.options)
    with progress_bar() as bar:
        task = bar.add_task("cases")

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        problems = check_data(data_set, len(experiment.target.labels), progress=progress)
    if as_json:
        print_json([asdict(problem) for problem in problems])
    else:
        table = Table("severity", "case", "problem")
        for problem in problems:
            table.add_row(problem.severity, problem.case, problem.message)
        console.print(table if problems else "nothing found")
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(1)
