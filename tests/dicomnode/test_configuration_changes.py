"""What became different in the configuration is in the trail, key by key, and no secret with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dicomnode.config import load_settings
from dicomnode.forms import Form
from dicomnode.profiles import Profile, write_profile
from dicomnode.records.audit import Audit, Event
from dicomnode.records.configuration import note_configuration
from dicomnode.records.db import Database, utc_now
from dicomnode.records.story import SENTENCES
from tests.dicomnode.parts import CONFIG, events

pytestmark = pytest.mark.both_databases

SECRET = "https://hooks.example.org/services/T0/{}"
PEER = '\n[[peer]]\nname = "OTHER"\nae_title = "OTHER"\nhost = "192.0.2.7"\nport = 104\n'


def started(folder: Path, database: Database, more: str, sha256: str) -> None:
    """The node starts with the usual configuration and `more`."""
    config = folder / "changing.toml"
    config.write_text(CONFIG.format(port=11112, peer_port=104) + more, "utf-8")
    with database.transaction() as session:
        note_configuration(session, Audit("serve"), load_settings(config), sha256)


def changes(database: Database) -> list[dict[str, Any]]:
    return [detail["changed"] for _, detail in events(database, "configuration_changed")]


def test_each_changed_key_is_told_with_both_values(tmp_path: Path, database: Database) -> None:
    started(tmp_path, database, "", "a")
    started(tmp_path, database, "", "a")
    started(tmp_path, database, f"[worker]\nlease_s = 45.0\n{PEER}", "b")
    started(tmp_path, database, "", "c")
    first, added, removed = changes(database)
    assert first["node.ae_title"] == {"old": "required", "new": "LESIONNODE"}
    assert "worker.lease_s" not in first
    assert added == {
        "worker.lease_s": {"old": "30.0", "new": "45.0"},
        "peer[OTHER].name": {"old": "required", "new": "OTHER"},
        "peer[OTHER].ae_title": {"old": "required", "new": "OTHER"},
        "peer[OTHER].host": {"old": "required", "new": "192.0.2.7"},
        "peer[OTHER].port": {"old": "required", "new": "104"},
    }
    assert removed["worker.lease_s"] == {"old": "45.0", "new": "30.0"}
    assert removed["peer[OTHER].host"] == {"old": "192.0.2.7", "new": "not set"}
    sentence = SENTENCES[Event.CONFIGURATION_CHANGED](events(database, "configuration_changed")[1][1])
    assert "worker.lease_s from 30.0 to 45.0" in sentence


def test_a_probed_or_edited_profile_of_a_peer_is_a_changed_configuration(
    tmp_path: Path, database: Database
) -> None:
    started(tmp_path, database, "", "a")
    profile = Profile(ae_title="PACS", probed_at=utc_now(), forms=(Form.SEG, Form.REPORTS), accepted={})
    for forms in ((Form.SEG, Form.REPORTS), (Form.PICTURES,)):
        write_profile(tmp_path / "profiles" / "PACS.toml", profile.model_copy(update={"forms": forms}))
        started(tmp_path, database, "", "a")
    started(tmp_path, database, "", "a")
    assert changes(database)[1:] == [
        {"profile[PACS].forms": {"old": "not set", "new": "seg, reports"}},
        {"profile[PACS].forms": {"old": "seg, reports", "new": "pictures"}},
    ]


def test_a_changed_secret_shows_only_as_a_changed_file(tmp_path: Path, database: Database) -> None:
    for number in range(2):
        started(tmp_path, database, f'[alerts]\nwebhook = "{SECRET.format(number)}"\n', str(number))
    assert changes(database)[1] == {}
    ((_, _), (_, told)) = events(database, "configuration_changed")
    assert told["configuration"]["alerts.webhook"] == "https://hooks.example.org/… (rest not shown)"
    assert "services" not in str(events(database))
