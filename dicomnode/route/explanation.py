"""Why a series went where it went, and where it would go: the words of routing for commands and pages.

`reason` is the very sentence that the audit and the table `decisions` hold; the conditions are said by
`conditions.say`, whether they were checked just now or read back from the database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicomnode.conditions import say
from dicomnode.errors import PermanentError
from dicomnode.records.instances import stored_instances
from dicomnode.records.tables import DecisionRow
from dicomnode.route.routing import Decision, route_study
from dicomnode.settings.node import RouteSettings
from dicomnode.study import Series, Study, group_studies, read_instance

Checks = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Answer:
    """What one configuration makes of one series."""

    route: str | None
    model: str | None
    reason: str
    checks: Checks
    """Every condition of every route, as the table `decisions` holds them."""

    @classmethod
    def of_decision(cls, decision: Decision) -> Answer:
        """Decided just now."""
        route = decision.route
        return cls(
            route.name if route else None,
            route.model if route else None,
            decision.reason,
            decision.as_json(),
        )

    @classmethod
    def of_row(cls, row: DecisionRow) -> Answer:
        """Decided when the study was complete."""
        return cls(row.route, row.model, row.reason, row.checks)

    @property
    def outcome(self) -> str:
        """Where the series goes, in a few words."""
        return f"model {self.model} by route {self.route!r}" if self.route else "no model"

    def goes_elsewhere(self, other: Answer) -> bool:
        """Whether the two send the series to different places."""
        return (self.route, self.model) != (other.route, other.model)

    def condition_sentences(self) -> list[str]:
        """One sentence for every condition that was checked."""
        return [
            f"route {name!r}: {say(c['condition'], c['wanted'], c['found'], c['passed'])}"
            for name, checks in self.checks.items()
            for c in checks
        ]


@dataclass(frozen=True, eq=False)
class Explanation:
    """One series: what is decided now, what was decided then, and what another configuration would do."""

    series: Series
    now: Answer
    then: Answer | None = None
    other: Answer | None = None

    @property
    def differences(self) -> list[str]:
        """Where another answer sends the series elsewhere than the configuration does now."""
        found = []
        if self.then and self.then.goes_elsewhere(self.now):
            found.append(f"was decided otherwise: {self.then.outcome}: {self.then.reason}")
        if self.other and self.other.goes_elsewhere(self.now):
            found.append(
                f"would go to {self.other.outcome} instead of {self.now.outcome}: {self.other.reason}"
            )
        return found

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "study_instance_uid": self.series.study_instance_uid,
            "series_instance_uid": self.series.series_instance_uid,
            "modality": self.series.modality,
            "instance_count": len(self.series.instances),
            **asdict(self.now),
            "then": asdict(self.then) if self.then else None,
            "other": asdict(self.other) if self.other else None,
            "differences": self.differences,
        }


def explain_study(
    study: Study,
    routes: tuple[RouteSettings, ...],
    other_routes: tuple[RouteSettings, ...] | None = None,
    then: Mapping[str, Answer] | None = None,
) -> list[Explanation]:
    """Explain every series; `then` holds earlier decisions by Series Instance UID."""
    now = route_study(study, routes)
    other = route_study(study, other_routes) if other_routes is not None else None
    return [
        Explanation(
            decision.series,
            Answer.of_decision(decision),
            (then or {}).get(decision.series.series_instance_uid),
            Answer.of_decision(other[index]) if other else None,
        )
        for index, decision in enumerate(now)
    ]


def stored_study(session: Session, study_instance_uid: str) -> Study:
    """A known study by the headers of its files.

    Raises PermanentError when they are not kept any more, pydicom's InvalidDicomError or OSError when one
    cannot be read.
    """
    rows = [row for row in stored_instances(session, study_instance_uid) if Path(row.path).exists()]
    if not rows:
        raise PermanentError(
            f"the images of study {study_instance_uid} are not kept any more; "
            f"`dicomnode audit show {study_instance_uid}` tells what was decided"
        )
    (study,) = group_studies(read_instance(Path(row.path), row.sha256) for row in rows)
    return study


def latest_decisions(session: Session, study_instance_uid: str) -> dict[str, Answer]:
    """What was decided about each series the last time, by Series Instance UID."""
    newest = select(func.max(DecisionRow.generation)).where(
        DecisionRow.study_instance_uid == study_instance_uid
    )
    rows = session.scalars(
        select(DecisionRow)
        .where(
            DecisionRow.study_instance_uid == study_instance_uid,
            DecisionRow.generation == newest.scalar_subquery(),
        )
        .order_by(DecisionRow.id)
    )
    return {row.series_instance_uid: Answer.of_row(row) for row in rows}
