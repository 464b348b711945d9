"""The pages about models: what they show, and changes with reason, confirmation and rights.

Not covered: that the node follows (tests/system/test_shadow.py), and how it looks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from dicomnode.models.life import Life
from dicomnode.receive.intake import Intake
from dicomnode.records.accounts import Role
from dicomnode.records.audit import Audit
from dicomnode.records.model_tables import ComparisonRow
from dicomnode.spool import Spool
from tests.dicomnode.models.site import Site, write_versions
from tests.dicomnode.parts import arrival, events, image
from tests.dicomnode.web.browsing import Page, words

WEB = '[web]\n[models]\nfolder = "{folder}"\n'


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_versions(tmp_path_factory.mktemp("models"))


@pytest.fixture
def hospital(tmp_path: Path, models: Path) -> Hospital:
    return Hospital(tmp_path, models)


class Hospital:
    """A node with three versions of one model, and its web page."""

    def __init__(self, folder: Path, models: Path) -> None:
        self.page = Page(folder, WEB.format(folder=models))
        spool = Spool(self.page.settings.spool)
        spool.prepare()
        Intake(spool, self.page.database, Audit("receiver")).take(arrival(image()))
        registry = Life(self.page.settings, self.page.app.state.site.registry, Audit("x")).registry
        registry.refresh()
        self.site = Site(self.page.settings, self.page.database, registry)
        self.site.enrol()

    def path(self, version: str) -> str:
        return f"/models/{self.site.bundle(version).digest}"

    def compare(self, *volumes_mm3: tuple[float, float]) -> None:
        """Series that 1.0.0 and 1.1.0 have both seen, with their volumes."""
        for number, (live, candidate) in enumerate(volumes_mm3, start=1):
            jobs = [
                self.site.job(version, send=version == "1.0.0", state="succeeded", uid=f"1.2.{number}")
                for version in ("1.0.0", "1.1.0")
            ]
            with self.page.database.transaction() as session:
                session.add(
                    ComparisonRow(
                        study_instance_uid="1.2.3.4", series_instance_uid=f"1.2.{number}",
                        live_job_id=jobs[0], candidate_job_id=jobs[1],
                        live_digest=self.site.bundle("1.0.0").digest,
                        candidate_digest=self.site.bundle("1.1.0").digest,
                        compared_at=self.site.jobs()[0].created_at,
                        live_voxels=10, candidate_voxels=12, common_voxels=10, dice=0.25 * number,
                        live_volume_mm3=live, candidate_volume_mm3=candidate,
                        found_by_both=3, only_live=1, only_candidate=2,
                    )
                )  # fmt: skip


def test_every_version_is_listed_with_its_state(hospital: Hospital) -> None:
    hospital.site.job("1.0.0", state="failed")
    told = words(hospital.page.logged_in(Role.VIEWER).get("/models"))
    assert "threshold 1.0.0 live" in told
    assert "threshold 1.1.0 shadow" in told
    assert "seen for the first time" in told
    (row,) = [line for line in told.split("threshold ") if line.startswith("1.0.0")]
    assert row.startswith("1.0.0 live 1 0 1 0")


def test_a_candidate_is_shown_beside_what_is_live(hospital: Hospital) -> None:
    hospital.compare((10000.0, 11000.0), (20000.0, 23000.0), (30000.0, 32000.0))
    answer = hospital.page.logged_in(Role.VIEWER).get(hospital.path("1.1.0"))
    told = words(answer)
    assert "As candidate beside threshold 1.0.0" in told
    assert "3 series seen by both" in told
    assert "Only by the candidate 9 3 6" in told
    assert "0.250 0.375 0.500 0.625 0.750" in told
    assert "differ by +2.00 ml in the mean; 95 % of differences between +0.04 and +3.96 ml" in told
    assert answer.text.count("<circle") == 3
    assert '<a class="uid" href="/studies/1.2.3.4">' in answer.text
    assert "Change what it may do" not in told


def test_promoting_needs_a_reason_and_a_confirmation(hospital: Hospital) -> None:
    browser, path = hospital.page.logged_in(), hospital.path("1.1.0")
    action = f"{path}/promote"
    assert action in browser.get(path).text
    answer = browser.submit(action, action, reason="better")
    assert answer.status_code == 400
    assert "Tick the box" in words(answer)
    answer = browser.submit(action, action, reason=" ", sure="yes")
    assert "Not done: say why" in words(answer)
    assert hospital.site.states() == ["live", "shadow", "shadow"]
    answer = browser.submit(action, action, reason="Dice 0.9 <here>", sure="yes")
    assert (answer.status_code, answer.headers["location"]) == (303, f"{path}?notice=changed")
    assert hospital.site.states() == ["retired", "live", "shadow"]
    assert events(hospital.page.database, "model_changed")[-1][1]["reason"] == "Dice 0.9 <here>"
    assert "Dice 0.9 &lt;here&gt;" in browser.get(path).text
    assert "<here>" not in browser.get(path).text


def test_rolling_back_from_the_page_of_the_live_version(hospital: Hospital) -> None:
    hospital.site.promote("1.1.0")
    action = f"{hospital.path('1.1.0')}/rollback"
    hospital.page.logged_in().submit(action, action, reason="complaints", sure="yes")
    assert hospital.site.states() == ["live", "retired", "shadow"]


@pytest.mark.parametrize("role", [Role.VIEWER, Role.AUDITOR])
def test_only_administrators_change_models(hospital: Hospital, role: Role) -> None:
    browser, action = hospital.page.logged_in(role), f"{hospital.path('1.1.0')}/promote"
    assert browser.get(action).status_code == 403
    assert browser.post(action, {"reason": "x", "sure": "yes"}).status_code == 403
    assert hospital.site.states() == ["live", "shadow", "shadow"]


def test_a_form_without_its_token_changes_nothing(hospital: Hospital) -> None:
    action = f"{hospital.path('1.1.0')}/promote"
    form = {"reason": "x", "sure": "yes", "csrf": "guessed"}
    assert hospital.page.logged_in().post(action, form).status_code == 403
    assert hospital.site.states() == ["live", "shadow", "shadow"]


def test_what_is_not_there_is_said(hospital: Hospital) -> None:
    browser = hospital.page.logged_in()
    assert browser.get("/models/abc").status_code == 404
    assert browser.get(f"{hospital.path('1.1.0')}/explode").status_code == 404


def test_a_pair_without_volumes_has_no_plot(hospital: Hospital) -> None:
    hospital.compare((1.0, 1.0))
    with hospital.page.database.transaction() as session:
        session.scalars(select(ComparisonRow)).one().live_volume_mm3 = None
    answer = hospital.page.logged_in().get(hospital.path("1.1.0"))
    assert "1 series seen by both" in words(answer)
    assert "<circle" not in answer.text
