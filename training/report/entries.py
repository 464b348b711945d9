"""What a comparison has found so far, read back from its run folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from training.compare import FAILED, folder_of, read_result, settings_of
from training.comparison import Comparison, Job
from training.networks import CATALOGUE
from training.results import Evaluation
from training.run import RUN, read_record

Plain = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A finished job: what `test.json` and the training's record hold."""

    job: Job
    folder: Path
    stored: Plain

    @cached_property
    def evaluation(self) -> Evaluation:
        """On the test split."""
        return Evaluation.from_plain(self.stored["evaluation"])

    @cached_property
    def history(self) -> list[Plain]:
        """One entry per validation; empty for a method without steps."""
        if not (self.folder / RUN).exists():
            return []
        history: list[Plain] = read_record(self.folder)["history"]
        return history

    @property
    def title(self) -> str:
        """The network's name for people."""
        return CATALOGUE[self.job.network].title

    @property
    def cost(self) -> Plain:
        """Parameters, multiply-adds, time of the training."""
        cost: Plain = self.stored["cost"]
        return cost


@dataclass(frozen=True)
class Results:
    """Everything that there is to report."""

    comparison: Comparison
    entries: tuple[Entry, ...]
    failures: tuple[tuple[Job, str], ...]
    """Jobs that failed, with the message."""
    missing: tuple[Job, ...]
    """Jobs that have not been run, or only with other settings."""

    @property
    def tasks(self) -> list[str]:
        """Tasks with a result, in the order of the plan."""
        return list(dict.fromkeys(entry.job.task for entry in self.entries))

    def of(self, task: str, protocol: str | None = None) -> list[Entry]:
        """The entries of one task, and of one protocol where it is given."""
        return [e for e in self.entries if e.job.task == task and protocol in (None, e.job.protocol)]

    def protocols(self, task: str) -> list[str]:
        """Protocols with a result on `task`."""
        return list(dict.fromkeys(entry.job.protocol for entry in self.of(task)))


def collect(comparison: Comparison, out: Path) -> Results:
    """Read what is finished; raises RunError for a `test.json` that is none."""
    entries: list[Entry] = []
    failures: list[tuple[Job, str]] = []
    missing: list[Job] = []
    for job in comparison.jobs:
        folder = folder_of(out, job)
        stored = read_result(folder)
        if stored is not None and stored["settings"] == settings_of(job):
            entries.append(Entry(job, folder, stored))
        elif (folder / FAILED).exists():
            message = json.loads((folder / FAILED).read_text(encoding="utf-8"))["message"]
            failures.append((job, message))
        else:
            missing.append(job)
    return Results(comparison, tuple(entries), tuple(failures), tuple(missing))
