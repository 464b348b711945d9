"""Which series goes to which model, and why. Pure: headers and rules in, decisions out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

from dicomnode.conditions import Check, check_series, say, slice_count, slice_thickness_mm
from dicomnode.route.exclusions import exclusion
from dicomnode.settings.node import RouteSettings
from dicomnode.study import Series, Study, series_number


@dataclass(frozen=True)
class RouteCheck:
    """How one series fared against one route."""

    route: RouteSettings
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every condition holds."""
        return all(check.passed for check in self.checks)


@dataclass(frozen=True)
class Decision:
    """What happens to one series. `route` is None when no model will see it."""

    series: Series
    route: RouteSettings | None
    reason: str
    checked: tuple[RouteCheck, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Every check of every route, for the database and for people. Holds no descriptions."""
        return {
            check.route.name: [
                {"condition": c.condition, "wanted": c.wanted, "found": _public(c), "passed": c.passed}
                for c in check.checks
            ]
            for check in self.checked
        }


def route_study(study: Study, routes: tuple[RouteSettings, ...]) -> tuple[Decision, ...]:
    """One decision for every series of the study, in the order of the series.

    The first route that a series matches takes it; where the route wants only the best series of a
    study, the thinnest slices win, then the most images, then the lowest series number.
    """
    matched: dict[str, RouteCheck] = {}
    checked: dict[str, tuple[RouteCheck, ...]] = {}
    excluded: dict[str, str] = {}
    for series in study.series:
        reason = exclusion(series)
        if reason:
            excluded[series.series_instance_uid] = reason
            continue
        checks = tuple(RouteCheck(route, tuple(check_series(series, route.when))) for route in routes)
        checked[series.series_instance_uid] = checks
        match = next((check for check in checks if check.passed), None)
        if match:
            matched[series.series_instance_uid] = match
    decisions = []
    for series in study.series:
        uid = series.series_instance_uid
        if uid in excluded:
            decisions.append(Decision(series, None, excluded[uid]))
        elif uid not in matched:
            decisions.append(Decision(series, None, _no_match(checked[uid]), checked[uid]))
        else:
            rivals = [s for s in study.series if _took(matched, s) is matched[uid].route]
            decisions.append(_select(series, rivals, matched[uid].route, checked[uid]))
    return tuple(decisions)


def _took(matched: dict[str, RouteCheck], series: Series) -> RouteSettings | None:
    check = matched.get(series.series_instance_uid)
    return check.route if check else None


def _no_match(checks: tuple[RouteCheck, ...]) -> str:
    if not checks:
        return "no route is configured"
    return "; ".join(f"route {check.route.name!r}: {_public_failure(check)}" for check in checks)


def _select(
    series: Series, rivals: list[Series], route: RouteSettings, checks: tuple[RouteCheck, ...]
) -> Decision:
    best = min(rivals, key=_rank)
    if route.select == "all" or series is best:
        why = f"matches route {route.name!r}"
        if len(rivals) > 1 and route.select == "best":
            why += f"; best of {len(rivals)} series: {_describe(best)}"
        return Decision(series, route, why, checks)
    return Decision(
        series,
        None,
        f"matches route {route.name!r}, but series number {series_number(best)} is better: "
        f"{_describe(best)} against {_describe(series)}",
        checks,
    )


def _rank(series: Series) -> tuple[float, int, int]:
    thickness = slice_thickness_mm(series)
    return float("inf") if thickness is None else thickness, -slice_count(series), series_number(series)


def _describe(series: Series) -> str:
    thickness = slice_thickness_mm(series)
    slices = f"{slice_count(series)} slices"
    return slices if thickness is None else f"{slices} of {thickness:g} mm"


FREE_TEXT = ("study_description", "series_description", "not_series_description", "protocol_name")
PLAIN_VRS = frozenset({"CS", "DS", "FD", "FL", "IS", "SL", "SS", "UI", "UL", "US"})
"""Codes and numbers; every other tag may hold names, dates or identifiers of a patient."""


def _is_public(condition: str) -> bool:
    """Whether what was found may be told: never free text, names, dates or identifiers."""
    keyword = condition.removeprefix("tags.")
    if keyword != condition:
        tag = tag_for_keyword(keyword)
        return tag is not None and dictionary_VR(tag) in PLAIN_VRS
    return condition not in FREE_TEXT


def _public(check: Check) -> str:
    return check.found if _is_public(check.condition) else "(not shown)"


def _public_failure(check: RouteCheck) -> str:
    failed = next(c for c in check.checks if not c.passed)
    return say(failed.condition, failed.wanted, _public(failed), failed.passed)
