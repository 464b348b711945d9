"""The rules by which a study is complete. Pure: what came, settings and time in, a verdict out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from dicomnode.settings.assembly import AssemblySettings


class CompletedBy(StrEnum):
    """The rule that closed a study."""

    EXPECTED_COUNT = "expected_count"
    REQUIRED_SERIES = "required_series"
    QUIET_PERIOD = "quiet_period"
    DEADLINE = "deadline"


@dataclass(frozen=True)
class Count:
    """What a peer answered, and when it was asked. None: it did not say."""

    instances: int | None
    asked_at: datetime


@dataclass(frozen=True)
class Sender:
    """One peer that sent some of the study."""

    ae_title: str
    held_count: int
    """Distinct instances that both we and it hold, as far as we know."""
    count: Count | None = None
    """None: it was not asked, or cannot be."""

    @property
    def missing_count(self) -> int:
        """How many instances it holds more than we do, as far as it said."""
        if self.count is None or self.count.instances is None:
            return 0
        return max(0, self.count.instances - self.held_count)

    def all_came(self, settled: datetime) -> bool:
        """Whether it was asked after `settled` and holds nothing more than we do."""
        asked = self.count is not None and self.count.instances is not None
        return asked and self.count is not None and self.count.asked_at >= settled and not self.missing_count


@dataclass(frozen=True)
class Required:
    """How a study fares against the rule on required series that is about it."""

    rule: str
    missing: tuple[str, ...]
    """Names of the series that are not there."""
    pause_s: float


@dataclass(frozen=True)
class Progress:
    """How far a study has come in."""

    first_received_at: datetime
    last_received_at: datetime
    senders: tuple[Sender, ...]
    required: Required | None = None
    """None: no rule is about this study, or nobody has looked since the last arrival (`looked`)."""
    looked: bool = True
    released_at: datetime | None = None
    """When a sender last released an association on which the study had grown."""
    recorded_until: datetime | None = None
    """What arrived later may not be known yet. None: all is known."""
    taking_since: datetime | None = None
    """Silence from before may be our own: the node was down. None: it was not."""


@dataclass(frozen=True)
class Verdict:
    """How a study ends. With `park` it stands aside instead of being processed."""

    rule: CompletedBy
    missing: str | None = None
    """What is known to be missing, in words."""
    park: bool = False


def verdict(progress: Progress, rules: AssemblySettings, now: datetime) -> Verdict | None:
    """How the study ends now, or None while something may still come.

    A count only holds when it was asked after the last arrival: while a modality is still storing
    to the peer, an older count would close the study too early. A required series that is not there
    keeps the study open until the deadline, whatever the counts say: the peer may not have it yet.
    Silence counts as far as what arrived is known: images may wait for their rows when much comes at once.
    """
    if not progress.looked:
        return None
    missing = what_is_missing(progress)
    last, required = progress.last_received_at, progress.required
    over = now >= progress.first_received_at + timedelta(seconds=rules.deadline_s)
    if missing and _is_to_park(required, rules):
        return Verdict(CompletedBy.DEADLINE, missing, park=True) if over else None
    settled = settled_at(last, progress.released_at, rules)
    if progress.senders and all(sender.all_came(settled) for sender in progress.senders):
        return Verdict(CompletedBy.EXPECTED_COUNT)
    silent_since, silent_until = max(last, progress.taking_since or last), progress.recorded_until or now
    if required and silent_until >= silent_since + timedelta(seconds=required.pause_s):
        return Verdict(CompletedBy.REQUIRED_SERIES, missing)
    if silent_until >= silent_since + timedelta(seconds=rules.quiet_period_s):
        return Verdict(CompletedBy.QUIET_PERIOD, missing)
    return Verdict(CompletedBy.DEADLINE, missing) if over else None


def may_be_over(
    first_received_at: datetime,
    last_received_at: datetime,
    required: Required | None,
    rules: AssemblySettings,
    now: datetime,
) -> bool:
    """Whether time alone may have closed a study; without a count, `verdict` gives none before."""
    pause_s = min(rules.quiet_period_s, required.pause_s) if required else rules.quiet_period_s
    quiet = now >= last_received_at + timedelta(seconds=pause_s)
    return quiet or now >= first_received_at + timedelta(seconds=rules.deadline_s)


def what_is_missing(progress: Progress) -> str | None:
    """What is known to be missing, in words; None when nothing is."""
    parts = [
        f"{sender.missing_count} of the instances that {sender.ae_title} holds had not arrived"
        for sender in progress.senders
        if sender.missing_count
    ]
    if progress.required and progress.required.missing:
        names = ", ".join(progress.required.missing)
        parts.append(f"series that rule {progress.required.rule!r} requires had not arrived: {names}")
    return "; ".join(parts) or None


def _is_to_park(required: Required | None, rules: AssemblySettings) -> bool:
    """Of a study that lacks something: whether it stands aside at its deadline, and waits until then.

    When a rule says which series matter, and they are there, instances beyond them do not.
    """
    if required is not None:
        return bool(required.missing)
    return rules.incomplete == "park"


def settled_at(last_received_at: datetime, released_at: datetime | None, rules: AssemblySettings) -> datetime:
    """When a peer may first be asked for its count: its association is over, or a pause has passed."""
    if released_at is not None and released_at >= last_received_at:
        return released_at
    return last_received_at + timedelta(seconds=rules.settle_s)


def is_due(
    asked_at: datetime | None,
    last_received_at: datetime,
    rules: AssemblySettings,
    now: datetime,
    released_at: datetime | None = None,
) -> bool:
    """Whether a peer should be asked (again) for its count."""
    settled = settled_at(last_received_at, released_at, rules)
    if now < settled:
        return False
    return (
        asked_at is None or asked_at < settled or now >= asked_at + timedelta(seconds=rules.count_interval_s)
    )
