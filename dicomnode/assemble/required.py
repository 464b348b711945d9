"""The rule on required series, judged by the headers of what has come in."""

from __future__ import annotations

from dicomnode.assemble.rules import Required
from dicomnode.conditions import check_series
from dicomnode.settings.assembly import RequiredSettings
from dicomnode.settings.section import Conditions
from dicomnode.study import Series, Study


def required_of(study: Study, rules: tuple[RequiredSettings, ...]) -> Required | None:
    """How the study fares against the first rule that is about it; None when none is."""
    for rule in rules:
        if _any_meets(study.series, rule.when):
            missing = [need.name for need in rule.series if not _any_meets(study.series, need.when)]
            return Required(rule.name, tuple(missing), rule.pause_s)
    return None


def _any_meets(found: tuple[Series, ...], when: Conditions) -> bool:
    return any(all(check.passed for check in check_series(series, when)) for series in found)
