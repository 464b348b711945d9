"""The folder that says how far a model can be trusted: `trust.json`, pictures and a README."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inference.engine import Model
from training.cases import Case, DataSet, Split, digest
from training.report.document import to_markdown
from training.trust import figures, page
from training.trust.explained import Explained, choose, explain
from training.trust.observe import observe
from training.trust.summary import MEASURES, Trust, sum_up
from training.trust.uncertainty import Axis

NUMBERS, README = "trust.json", "README.md"
Tick = Callable[[str, int, int], None]
"""Is told what is done, how many of it are done, and of how many."""


@dataclass(frozen=True)
class Asked:
    """What the report is made of. `axes` are those along which images are mirrored."""

    cases: Sequence[Case]
    split: Split
    n_in_split: int
    axes: tuple[Axis, ...]
    explain: int


def write_report(model: Model, data: DataSet, asked: Asked, folder: Path, tick: Tick) -> Trust:
    """Measure, explain and write; files of the same name in `folder` are replaced.

    Raises DataError or RunError when the cases do not allow it.
    """
    observed = []
    for number, case in enumerate(asked.cases):
        tick("measuring", number, len(asked.cases))
        observed.append(observe(model, data.load(case), asked.axes))
    trust = sum_up([case for case, _ in observed], [voxels for _, voxels in observed])
    explained = explanations(model, data, asked, trust, tick)
    folder.mkdir(parents=True, exist_ok=True)
    content = numbers(model, data, asked, trust, explained)
    (folder / NUMBERS).write_text(
        json.dumps(content, indent=2, default=_plain_number) + "\n", encoding="utf-8"
    )
    draw(folder, trust, explained)
    blocks = page.blocks(content, folder, trust, explained)
    (folder / README).write_text(to_markdown(blocks, folder), encoding="utf-8")
    return trust


def some_of(cases: Sequence[Case], count: int | None) -> list[Case]:
    """`count` of the cases, drawn with a fixed seed, in their own order; all for None."""
    if count is None or count >= len(cases):
        return list(cases)
    drawn = np.random.default_rng(0).choice(len(cases), count, replace=False)
    return [cases[number] for number in sorted(drawn.tolist())]


def explanations(model: Model, data: DataSet, asked: Asked, trust: Trust, tick: Tick) -> list[Explained]:
    """The maps of the cases that are shown, from the best to the worst."""
    by_name = {case.name: case for case in asked.cases}
    choices = choose(trust.cases, asked.explain)
    found = []
    for number, choice in enumerate(choices):
        tick("explaining", number, len(choices))
        found.append(explain(model, data.load(by_name[choice.trust.case]), choice))
    return found


def numbers(
    model: Model, data: DataSet, asked: Asked, trust: Trust, explained: Sequence[Explained]
) -> dict[str, Any]:
    """The content of `trust.json`: the same model and data give the same content."""
    card = model.bundle.card
    return {
        "model": {
            "name": card.name,
            "version": card.version,
            "title": card.title,
            "digest": model.bundle.digest,
            "temperature": card.postprocessing.temperature,
            "probability_threshold": card.postprocessing.probability_threshold,
        },
        "data": {
            "split": asked.split,
            "n_cases": len(asked.cases),
            "n_in_split": asked.n_in_split,
            "digest": digest(data, asked.cases),
        },
        "members": {"mirrored": list(asked.axes), "n": 2 ** len(asked.axes)},
        "measures": MEASURES,
        **trust.to_plain(),
        "explained": [one.to_plain() for one in explained],
    }


def _plain_number(value: np.generic) -> Any:
    """A scalar of numpy as one of Python."""
    return value.item()


def draw(folder: Path, trust: Trust, explained: Sequence[Explained]) -> None:
    """Every picture that `page` names."""
    if trust.before is not None and trust.after is not None:
        curves = {"before: temperature 1": trust.before, "after: temperature of the bundle": trust.after}
        figures.reliability(folder / page.RELIABILITY, curves)
    known = {MEASURES[key]: found for key, found in trust.foretold.items()}
    whole = {words: found for words, found in known.items() if found.n == len(trust.cases)}
    figures.risk_coverage(folder / page.RISK, whole, [1.0 - case.dice for case in trust.cases])
    figures.error_by_uncertainty(
        folder / page.SCATTER, trust.cases, {key: MEASURES[key] for key in trust.foretold}
    )
    figures.volumes(folder / page.VOLUMES, trust.cases)
    for number, one in enumerate(explained, start=1):
        figures.explanation(folder / page.EXPLANATION.format(number), one)
