"""Runs a comparison: fits every network of the plan and measures it on the test split.

runs/TASK/PROTOCOL/NETWORK/   the run folder of the training (`training/run.py`), and
    test.json    settings, digest of the data, cost, and the evaluation case by case
    found.npz    the label maps that were found, in the order of the evaluation's cases
    failed.json  instead of both: why it could not be fitted or measured
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from inference.device import best_device
from inference.engine import Model
from inference.networks.build import build_network
from inference.volume import Volume
from training.calibrate import calibrate, with_postprocessing
from training.cases import digest, of_split
from training.comparison import Job
from training.config import Experiment
from training.evaluate import Finder, evaluate, model_finder
from training.handcrafted import ForestSettings, fit_forest, with_operating_point
from training.networks import count_flops, count_parameters
from training.results import Evaluation
from training.run import best_state, plain, read_record
from training.train import Progress, fit, in_memory_bundle, load, merit, used_cases

RUNS, TEST, FOUND, FAILED = "runs", "test.json", "found.npz", "failed.json"
LIBRARIES = ("torch", "monai", "numpy", "scipy", "scikit-learn", "scikit-image")
OF_FOREST = ("data", "target", "preprocessing", "postprocessing")
"""Sections of the experiment that decide what the forest finds."""

State = Literal["done", "kept", "failed"]
Watch = Callable[[str, int, int], None]
"""Called with the stage, how much of it is done, and of how much."""
Plain = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a job ended: newly measured, kept from an earlier call, or failed with a `message`."""

    job: Job
    state: State
    mean_dice: float | None = None
    """On the test split."""
    message: str = ""


@dataclass(frozen=True)
class Fitted:
    """Something that finds lesions, and what it cost."""

    find: Finder
    cost: Plain


def folder_of(out: Path, job: Job) -> Path:
    """Where the files of `job` lie."""
    return out / RUNS / job.name


def settings_of(job: Job) -> Plain:
    """Everything that decides the result of `job`, besides the data: equal settings, equal result."""
    experiment = plain(job.experiment)
    if not job.traditional:
        return experiment
    return {key: experiment[key] for key in OF_FOREST} | {
        "forest": forest_settings(job).model_dump(mode="json")
    }


def forest_settings(job: Job) -> ForestSettings:
    """The traditional method, with the seed of the comparison."""
    return ForestSettings(seed=job.experiment.fitting.seed)


def run_jobs(
    jobs: Iterable[Job], out: Path, watch: Callable[[Job, str, int, int], None]
) -> Iterator[Outcome]:
    """Run one job after the other; what is finished stays, what was interrupted is continued.

    A job that fails is recorded, and the next one follows.
    """
    digests: dict[str, str] = {}
    for job in jobs:
        yield run_job(job, out, digests, partial(watch, job))


def run_job(job: Job, out: Path, digests: dict[str, str], watch: Watch) -> Outcome:
    """Fit and measure one network; `digests` keeps the digest of the data by task."""
    folder = folder_of(out, job)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if job.task not in digests:
            digests[job.task] = digest(*used_cases(job.experiment))
        kept = read_result(folder)
        if kept is not None and _same(kept, job, digests[job.task]):
            return Outcome(job, "kept", Evaluation.from_plain(kept["evaluation"]).mean_dice())
        evaluation = _fit_and_measure(job, folder, digests[job.task], watch)
    except Exception as error:  # whatever one network dies of, the others can still be compared
        message = f"{type(error).__name__}: {error}"
        (folder / TEST).unlink(missing_ok=True)
        write_json(folder / FAILED, {"message": message})
        return Outcome(job, "failed", message=message)
    (folder / FAILED).unlink(missing_ok=True)
    return Outcome(job, "done", evaluation.mean_dice())


def read_result(folder: Path) -> Plain | None:
    """`test.json` of a job; None where there is none."""
    path = folder / TEST
    if not path.exists():
        return None
    content: Plain = json.loads(path.read_text(encoding="utf-8"))
    return content


def read_found(folder: Path, number: int) -> npt.NDArray[np.uint8]:
    """The label map (slice, row, column) that was found in the case `number` of the evaluation."""
    with np.load(folder / FOUND, allow_pickle=False) as maps:
        found: npt.NDArray[np.uint8] = maps[str(number)]
    return found


def write_json(path: Path, content: Plain) -> None:
    """The whole file or none."""
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
    unfinished.replace(path)


def _same(kept: Plain, job: Job, data_digest: str) -> bool:
    return bool(kept["settings"] == settings_of(job) and kept["data_digest"] == data_digest)


def _fit_and_measure(job: Job, folder: Path, data_digest: str, watch: Watch) -> Evaluation:
    """Write `test.json` last: where it is, everything is."""
    fitted = _fit_forest(job, watch) if job.traditional else _fit_network(job, folder, watch)
    found: list[npt.NDArray[np.uint8]] = []

    def find(volume: Volume) -> npt.NDArray[np.uint8]:
        found.append(fitted.find(volume))
        return found[-1]

    data, cases = used_cases(job.experiment)
    test = of_split(cases, "test")
    tick = _counter("test cases", len(test), watch)
    evaluation = evaluate(find, load(data, test), job.experiment.target.labels, tick)
    maps: dict[str, Any] = {str(number): values for number, values in enumerate(found)}
    np.savez_compressed(folder / FOUND, **maps)
    content = {
        "task": job.task,
        "protocol": job.protocol,
        "network": job.network,
        "settings": settings_of(job),
        "data_digest": data_digest,
        "environment": environment(job.experiment.fitting.threads),
        "cost": fitted.cost,
        "evaluation": evaluation.to_plain(),
    }
    write_json(folder / TEST, content)
    return evaluation


def _fit_network(job: Job, folder: Path, watch: Watch) -> Fitted:
    experiment = job.experiment
    steps = experiment.fitting.steps
    watch("reading cases", 0, steps)

    def report(progress: Progress) -> None:
        watch(f"loss {progress.loss:.3f}", progress.step, steps)

    fit(experiment, folder, report)
    network = build_network(experiment.network)
    network.load_state_dict(best_state(folder))
    window = experiment.preprocessing.window_size
    shape = (1, experiment.preprocessing.channels, *window)
    record = read_record(folder)
    best = max(record["history"], key=lambda entry: merit(entry, experiment.fitting.keep))
    cost = {
        "parameters": count_parameters(network),
        "multiply_adds": count_flops(network, shape),
        "window": list(window),
        "training_seconds": record["seconds"],
        "steps": record["step"],
        "best_step": best["step"],
    }
    model = Model(in_memory_bundle(experiment), best_device(), network)
    if job.protocol == "best":
        model = _at_operating_point(model, experiment, watch)
    return Fitted(model_finder(model), cost)


def _at_operating_point(model: Model, experiment: Experiment, watch: Watch) -> Model:
    """`model` with the limits that an export would choose for it on the validation cases."""
    data, cases = used_cases(experiment)
    val = list(load(data, of_split(cases, "val")))
    watch("choosing the limits on validation cases", 0, 1)
    return with_postprocessing(model, calibrate(model, val).postprocessing)


def _fit_forest(job: Job, watch: Watch) -> Fitted:
    """A forest at its operating point, with the smallest lesion of the task."""
    experiment = job.experiment
    data, cases = used_cases(experiment)
    train, val = of_split(cases, "train"), of_split(cases, "val")
    began = time.monotonic()
    forest = fit_forest(
        load(data, train),
        forest_settings(job),
        experiment.preprocessing,
        experiment.target.labels,
        _counter("training cases", len(train), watch),
    )
    forest = replace(forest, postprocessing=experiment.postprocessing)
    forest = with_operating_point(forest, load(data, val), tick=_counter("validation cases", len(val), watch))
    cost = {
        "parameters": None,
        "multiply_adds": None,
        "window": None,
        "training_seconds": time.monotonic() - began,
        "steps": None,
        "best_step": None,
    }
    return Fitted(forest.find, cost)


def _counter(stage: str, total: int, watch: Watch) -> Callable[[], None]:
    """A function that counts its calls for `watch`."""
    done = 0
    watch(stage, 0, total)

    def tick() -> None:
        nonlocal done
        done += 1
        watch(stage, done, total)

    return tick


def environment(threads: int) -> Plain:
    """What else a result depends on: device, library versions, commit of the code."""
    on_gpu = best_device().type == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else f"CPU ({platform.machine()}), threads: {threads}"
    libraries = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    return {"device": device, "libraries": libraries, "commit": commit()}


def commit() -> str | None:
    """The commit of this code, with `-dirty` where files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
