"""What a start is worth when labels are few: every start at every share of them, measured on the test split.

runs/START/share-SHARE/seed-SEED/   the run folder of the training, and
    test.json                       what decided the result, and the evaluation case by case
label_shares.json .csv .md .png     the comparison

All starts with one seed see the same training groups, and a smaller share is a part of a larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.device import best_device
from inference.engine import Model
from inference.networks.build import build_network
from training.adjust import with_values
from training.cases import digest, of_split
from training.compare import TEST, environment, read_result, write_json
from training.config import Experiment, untuned
from training.errors import ExperimentError
from training.evaluate import evaluate, model_finder
from training.results import Evaluation
from training.run import Start, best_state, digest_of, plain, read_record, take_over
from training.start import read_start
from training.train import Progress, fit, in_memory_bundle, load, used_cases

SCRATCH = "scratch"
RUNS = "runs"

Starts = Mapping[str, Start | None]
Watch = Callable[["Part", str, int, int], None]
"""Called with the part, its stage, how much of that is done, and of how much."""


@dataclass(frozen=True)
class Part:
    """One training: a start, a share of the labels, a seed."""

    start: str
    share: float
    seed: int
    experiment: Experiment

    @property
    def name(self) -> str:
        """Its name, and its folder below `runs`."""
        return f"{self.start}/share-{self.share:g}/seed-{self.seed}"


@dataclass(frozen=True)
class PartResult:
    """A part that was measured; `kept` says that it had been before."""

    part: Part
    n_groups: int
    """Training groups it learnt from,"""
    n_cases: int
    """and their cases."""
    evaluation: Evaluation
    kept: bool


def read_starts(names: Iterable[str], experiment: Experiment) -> dict[str, Start | None]:
    """Starts by their name: `scratch` (None), or the last part of a path.

    Raises ExperimentError when two have one name, RunError when one does not fit the network.
    """
    starts: dict[str, Start | None] = {}
    for name in names:
        path = Path(name)
        short = SCRATCH if name == SCRATCH else path.resolve().name
        if short in starts or (short == SCRATCH and name != SCRATCH):
            raise ExperimentError(f"two starts are named {short!r}: rename the folder {name}")
        starts[short] = None if name == SCRATCH else read_start(path)
    for start in starts.values():
        if start is not None:
            take_over(build_network(experiment.network), start)
    return starts


def plan(experiment: Experiment, starts: Starts, shares: Sequence[float], seeds: Sequence[int]) -> list[Part]:
    """Every part, the smallest share first; raises ExperimentError for a share out of 0..1."""
    return [
        Part(start, share, seed, changed)
        for seed in dict.fromkeys(seeds)
        for share in sorted(set(shares))
        for changed in [with_values(experiment, {"data": {"train_share": share}, "fitting": {"seed": seed}})]
        for start in starts
    ]


def run_parts(parts: Iterable[Part], starts: Starts, out: Path, watch: Watch) -> Iterator[PartResult]:
    """Fit and measure one part after the other; what is finished stays, what was interrupted is continued."""
    for part in parts:
        yield _run_part(part, starts[part.start], out / RUNS / part.name, watch)


def _run_part(part: Part, start: Start | None, folder: Path, watch: Watch) -> PartResult:
    data, cases = used_cases(part.experiment)
    train = of_split(cases, "train")
    decides = {
        "experiment": plain(part.experiment),
        "data_digest": digest(data, cases),
        "start_digest": None if start is None else digest_of(start.state),
    }
    size = len({case.group for case in train}), len(train)
    known = read_result(folder)
    if known is not None and known["decides"] == decides:
        return PartResult(part, *size, Evaluation.from_plain(known["evaluation"]), True)
    _fit(part, start, folder, watch)
    evaluation = _measure(part, folder, watch)
    content: dict[str, Any] = {
        "decides": decides,
        "environment": environment(part.experiment.fitting.threads),
        "seconds": read_record(folder)["seconds"],
        "evaluation": evaluation.to_plain(),
    }
    write_json(folder / TEST, content)
    return PartResult(part, *size, evaluation, False)


def _fit(part: Part, start: Start | None, folder: Path, watch: Watch) -> None:
    steps = part.experiment.fitting.steps
    watch(part, "reading cases", 0, steps)

    def report(progress: Progress) -> None:
        watch(part, f"loss {progress.loss:.3f}", progress.step, steps)

    fit(part.experiment, folder, report, start)


def _measure(part: Part, folder: Path, watch: Watch) -> Evaluation:
    experiment = part.experiment
    network = build_network(experiment.network)
    network.load_state_dict(best_state(folder))
    model = Model(in_memory_bundle(untuned(experiment)), best_device(), network)
    data, cases = used_cases(experiment)
    test = of_split(cases, "test")
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        watch(part, "test cases", done, len(test))

    return evaluate(model_finder(model), load(data, test), experiment.target.labels, tick)
