"""The configuration: every mistake is named at once, with its key and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from dicomnode.config import load_settings
from dicomnode.errors import ConfigurationError
from dicomnode.settings.node import ListenerSettings, PeerSettings, RouteSettings, Settings
from tests.dicomnode.parts import CONFIG, settings_in, write_config

MANY_MISTAKES = """
[node]
ae_title = "A_TITLE_OF_TWENTY_CHR"
port = "eleven"

[listener]
speed = 3
maximum_associations = 0

[[peer]]
name = "PACS"
ae_title = "PACS"
host = "127.0.0.1"
port = 4242
networks = ["10.0.0.0/99"]

[[peer]]
name = "PACS"
ae_title = "OTHER"
host = "127.0.0.1"
port = 4243

[assembly]
quiet_period_s = 60.0
deadline_s = 10.0

[[route]]
name = "lesions"
model = "m"
destinations = ["NOWHERE"]
[route.when]
modality = "CT"
instance_count = 40
series_description = "(unclosed"
slice_thickness_mm = { min = 5.0, max = 1.0 }
"""


def problems(folder: Path, text: str) -> list[str]:
    path = folder / "node.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigurationError) as raised:
        load_settings(path)
    first, *rest = str(raised.value).splitlines()
    assert str(path) in first
    return rest


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("node.data", "missing; add it"),
        ("node.ae_title", "at most 16"),
        ("node.port", "'eleven'"),
        ("listener.speed", "unknown key; remove it or correct its spelling"),
        ("listener.maximum_associations", "greater than or equal to 1"),
        ("peer[1].networks[1]", "10.0.0.0/99"),
        ("assembly", "deadline_s must not be below quiet_period_s"),
        ("route[1].when.series_description", "not a regular expression"),
        ("route[1].when.slice_thickness_mm", "min 5.0 is above max 1.0"),
        ("route[1].when.instance_count", "write { min = 1.0 }, { max = 5.0 }, or both in one; got 40"),
        ("peer", "the name 'PACS' is used 2 times; rename one"),
        ("route[1].destinations", "no peer is called 'NOWHERE'"),
        ("peer", "nobody may send"),
    ],
)
def test_a_file_with_many_mistakes_reports_each_with_key_and_remedy(
    tmp_path: Path, key: str, says: str
) -> None:
    found = problems(tmp_path, MANY_MISTAKES)
    assert any(line.strip().startswith(f"{key}: ") and says in line for line in found), found


def test_the_number_of_problems_is_the_number_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(MANY_MISTAKES)
    with pytest.raises(ConfigurationError) as raised:
        load_settings(path)
    first, *rest = str(raised.value).splitlines()
    assert f"{len(rest)} problem(s)" in first
    assert len(rest) == len(set(rest)) == 13


def test_a_file_that_is_not_toml_is_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("[node\n")
    with pytest.raises(ConfigurationError, match=r"node\.toml is not valid TOML: .*line 1"):
        load_settings(path)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="is not valid TOML"):
        load_settings(path)


def test_a_file_that_is_not_there_is_refused_naming_the_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.toml cannot be read .* --config"):
        load_settings(tmp_path / "missing.toml")


def test_a_section_of_the_wrong_kind_does_not_hide_the_other_problems(tmp_path: Path) -> None:
    found = problems(tmp_path, 'peer = "PACS"\nroute = 3\n[node]\nae_title = "N"\n')
    assert {line.split(":")[0].strip() for line in found} == {"node.data", "peer", "route"}


def test_destinations_that_are_no_names_do_not_hide_the_other_problems(tmp_path: Path) -> None:
    text = CONFIG.format(port=1, peer_port=2).replace('["PACS"]', '[["PACS"], "NOWHERE"]')
    found = "\n".join(problems(tmp_path, text))
    assert "route[1].destinations[1]" in found
    assert "'NOWHERE'" in found


def test_relative_paths_start_at_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    write_config(tmp_path / "etc", '[models]\nfolder = "../models"\n')
    monkeypatch.chdir(tmp_path)
    settings = load_settings(Path("etc/node.toml"))
    assert settings.node.data == tmp_path / "etc/data"
    assert settings.spool == tmp_path / "etc/data/spool"
    assert settings.models.folder.resolve() == tmp_path / "models"
    assert str(settings.database_url) == f"sqlite:///{tmp_path}/etc/data/node.sqlite"


def test_absolute_paths_stay_as_they_are(tmp_path: Path) -> None:
    assert settings_in(tmp_path, '[models]\nfolder = "/srv/models"\n').models.folder == Path("/srv/models")


def test_the_shipped_configuration_loads() -> None:
    settings = load_settings(Path(__file__).parents[2] / "config" / "node.toml")
    assert settings.route
    assert settings.peers["PACS"].may_send


def test_a_node_without_peers_may_be_configured(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[node]\nae_title = "N"\ndata = "d"\n')
    assert load_settings(path).peer == ()


def test_a_destination_named_twice_is_refused(tmp_path: Path) -> None:
    text = CONFIG.format(port=1, peer_port=2).replace('["PACS"]', '["PACS", "PACS"]')
    assert "names 'PACS' more than once" in problems(tmp_path, text)[0]


def test_a_tag_that_is_no_dicom_keyword_is_refused(tmp_path: Path) -> None:
    found = problems(tmp_path, CONFIG.format(port=1, peer_port=2) + 'tags = { PatientHight = "x" }\n')
    assert "'PatientHight' is not a DICOM keyword" in found[0]


@pytest.mark.parametrize("title", ["", "   ", "A" * 17, "BACK\\\\SLASH"])
def test_an_ae_title_that_dicom_forbids_is_refused(tmp_path: Path, title: str) -> None:
    text = CONFIG.format(port=1, peer_port=2).replace('"LESIONNODE"', f'"{title}"')
    assert problems(tmp_path, text)[0].strip().startswith("node.ae_title: ")


REQUIRED = {
    "TlsSettings": {"certificate", "key", "authorities"},
    "NodeSettings": {"ae_title", "data"},
    "PeerSettings": {"name", "ae_title", "host", "port"},
    "RouteSettings": {"name", "model", "destinations", "when"},
    "Conditions": {"modality"},
    "SyslogSettings": {"name", "host", "port"},
    "RequiredSettings": {"name", "when", "series"},
    "RequiredSeries": {"name", "when"},
    "PoolSettings": {"name"},
}


def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
    found: set[type[BaseModel]] = {model}
    for field in model.model_fields.values():
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel) and candidate not in found:
                found |= sections(candidate)
    return found


def test_only_what_nobody_can_guess_has_no_default() -> None:
    for section in sections(Settings) - {Settings}:
        needed = {name for name, field in section.model_fields.items() if field.is_required()}
        assert needed == REQUIRED.get(section.__name__, set()), section


def test_the_door_is_closed_by_default() -> None:
    assert PeerSettings.model_fields["may_send"].default is False
    assert ListenerSettings().minimum_free_gb > 0
    assert RouteSettings.model_fields["select"].default == "best"


DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.mark.skipif(not DOCUMENT.is_file(), reason="docs/configuration.md is not written yet")
def test_every_key_is_described_in_the_documentation() -> None:
    words = set(re.findall(r"\w+", DOCUMENT.read_text("utf-8")))
    for section in sections(Settings):
        assert set(section.model_fields) <= words, set(section.model_fields) - words


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://node@db/node", "must begin with postgresql://"),
        ("postgresql://node@db", "names no database"),
        ("postgresql://node:Sesame7@db/node", "password_file"),
        ("postgresql://node@db/node?password=Sesame7", "password_file"),
        ("postgresql://node:Sesame7@db/node?nonsense=1", "is not a connection URI"),
    ],
)
def test_a_wrong_url_of_the_database_is_told_of_without_its_password(
    tmp_path: Path, url: str, told: str
) -> None:
    (found,) = problems(tmp_path, CONFIG.format(port=1, peer_port=2) + f'[database]\nurl = "{url}"\n')
    assert found.startswith("  database.url: ")
    assert told in found
    assert "Sesame7" not in found


def test_the_password_of_the_database_comes_from_its_file_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("Sesame7\n")
    more = '[database]\nurl = "postgresql://node@db1:1,db2:2/records"\npassword_file = "password"\n'
    settings = settings_in(tmp_path, more)
    assert settings.database_url.password == "Sesame7"
    assert "Sesame7" not in f"{settings} {settings!r} {settings.database_url} {settings.database_url!r}"
    monkeypatch.setenv("DICOMNODE_DATABASE_PASSWORD", "Sesame8")
    assert settings.database_url.password == "Sesame8"
    monkeypatch.setenv("DICOMNODE_DATABASE_URL", "postgresql://other:Sesame9@db3/records")
    assert (settings.database_url.username, settings.database_url.password) == ("other", "Sesame9")


def test_a_password_file_that_is_missing_is_told_of_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="DICOMNODE_DATABASE_PASSWORD"):
        settings_in(tmp_path, '[database]\nurl = "postgresql://node@db/node"\npassword_file = "nowhere"\n')


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("[assembly]\ndeadline_s = inf\n", "assembly.deadline_s: .* finite number"),
        ("[web]\nsession_s = nan\n", "web.session_s: .* finite number"),
        ("[web]\nidle_s = 1e12\n", "web.idle_s: must be at most 31622400; got"),
        ("[worker]\njob_timeout_s = 3e6\n", "worker.job_timeout_s: must be at most 1728000; got"),
        ("[retention]\ninputs_days = 1e6\n", "retention.inputs_days: must be at most 36600; got"),
    ],
)
def test_a_length_of_time_has_an_end(tmp_path: Path, more: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        settings_in(tmp_path, more)


def test_a_long_time_is_one(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, "[assembly]\ndeadline_s = 604800\n[retention]\ninputs_days = 36500\n")
    assert (settings.assembly.deadline_s, settings.retention.inputs_days) == (604800.0, 36500.0)
