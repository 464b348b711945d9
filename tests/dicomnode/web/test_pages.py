"""What the pages of a node that has worked show, to whom, and what they write down about it.

Not covered: how they look and behave in a browser (tests/web).
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from dicomnode.encode.overlay import OUTLINE_RGB
from dicomnode.records.accounts import Role
from dicomnode.records.chain import verify_chain
from dicomnode.records.commitment_tables import CommitmentRequestRow
from dicomnode.records.tables import AuditRow, DeliveryRow, InstanceRow, JobRow, ResultRow, StudyRow
from tests.dicomnode.parts import events, kinds
from tests.dicomnode.web import hospital as held
from tests.dicomnode.web.browsing import ADDRESS, Page, words
from tests.dicomnode.web.hospital import Hospital, result_of


def study_page(hospital: Hospital, accession_number: str) -> str:
    return f"/studies/{hospital.studies[accession_number]}"


@pytest.mark.both_databases
@pytest.mark.parametrize("identifier", [held.LESIONS, held.PATIENT_ID, "series", "instance", "seg"])
def test_a_study_is_found_by_whatever_names_it(hospital: Hospital, worked: Page, identifier: str) -> None:
    with worked.database.snapshot() as session:
        row = session.scalars(
            select(InstanceRow).where(InstanceRow.study_instance_uid == hospital.studies[held.LESIONS])
        ).first()
    assert row is not None
    stands_for = {
        "series": row.series_instance_uid,
        "instance": row.sop_instance_uid,
        "seg": result_of(worked, "seg")[0],
    }
    answer = worked.logged_in(Role.VIEWER).client.get(
        "/studies", params={"find": stands_for.get(identifier, identifier)}
    )
    assert answer.status_code == 303
    assert answer.headers["location"] == study_page(hospital, held.LESIONS)


def test_an_unknown_identifier_is_said_to_be_unknown(worked: Page) -> None:
    answer = worked.logged_in().client.get("/studies", params={"find": "no such <thing>"})
    assert "Nothing is known under this" in words(answer)


@pytest.mark.both_databases
def test_the_list_shows_every_study_and_records_which_were_seen(hospital: Hospital, worked: Page) -> None:
    answer = worked.logged_in(Role.VIEWER).get("/studies")
    for accession_number in hospital.studies:
        assert accession_number in words(answer)
    (detail,) = [d for _, d in events(worked.database, "patient_data_viewed")]
    assert (detail["page"], detail["address"]) == ("studies", ADDRESS)
    assert sorted(detail["studies"]) == sorted(hospital.studies.values())


@pytest.mark.both_databases
def test_the_list_is_filtered_by_state_and_day(hospital: Hospital, worked: Page) -> None:
    browser = worked.logged_in()
    routed = words(browser.get("/studies?state=routed"))
    assert held.LESIONS in routed
    assert held.NO_MODEL not in routed
    assert "No study fits this filter" in words(browser.get("/studies?since=2999-01-01"))
    assert "A day is written as" in words(browser.get("/studies?since=yesterday"))
    assert held.LESIONS in words(browser.get("/studies?since=0001-01-01&until=9999-12-31"))
    assert browser.get("/audit?since=0001-01-01&until=9999-12-31").status_code == 200
    assert "begin at its top" in words(browser.get("/studies?after=nonsense"))


@pytest.mark.both_databases
def test_older_studies_are_on_the_next_page(worked: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.web.pages.studies.PAGE_LENGTH", 3)
    browser = worked.logged_in()
    first = browser.get("/studies").text
    next_page = first.split('" rel="next"')[0].rsplit('href="', 1)[1].replace("&amp;", "&")
    second = browser.get(next_page).text
    on = [{uid for uid in hospital_uids(worked) if f"/studies/{uid}" in text} for text in (first, second)]
    assert [len(page) for page in on] == [3, 1]
    assert not on[0] & on[1]
    assert 'rel="next"' not in second


def hospital_uids(page: Page) -> list[str]:
    with page.database.snapshot() as session:
        return list(session.scalars(select(StudyRow.study_instance_uid)))


def test_a_study_shows_its_measurements_as_its_reports_hold_them(hospital: Hospital, worked: Page) -> None:
    told = words(worked.logged_in(Role.VIEWER).get(study_page(hospital, held.LESIONS)))
    assert "threshold: 3 lesions" in told
    for name in ("Long Axis", "Short Axis", "Volume", "Diameter", "Mean Attenuation Coefficient"):
        assert name in told
    _, report = result_of(worked, "sr_volumes")
    volumes = [
        float(item.MeasuredValueSequence[0].NumericValue)
        for group in report.ContentSequence[-2].ContentSequence
        for item in group.ContentSequence
        if item.ValueType == "NUM" and item.ConceptNameCodeSequence[0].CodeMeaning == "Volume"
    ]
    assert len(volumes) == 3
    for volume in volumes:
        shown = f"{volume:,.0f}".replace(",", " ") if volume >= 1000 else f"{volume:.1f}"
        assert f" {shown} mm\N{SUPERSCRIPT THREE} " in told
    assert "RESEARCH USE ONLY" in told.upper()


def test_what_a_candidate_saw_comes_last_and_is_said_not_to_be_sent(hospital: Hospital, worked: Page) -> None:
    with worked.database.transaction() as session:
        made = session.scalars(select(ResultRow)).all()
        job = copied(session.get_one(JobRow, made[0].job_id), id=None, shadow=True, model_digest="cd" * 32)
        session.add(job)
        session.flush()
        session.add_all(
            copied(row, sop_instance_uid=f"{row.sop_instance_uid}.9", job_id=job.id) for row in made
        )
    told = words(worked.logged_in(Role.VIEWER).get(study_page(hospital, held.LESIONS)))
    live, candidate = (told.index(f"3 lesions · job {number}") for number in (made[0].job_id, job.id))
    assert live < told.index("shadow What a candidate saw") and candidate < told.index("What a candidate saw")
    assert live < candidate
    assert told.count("not sent") == 1


Row = TypeVar("Row", JobRow, ResultRow)


def copied(row: Row, **other: object) -> Row:
    values = {column.name: getattr(row, column.name) for column in row.__table__.columns}
    return type(row)(**values | other)


@pytest.mark.both_databases
def test_a_study_shows_why_each_series_was_routed_or_not_in_the_words_of_the_audit(
    hospital: Hospital, worked: Page
) -> None:
    told = words(worked.logged_in().get(study_page(hospital, held.LESIONS)))
    decided = [d for e, d in events(worked.database) if e in ("series_routed", "series_not_routed")]
    reasons = [d["reason"] for d in decided][:2]
    assert len(reasons) == 2
    for reason in reasons:
        assert reason in told
    assert "localizer" in told


@pytest.mark.both_databases
def test_the_steps_of_a_study_stand_in_order_with_their_seconds(hospital: Hospital, worked: Page) -> None:
    text = worked.logged_in().get(study_page(hospital, held.LESIONS)).text
    table = text.split('class="waterfall"')[1].split("</table>")[0]
    names = ["routing", "waiting for a worker", ": read", ": segment", ": measure", ": encode", "seg to PACS"]
    places = [table.index(name) for name in names]
    assert places == sorted(places)
    assert table.count("<rect") >= len(names)
    assert "given up for PACS" in table


def test_a_result_that_is_stored_says_what_it_waits_for(hospital: Hospital, worked: Page) -> None:
    asked, again = datetime(2026, 3, 1, 9, 30, tzinfo=UTC), datetime(2026, 3, 1, 9, 40, tzinfo=UTC)
    with worked.database.transaction() as session:
        row = session.scalars(select(DeliveryRow).where(DeliveryRow.state == "delivered")).one()
        row.state, row.not_before, row.transaction_uid, row.commitment_attempt = "stored", again, "2.25.1", 1
        session.add(
            CommitmentRequestRow(
                transaction_uid="2.25.1", destination="PACS", job_id=row.job_id, asked_at=asked
            )
        )
    told = words(worked.logged_in().get(study_page(hospital, held.LESIONS)))
    waits = told.split("waits for PACS to commit to it")[1]
    assert waits.startswith(", asked 2026-03-01 09:30:00 UTC ; asks again 2026-03-01 09:40:00 UTC")


@pytest.mark.both_databases
def test_a_look_at_a_study_is_recorded_with_who_what_and_from_where(hospital: Hospital, worked: Page) -> None:
    worked.logged_in(Role.VIEWER).get(study_page(hospital, held.LESIONS))
    with worked.database.snapshot() as session:
        row = session.scalars(select(AuditRow).order_by(AuditRow.id.desc())).first()
        assert not verify_chain(session).broken_at
    assert row is not None
    assert (row.event, row.actor, row.detail) == (
        "patient_data_viewed",
        "web viewer",
        {"page": "study", "address": ADDRESS},
    )
    assert row.study_instance_uid == hospital.studies[held.LESIONS]


def test_who_looked_at_a_study_is_shown_to_auditors_alone(hospital: Hospital, worked: Page) -> None:
    path = study_page(hospital, held.LESIONS)
    worked.logged_in(Role.ADMIN).get(path)
    assert "web admin" in words(worked.logged_in(Role.AUDITOR).get(path))
    assert "web admin" not in words(worked.logged_in(Role.VIEWER).get(path))


def test_a_picture_shows_the_outline_on_the_image_of_the_lesion(worked: Page) -> None:
    uid, seg = result_of(worked, "seg")
    browser = worked.logged_in(Role.VIEWER)
    answer = browser.get(f"/results/{uid}/lesions/1/picture.png")
    assert answer.headers["content-type"] == "image/png"
    pixels = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).astype(int)
    yellow = np.argwhere((np.abs(pixels - OUTLINE_RGB) < 40).all(axis=2))
    assert len(yellow) > 100
    # The lesion is an ellipsoid of 15 x 10 mm half axes in this plane, in a field of view of 96 mm.
    size_mm = (yellow.max(axis=0) - yellow.min(axis=0)) * 96 / pixels.shape[0]
    assert size_mm == pytest.approx([20, 30], abs=2.0)
    inside = pixels[tuple(yellow.mean(axis=0).astype(int) + 12)]
    assert inside.mean() > pixels[5, -5].mean(), "the lesion is brighter than the tissue"
    assert len(seg.SegmentSequence) == 3


def test_pictures_belong_to_the_view_of_their_study_and_are_recorded_without_one(
    hospital: Hospital, worked: Page
) -> None:
    uid, _ = result_of(worked, "seg")
    direct = worked.logged_in(Role.VIEWER)
    for _ in range(3):
        direct.get(f"/results/{uid}/lesions/1/picture.png")
    assert [d["page"] for _, d in events(worked.database, "patient_data_viewed")] == ["picture"]
    along = worked.logged_in(Role.AUDITOR)
    along.get(study_page(hospital, held.LESIONS))
    along.get(f"/results/{uid}/lesions/2/picture.png")
    assert [d["page"] for _, d in events(worked.database, "patient_data_viewed")] == ["picture", "study"]


def test_a_close_up_shows_the_lesion_larger(worked: Page) -> None:
    uid, _ = result_of(worked, "seg")
    browser = worked.logged_in(Role.VIEWER)
    for number in (1, 2, 3):
        answer = browser.get(f"/results/{uid}/lesions/{number}/picture.png?close=1")
        pixels = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).astype(int)
        yellow = np.argwhere((np.abs(pixels - OUTLINE_RGB) < 60).all(axis=2))
        extent = (yellow.max(axis=0) - yellow.min(axis=0)).max() / pixels.shape[0]
        assert extent == pytest.approx([0.5, 0.5, 0.28][number - 1], abs=0.06)
        middle = (yellow.max(axis=0) + yellow.min(axis=0)) / 2 / pixels.shape[0]
        assert middle == pytest.approx([0.5, 0.5], abs=0.03), "the lesion is in the middle"


def test_one_leafs_through_all_images_of_a_lesion(worked: Page) -> None:
    uid, seg = result_of(worked, "seg")
    count = sum(
        int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber) == 2
        for group in seg.PerFrameFunctionalGroupsSequence
    )
    browser = worked.logged_in(Role.VIEWER)
    told = words(browser.get(f"/results/{uid}/lesions/2"))
    assert f"of {count} (measured here)" in told
    first, last = (browser.get(f"/results/{uid}/lesions/2?image={n}").text for n in (1, 999))
    assert 'rel="prev"' not in first
    assert 'rel="next"' in first
    assert f"Image {count} of {count}" in last
    pictures = {
        browser.get(f"/results/{uid}/lesions/2/picture.png?image={n}").content for n in range(1, count + 1)
    }
    assert len(pictures) == count


@pytest.mark.parametrize(
    "path", ["/results/{seg}/lesions/9", "/results/1.2.3/lesions/1/picture.png", "/studies/1.2.3.4.5"]
)
def test_what_is_not_there_is_said_to_be_not_there(worked: Page, path: str) -> None:
    uid, _ = result_of(worked, "seg")
    assert worked.logged_in().get(path.replace("{seg}", uid)).status_code == 404


def test_a_huge_number_in_a_path_is_no_error_of_ours(worked: Page) -> None:
    uid, _ = result_of(worked, "seg")
    assert worked.logged_in().get(f"/results/{uid}/lesions/{'9' * 40}").status_code == 404


def test_an_image_that_is_gone_is_said_to_be_gone(worked: Page) -> None:
    uid, _ = result_of(worked, "seg")
    with worked.database.transaction() as session:
        for row in session.scalars(select(InstanceRow)):
            row.path = "/nowhere/gone.dcm"
    answer = worked.logged_in().get(f"/results/{uid}/lesions/1/picture.png")
    assert answer.status_code == 404
    assert "cannot be read" in answer.text


def test_what_was_deleted_as_configured_is_said_to_be_deleted(hospital: Hospital, worked: Page) -> None:
    uid, _ = result_of(worked, "seg")
    browser = worked.logged_in()
    with worked.database.transaction() as session:
        for row in session.scalars(select(InstanceRow)):
            row.purged_at = datetime(2026, 11, 2, tzinfo=UTC)
    answer = browser.get(f"/results/{uid}/lesions/1/picture.png")
    assert (answer.status_code, answer.text) == (404, "the image was deleted on 2026-11-02, as configured")
    with worked.database.transaction() as session:
        session.get_one(StudyRow, hospital.studies[held.BROKEN]).state = "parked"
    study = study_page(hospital, held.BROKEN)
    refused = browser.submit(study, f"{study}/replay")
    assert refused.status_code == 409
    assert "cannot be replayed" in words(refused)


def test_a_damaged_report_does_not_take_the_page_with_it(
    hospital: Hospital, worked: Page, tmp_path: Path
) -> None:
    (tmp_path / "damaged.dcm").write_bytes(b"\0" * 100)
    with worked.database.transaction() as session:
        for row in session.scalars(select(ResultRow)):
            row.path = str(tmp_path / "damaged.dcm")
    told = words(worked.logged_in().get(study_page(hospital, held.LESIONS)))
    assert "These results cannot be shown" in told
    assert "Why each series went where it went" in told


def test_hostile_values_show_as_text_everywhere(hospital: Hospital, worked: Page) -> None:
    browser = worked.logged_in()
    for path in ("/studies", study_page(hospital, held.HOSTILE_ACCESSION), "/letters", "/"):
        text = browser.get(path).text
        for fragment in ("<img src=x", "<script>document", "<b>AE"):
            assert fragment not in text, (path, fragment)
    page = browser.get(study_page(hospital, held.HOSTILE_ACCESSION))
    for value in (
        held.HOSTILE_ACCESSION,
        held.HOSTILE_PATIENT,
        held.HOSTILE_AE_TITLE,
        held.HOSTILE_DESCRIPTION,
    ):
        assert value in words(page), value


@pytest.mark.both_databases
@pytest.mark.parametrize(
    "value", ["' OR '1'='1", "%", "_", "\\", "ACC%", "\x00", "1\r\nSet-Cookie: a=b", "🩻", "9" * 500]
)
def test_hostile_searches_find_nothing_and_break_nothing(worked: Page, value: str) -> None:
    browser = worked.logged_in()
    studies = [("/studies", name) for name in ("find", "sender", "state")]
    audit = [("/audit", name) for name in ("who", "peer", "model", "event", "outcome")]
    for path, name in (*studies, *audit):
        answer = browser.client.get(path, params={name: value})
        assert answer.status_code == 200
        assert "a=b" not in answer.headers.get("set-cookie", "")
    with worked.database.snapshot() as session:
        assert len(session.scalars(select(StudyRow)).all()) == 4


@pytest.mark.both_databases
def test_an_admin_replays_dead_letters_and_the_audit_names_them(worked: Page) -> None:
    browser = worked.logged_in(Role.ADMIN)
    assert browser.submit("/letters", "/letters/replay").headers["location"] == "/letters?notice=replayed"
    with worked.database.snapshot() as session:
        assert sorted(session.scalars(select(DeliveryRow.state))) == ["delivered", "waiting", "waiting"]
        rows = session.scalars(select(AuditRow).where(AuditRow.event == "delivery_replayed")).all()
    assert {row.actor for row in rows} == {"web admin"}
    assert "Queued again." in words(browser.get("/letters?notice=replayed"))


def test_one_dead_delivery_is_replayed_alone(worked: Page) -> None:
    browser = worked.logged_in(Role.ADMIN)
    with worked.database.snapshot() as session:
        dead = session.scalars(select(DeliveryRow.id).where(DeliveryRow.state == "dead")).all()
    browser.submit("/letters", f"/letters/deliveries/{dead[0]}/replay")
    with worked.database.snapshot() as session:
        assert len(session.scalars(select(DeliveryRow).where(DeliveryRow.state == "dead")).all()) == 1
    form = {"csrf": browser.get("/letters").text.split('name="csrf" value="')[1].split('"')[0]}
    again = browser.post(f"/letters/deliveries/{dead[0]}/replay", form)
    assert again.headers["location"] == "/letters?notice=nothing"


@pytest.mark.both_databases
@pytest.mark.parametrize("where", ["letters", "study"])
def test_an_admin_runs_a_failed_job_again(hospital: Hospital, worked: Page, where: str) -> None:
    browser = worked.logged_in(Role.ADMIN)
    with worked.database.snapshot() as session:
        job = session.scalars(select(JobRow).where(JobRow.state == "failed")).one()
    study = study_page(hospital, held.BROKEN)
    page = "/letters" if where == "letters" else study
    action = f"/letters/jobs/{job.id}/replay" if where == "letters" else f"{study}/jobs/{job.id}/replay"
    assert browser.submit(page, action).status_code == 303
    with worked.database.snapshot() as session:
        assert session.get_one(JobRow, job.id).state == "queued"
    assert "job_replayed" in kinds(worked.database)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.AUDITOR])
def test_nobody_else_may_replay_and_sees_no_button(hospital: Hospital, worked: Page, role: Role) -> None:
    browser = worked.logged_in(role)
    for path in ("/letters", study_page(hospital, held.BROKEN)):
        text = browser.get(path).text
        assert "replay" not in text.replace("Replay", "replay").split("</header>")[1].split("<footer")[0]
    form = {"csrf": browser.get("/letters").text.split('name="csrf" value="')[1].split('"')[0]}
    for action in ("/letters/replay", "/letters/deliveries/1/replay", "/letters/jobs/1/replay"):
        answer = browser.post(action, {**form, "destination": "PACS"})
        assert answer.status_code == 403
        assert "This page is for people who may change something" in words(answer)
    assert "delivery_replayed" not in kinds(worked.database)
