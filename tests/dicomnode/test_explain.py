"""`dicomnode explain`: files and known studies, this configuration and another, in the words of the audit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicomnode.__main__ import app
from dicomnode.config import load_settings
from dicomnode.errors import PermanentError
from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database
from dicomnode.records.lookup import events_about, find_one
from dicomnode.records.states import StudyState
from dicomnode.records.story import tell
from dicomnode.records.tables import StudyRow
from dicomnode.route.dispatch import Dispatch
from dicomnode.selftest.bundles import write_bundle
from dicomnode.spool import Spool
from inference.registry import find_bundles
from tests.databases import migrated_database
from tests.dicomnode.parts import arrival, image, save, write_config

STUDY = "1.2.3.4"
OTHER_ROUTE = """
[[route]]
name = "thin only"
model = "threshold"
destinations = ["PACS"]
[route.when]
modality = "CT"
slice_thickness_mm = { max = 1.0 }
"""


@pytest.fixture(autouse=True)
def wide_output(monkeypatch: pytest.MonkeyPatch) -> None:
    from dicomnode.commands.options import console

    monkeypatch.setattr(console, "width", 300)


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["explain", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


def write_other(config: Path, changed: str) -> Path:
    """The same node with one route that is different."""
    text = config.read_text()
    other = config.with_name("other.toml")
    other.write_text(text[: text.index("[[route]]")] + changed)
    return other


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "models" / "threshold")
    return write_config(tmp_path, '[models]\nfolder = "models"\n')


@pytest.fixture
def known(config: Path) -> Database:
    """A study of a thick and a thin series of CT and one of MR, received and routed."""
    settings = load_settings(config)
    database = migrated_database(settings)
    spool = Spool(settings.spool)
    spool.prepare()
    intake = Intake(spool, database, Audit("receiver"))
    intake.take(arrival(image(SeriesInstanceUID="1.2.3.4.5", SeriesNumber=1, SliceThickness="5")))
    intake.take(arrival(image(SeriesInstanceUID="1.2.3.4.6", SeriesNumber=2, SliceThickness="1.5")))
    intake.take(arrival(image(SeriesInstanceUID="1.2.3.4.7", SeriesNumber=3, Modality="MR")))
    with database.transaction() as session:
        session.get_one(StudyRow, STUDY).state = StudyState.COMPLETE.value
    registry = find_bundles(settings.models.folder)
    Dispatch(settings, database, registry, Audit("routing")).route_complete_studies()
    return database


def test_a_known_study_is_explained_by_its_uid_or_accession_number(config: Path, known: Database) -> None:
    told = run(STUDY, "--config", str(config))
    assert "series number 2 is better: 1 slices of 1.5 mm against 1 slices of 5 mm" in told
    assert "modality MR does not fit CT" in told
    assert "different" not in told
    assert "Thorax" not in told  # a description may name a patient
    assert json.loads(run("ACC-90210", "--config", str(config), "--json")) == json.loads(
        run(STUDY, "--config", str(config), "--json")
    )


def test_explain_audit_and_decisions_use_the_very_same_words(config: Path, known: Database) -> None:
    with known.snapshot() as session:
        story = [line.sentence for line in tell(events_about(session, find_one(session, STUDY)))]
    for series in json.loads(run(STUDY, "--config", str(config), "--json")):
        assert series["then"]["reason"].startswith(series["reason"])
        assert any(sentence.endswith(series["then"]["reason"]) for sentence in story)
        assert series["checks"] == series["then"]["checks"]


def test_another_configuration_shows_what_would_be_different(config: Path, known: Database) -> None:
    other = write_other(config, OTHER_ROUTE)
    told = run(STUDY, "--config", str(config), "--other", str(other))
    assert (
        "different series 2 would go to no model instead of model threshold by route 'lesions': "
        "route 'thin only': slice_thickness_mm 1.5 does not fit ..1"
    ) in told
    assert told.count("different series") == 1  # the others go nowhere under both
    differences = {
        series["series_instance_uid"]: series["differences"]
        for series in json.loads(run(STUDY, "--config", str(config), "--other", str(other), "--json"))
    }
    assert [uid for uid, found in differences.items() if found] == ["1.2.3.4.6"]


def test_a_configuration_that_was_changed_since_then_is_compared_with_what_was_decided(
    config: Path, known: Database
) -> None:
    other = write_other(config, OTHER_ROUTE)
    told = run(STUDY, "--config", str(other))
    assert "different series 2 was decided otherwise: model threshold by route 'lesions'" in told


def test_the_same_routes_are_said_to_be_the_same(config: Path, known: Database) -> None:
    twin = shutil.copy(config, config.with_name("twin.toml"))
    assert "twin.toml sends every series to the same place" in run(
        STUDY, "--config", str(config), "--other", str(twin)
    )


def test_files_are_compared_without_a_database(config: Path, tmp_path: Path) -> None:
    save(image(SliceThickness="2"), tmp_path / "files" / "one.dcm")
    other = write_other(config, OTHER_ROUTE)
    told = run(str(tmp_path / "files"), "--config", str(config), "--other", str(other))
    assert "Thorax" in told
    assert "would go to no model instead of model threshold" in told
    assert not (tmp_path / "data").exists()


def test_every_condition_can_be_shown(config: Path, known: Database) -> None:
    told = run(STUDY, "--config", str(config), "--conditions")
    assert "route 'lesions': modality CT fits CT" in told
    assert "route 'lesions': modality MR does not fit CT" in told


@pytest.mark.parametrize("keyword", ["series_description", "study_description"])
def test_free_text_is_never_shown_in_a_reason(config: Path, keyword: str, known: Database) -> None:
    other = write_other(
        config, OTHER_ROUTE.replace("slice_thickness_mm = { max = 1.0 }", f'{keyword} = "x+y"')
    )
    reasons: list[Any] = json.loads(run(STUDY, "--config", str(other), "--json"))
    assert reasons[0]["reason"] == f"route 'thin only': {keyword} (not shown) does not fit /x+y/"
    assert "Thorax" not in json.dumps(reasons)


def test_a_study_whose_images_are_gone_says_where_the_decision_is(config: Path, known: Database) -> None:
    shutil.rmtree(load_settings(config).spool / "studies")
    with pytest.raises(PermanentError, match=r"are not kept any more; `dicomnode audit show 1\.2\.3\.4`"):
        run(STUDY, "--config", str(config))
