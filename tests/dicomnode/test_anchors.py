"""Anchors written outside of the database show what the chain alone cannot: a cut and a rewritten trail.

Not covered: an intruder who has the signing key, and the copies of the anchors elsewhere too.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from dicomnode.errors import PermanentError
from dicomnode.observe.trail import verify_daily
from dicomnode.records import anchoring
from dicomnode.records.anchors import Anchor, check_anchors, read_anchors
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.chain import GENESIS, ChainCheck, seal, verify_chain
from dicomnode.records.db import Database
from dicomnode.records.tables import AuditRow
from dicomnode.settings.node import Settings
from tests.dicomnode.parts import events
from tests.dicomnode.tampering import tamper

pytestmark = pytest.mark.both_databases

KEY = Ed25519PrivateKey.generate()
FIRST_DAY = datetime(2026, 3, 1, 0, 1, tzinfo=UTC)


class Trail:
    """A trail over several days, and its anchors."""

    def __init__(self, database: Database, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = database
        self.path = path
        self._monkeypatch = monkeypatch

    def record(self, count: int) -> None:
        for _ in range(count):
            with self.database.transaction() as session:
                Audit("test").record(session, Event.JOB_REPLAYED, Subject("1.2"))

    def anchor(self, day: int, key: Ed25519PrivateKey | None = KEY) -> Anchor | None:
        self._monkeypatch.setattr(anchoring, "utc_now", lambda: FIRST_DAY + timedelta(days=day))
        return anchoring.anchor_of_the_day(self.database, Audit("test"), self.path, key)

    def tamper(self, *statements: str) -> None:
        tamper(self.database, *statements)

    def rewrite_from(self, first: int) -> None:
        """Change an event, and compute every seal from there on again, as a skilled intruder would."""
        self.tamper(f"UPDATE audit_events SET actor = 'nobody' WHERE id = {first}")
        with self.database.transaction() as session:
            previous = GENESIS
            for row in session.scalars(select(AuditRow).order_by(AuditRow.id)):
                row.previous_sha256 = previous
                row.sha256 = previous = seal(row)

    def check(self) -> ChainCheck:
        with self.database.snapshot() as session:
            return verify_chain(session, read_anchors(self.path))


@pytest.fixture
def trail(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trail:
    """Two days with an anchor at the end of each, and some events after that: 12 in all."""
    made = Trail(database, tmp_path / "anchors.jsonl", monkeypatch)
    made.record(4)
    made.anchor(0)  # event 5 tells of it
    made.record(3)
    made.anchor(1)  # event 9 tells of it
    made.record(3)
    return made


def test_a_trail_that_nobody_touched_fits_its_anchors(trail: Trail) -> None:
    check = trail.check()
    assert (check.event_count, check.anchor_count, check.faults) == (12, 2, ())
    assert list(check_anchors(read_anchors(trail.path), KEY.public_key())) == []


def test_a_day_has_one_anchor_and_an_event_that_carries_it(trail: Trail) -> None:
    assert trail.anchor(1) is None
    first, second = read_anchors(trail.path)
    assert (first.event_count, first.last_id, second.event_count, second.last_id) == (4, 4, 8, 8)
    assert second.previous == first.digest
    told = [detail for _, detail in events(trail.database, "anchor_written")]
    assert [detail["last_sha256"] for detail in told] == [first.last_sha256, second.last_sha256]
    assert told[1]["signature"] == second.signature


def test_a_trail_that_is_empty_has_no_anchor(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Trail(database, tmp_path / "a", monkeypatch).anchor(0) is None


def test_a_tail_that_was_cut_off_shows_and_where(trail: Trail) -> None:
    trail.tamper("DELETE FROM audit_events WHERE id > 6")
    (fault,) = trail.check().faults
    assert (fault.damage, fault.event_id, fault.anchor) == ("cut_off", 8, "2026-03-02")
    assert "ends with event 6" in fault.told
    assert "between event 4 (anchored on 2026-03-01) and 2026-03-02" in fault.told


def test_a_tail_that_was_replaced_by_other_events_shows(trail: Trail) -> None:
    trail.tamper("DELETE FROM audit_events WHERE id > 6")
    trail.record(6)
    (fault,) = trail.check().faults
    assert (fault.damage, fault.event_id, fault.anchor) == ("rewritten", 8, "2026-03-02")


def test_a_trail_that_was_removed_shows(trail: Trail) -> None:
    trail.tamper("DELETE FROM audit_events")
    assert [fault.damage for fault in trail.check().faults] == ["cut_off", "cut_off"]


def test_a_trail_whose_seals_were_all_computed_again_shows(trail: Trail) -> None:
    trail.rewrite_from(2)
    faults = trail.check().faults
    assert [(fault.damage, fault.anchor) for fault in faults] == [
        ("rewritten", "2026-03-01"),
        ("rewritten", "2026-03-02"),
    ]
    assert "between the beginning and" in faults[0].told


def test_events_after_the_last_anchor_have_nothing_but_the_chain(trail: Trail) -> None:
    """Said here so that nobody believes more: only a newer anchor, or a receiver of syslog, would tell."""
    trail.tamper("DELETE FROM audit_events WHERE id > 10")
    assert trail.check().faults == ()


def test_anchors_that_were_made_anew_are_not_signed(trail: Trail) -> None:
    trail.rewrite_from(2)
    with trail.database.snapshot() as session:
        seals = {row.id: row.sha256 for row in session.scalars(select(AuditRow))}
    forged, previous = [], GENESIS
    for anchor in read_anchors(trail.path):
        fake = Anchor(**{**vars(anchor), "last_sha256": seals[anchor.last_id], "previous": previous})
        previous = fake.digest
        forged.append(fake)
    trail.path.write_bytes(b"".join(anchor.line() + b"\n" for anchor in forged))
    assert trail.check().faults == ()
    told = [fault.told for fault in check_anchors(read_anchors(trail.path), KEY.public_key())]
    assert told == [f"the anchor of 2026-03-0{day} is not signed by the key of this node" for day in (1, 2)]


def test_an_anchor_without_signature_or_by_another_key_does_not_hold(trail: Trail) -> None:
    trail.anchor(2, Ed25519PrivateKey.generate())
    trail.anchor(3, None)
    assert [fault.day for fault in check_anchors(read_anchors(trail.path), KEY.public_key())] == [
        "2026-03-03",
        "2026-03-04",
    ]
    assert list(check_anchors(read_anchors(trail.path), None)) == []


def test_an_anchor_that_was_taken_out_of_the_file_is_missed(trail: Trail) -> None:
    trail.anchor(2)
    lines = trail.path.read_bytes().splitlines(keepends=True)
    trail.path.write_bytes(lines[0] + lines[2])
    (fault,) = check_anchors(read_anchors(trail.path), None)
    assert fault.told == "the anchor of 2026-03-03 does not follow the one before it in the file"


@pytest.mark.parametrize("line", [b"nonsense", b"{}", b"[1]", b'{"day": "x"}', b"\xff\xfe"])
def test_a_damaged_line_is_named(trail: Trail, line: bytes) -> None:
    with trail.path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(PermanentError, match=r"line 3 of .* is no anchor"):
        read_anchors(trail.path)


def test_a_line_that_the_disk_took_a_part_of_is_taken_back(
    trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trail.path.read_bytes()
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:100]))
        with pytest.raises(OSError, match="No space left"):
            trail.anchor(2)
    assert trail.path.read_bytes() == before
    assert trail.anchor(2) is not None
    assert list(check_anchors(read_anchors(trail.path), KEY.public_key())) == []


@pytest.mark.parametrize("lost", [1, 40])
def test_a_last_line_that_a_loss_of_power_tore_is_written_again(trail: Trail, lost: int) -> None:
    trail.path.write_bytes(trail.path.read_bytes()[:-lost])
    assert [anchor.day.day for anchor in read_anchors(trail.path)] == [1]
    assert trail.anchor(1) is not None
    assert list(check_anchors(read_anchors(trail.path), KEY.public_key())) == []
    assert trail.check().faults == ()


def test_anchors_that_cannot_be_read_are_a_fault_of_the_daily_check(trail: Trail, settings: Settings) -> None:
    settings.anchors.parent.mkdir(parents=True, exist_ok=True)
    settings.anchors.write_bytes(b"nonsense\n")
    verify_daily(settings, trail.database, Audit("test"))
    assert events(trail.database)[-1][0] == "audit_verified"
    assert events(trail.database)[-1][1]["fault_count"] == 1


def test_the_anchors_are_readable_by_the_service_user_only(trail: Trail) -> None:
    assert trail.path.stat().st_mode & 0o777 == 0o600
