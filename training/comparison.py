"""The plan file of a comparison: tasks x protocols x networks, all under one budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from training.config import Experiment, Strict, complaint, read_toml, to_experiment, untuned
from training.errors import ExperimentError
from training.networks import CATALOGUE
from training.protocols import Protocol

Content = dict[str, Any]
CARRIER = "fcn"
"""An experiment must hold some network; one without a network carries this one, and nothing reads it."""


class Budget(Strict):
    """What every network of the comparison may spend."""

    steps: int = Field(ge=1)
    validate_every: int = Field(ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    """None: the task's own. The protocol `paper` keeps its own in any case."""
    seed: int | None = Field(default=None, ge=0)
    """None: the task's own."""


class Plan(Strict):
    """The file. Paths in it are relative to it."""

    tasks: tuple[Path, ...] = Field(min_length=1)
    """Experiment files; the name of a task is the file's name without its ending."""
    networks: tuple[str, ...] = Field(min_length=1)
    protocols: tuple[Protocol, ...] = Field(min_length=1)
    budget: Budget
    task: dict[str, dict[str, Any]] = Field(default={})
    """By task: sections of the experiment whose values are replaced, for every network alike."""
    data: dict[str, Path] = Field(default={})
    """By task: a data folder instead of the experiment's."""

    @field_validator("tasks")
    @classmethod
    def _tasks_have_own_names(cls, tasks: tuple[Path, ...]) -> tuple[Path, ...]:
        refuse_twins(path.stem for path in tasks)
        return tasks

    @field_validator("networks")
    @classmethod
    def _networks_are_known(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in networks if name not in CATALOGUE]
        if unknown:
            raise ValueError(f"there is no network {', '.join(unknown)}; take from {', '.join(CATALOGUE)}")
        refuse_twins(networks)
        return networks

    @field_validator("protocols")
    @classmethod
    def _protocols_are_single(cls, protocols: tuple[Protocol, ...]) -> tuple[Protocol, ...]:
        refuse_twins(protocols)
        return protocols

    @model_validator(mode="after")
    def _sections_name_tasks(self) -> Plan:
        tasks = [path.stem for path in self.tasks]
        unknown = sorted({*self.task, *self.data} - set(tasks))
        if unknown:
            raise ValueError(
                f"[task] and [data] name {', '.join(unknown)}, but the tasks are {', '.join(tasks)}"
            )
        return self


@dataclass(frozen=True)
class Job:
    """One network on one task in one protocol."""

    task: str
    protocol: Protocol
    network: str
    """Name in the catalogue."""
    experiment: Experiment

    @property
    def name(self) -> str:
        """`TASK/PROTOCOL/NETWORK`: its name, and its folder below `runs`."""
        return f"{self.task}/{self.protocol}/{self.network}"

    @property
    def traditional(self) -> bool:
        """Whether it is fitted without a network."""
        return CATALOGUE[self.network].traditional


@dataclass(frozen=True)
class Comparison:
    """A plan whose every experiment was checked, in the order task, protocol, network."""

    path: Path
    plan: Plan
    jobs: tuple[Job, ...]


def read_comparison(path: Path) -> Comparison:
    """Read a plan and every experiment that it asks for.

    Raises ExperimentError that lists everything wrong with the plan or, if it is sound itself, with
    the experiments.
    """
    try:
        plan = Plan.model_validate(read_toml(path))
    except ValidationError as error:
        raise ExperimentError(complaint(path, error)) from error
    jobs: list[Job] = []
    complaints: dict[str, None] = {}
    for task in plan.tasks:
        for protocol in plan.protocols:
            for network in plan.networks:
                try:
                    jobs.append(_job(plan, path.parent, task, protocol, network))
                except ExperimentError as error:
                    complaints[str(error)] = None
    if complaints:
        raise ExperimentError("\n".join(complaints))
    return Comparison(path, plan, tuple(jobs))


def chosen(jobs: Iterable[Job], patterns: Iterable[str]) -> list[Job]:
    """The jobs whose name matches one of `patterns` (`*` stands for anything); all without patterns.

    Raises ExperimentError for a pattern that matches none.
    """
    everything, wanted = list(jobs), list(patterns)
    for pattern in wanted:
        if not any(fnmatchcase(job.name, pattern) for job in everything):
            names = "\n".join(f"  {job.name}" for job in everything)
            raise ExperimentError(f"--only {pattern!r} matches none of\n{names}")
    if not wanted:
        return everything
    return [job for job in everything if any(fnmatchcase(job.name, pattern) for pattern in wanted)]


def refuse_twins(names: Iterable[str]) -> None:
    """Raises ValueError when a name comes twice."""
    seen = list(names)
    twins = sorted({name for name in seen if seen.count(name) > 1})
    if twins:
        raise ValueError(f"{', '.join(twins)} may come only once")


def _job(plan: Plan, beside: Path, task: Path, protocol: Protocol, network: str) -> Job:
    path, name = beside / task, task.stem
    content = _overridden(read_toml(path), plan.task.get(name, {}))
    budget = plan.budget.model_dump(exclude_none=True)
    content = _overridden(content, {"fitting": budget})
    content["network"] = CARRIER if CATALOGUE[network].traditional else network
    data = plan.data.get(name)
    experiment = to_experiment(content, path, None if data is None else beside / data, protocol)
    return Job(name, protocol, network, untuned(experiment))


def _overridden(content: Content, sections: Content) -> Content:
    """`content` with the values of `sections`; the other values of a section stay."""
    result = dict(content)
    for section, values in sections.items():
        own = result.get(section)
        both = isinstance(own, dict) and isinstance(values, dict)
        result[section] = own | values if both else values
    return result
