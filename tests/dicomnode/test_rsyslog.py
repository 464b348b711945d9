"""Audit messages at a real rsyslog, over UDP, TCP and TLS with certificates on both sides.

Not covered: messages that rsyslog had taken when it died by force; syslog has no answer that would tell.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database
from dicomnode.records.watch_tables import SyslogCursorRow
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.audit import SyslogSettings
from dicomnode.settings.node import Settings
from dicomnode.syslog import feed as feeding
from dicomnode.syslog.feed import Feed
from tests.certificates import Authority
from tests.dicomnode.parts import wait_until
from tests.dicomnode.syslog_parts import event_ids, parsed
from tests.real_parts import require_file, require_program

pytestmark = pytest.mark.real_parts

WAIT_S = 60.0

CONFIGURATION = """
global(workDirectory="{folder}" maxMessageSize="16k" defaultNetstreamDriverCAFile="{ca}"
       defaultNetstreamDriverCertFile="{certificate}" defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
module(load="imptcp")
module(load="imudp")
template(name="line" type="string" string="%inputname% %msgid% %pri% %msg%\\n")
ruleset(name="keep") {{ action(type="omfile" file="{folder}/messages" template="line") }}
input(type="imtcp" address="127.0.0.1" port="{ports[tls]}" ruleset="keep" name="tls")
input(type="imptcp" address="127.0.0.1" port="{ports[tcp]}" ruleset="keep" name="tcp")
input(type="imudp" address="127.0.0.1" port="{ports[udp]}" ruleset="keep" name="udp")
"""


class Rsyslog:
    """rsyslogd as a plain process, and what it wrote down."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self._program = require_program("rsyslogd")
        for library in Path("/usr/lib").glob("*/rsyslog"):
            require_file(library / "lmnsd_gtls.so")
        self.ports = {name: free_port() for name in ("udp", "tcp", "tls")}
        self._folder = folder
        folder.mkdir()
        certificate, key = authority.sign("receiver", folder=folder)
        (folder / "rsyslog.conf").write_text(
            CONFIGURATION.format(
                folder=folder, ca=authority.file, certificate=certificate, key=key, ports=self.ports
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        process_file = self._folder / "rsyslog.pid"
        command: list[str | Path] = [
            self._program,
            "-n",
            "-f",
            self._folder / "rsyslog.conf",
            "-i",
            process_file,
        ]
        with (self._folder / "errors").open("ab") as errors:
            self._process = subprocess.Popen(command, stdout=errors, stderr=errors)
        wait_until(process_file.exists, WAIT_S)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(WAIT_S)
            self._process = None

    def messages(self, transport: str) -> list[Any]:
        """The XML that came this way, held against the schema."""
        try:
            content = (self._folder / "messages").read_bytes()
        except FileNotFoundError:
            return []
        lines = content[: content.rfind(b"\n") + 1].decode().splitlines()  # the last one may be half written
        found = []
        for line in lines:
            came_by, message_id, priority, text = line.split(" ", 3)
            if came_by == transport:
                assert message_id == "DICOM+RFC3881"
                assert priority in ("84", "85")
                found.append(parsed(text.strip().removeprefix("\ufeff")))
        return found


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def rsyslog(tmp_path: Path, authority: Authority) -> Iterator[Rsyslog]:
    running = Rsyslog(tmp_path / "rsyslog", authority)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(feeding, "LONGEST_PAUSE_S", 0.2)


def record(database: Database, count: int) -> None:
    with database.transaction() as session:
        for _ in range(count):
            Audit("test").record(session, Event.STUDY_REPLAYED, Subject("1.2.3"))


def secured(rsyslog: Rsyslog, ca: Path, files: tuple[Path, Path] | None) -> SyslogSettings:
    certificate, key = files or (None, None)
    return SyslogSettings(
        name="tls", host="127.0.0.1", port=rsyslog.ports["tls"], ca=ca, certificate=certificate, key=key
    )


def keep_feeding(feed: Feed, condition: Callable[[], object]) -> None:
    def tick() -> object:
        feed.tick()
        return condition()

    wait_until(tick, WAIT_S)


def told(rsyslog: Rsyslog, transport: str) -> list[int]:
    """Numbers of the events that arrived, in their order."""
    return [number for message in rsyslog.messages(transport) for number in event_ids(message)]


@pytest.mark.parametrize(("transport", "count"), [("udp", 30), ("tcp", 450)])
def test_every_event_arrives_once(
    rsyslog: Rsyslog, settings: Settings, database: Database, transport: Literal["udp", "tcp"], count: int
) -> None:
    target = SyslogSettings(
        name=transport, host="127.0.0.1", port=rsyslog.ports[transport], transport=transport
    )
    record(database, count)
    feed = Feed(settings, target, database)
    keep_feeding(feed, lambda: len(rsyslog.messages(transport)) >= count)
    assert told(rsyslog, transport) == list(range(1, count + 1))
    feed.close()


def test_by_tls_every_event_arrives_once_though_the_receiver_is_away_for_a_while(
    rsyslog: Rsyslog, authority: Authority, settings: Settings, database: Database
) -> None:
    feed = Feed(settings, secured(rsyslog, authority.file, authority.sign("node")), database)
    record(database, 10)
    keep_feeding(feed, lambda: len(rsyslog.messages("tls")) == 10)
    rsyslog.stop()
    for _ in range(3):
        record(database, 10)
        feed.tick()
    rsyslog.start()
    keep_feeding(feed, lambda: len(rsyslog.messages("tls")) >= 40)
    assert told(rsyslog, "tls") == list(range(1, 41))
    feed.close()


@pytest.mark.parametrize("case", ["no certificate", "foreign certificate", "foreign receiver"])
def test_by_tls_nothing_is_taken_for_sent_where_one_side_does_not_trust_the_other(
    rsyslog: Rsyslog,
    authority: Authority,
    settings: Settings,
    database: Database,
    tmp_path: Path,
    case: str,
    logs: list[Any],
) -> None:
    other = Authority(tmp_path / "other", "Other CA")
    ca = other.file if case == "foreign receiver" else authority.file
    signer = other if case == "foreign certificate" else authority
    files = None if case == "no certificate" else signer.sign("node", folder=tmp_path / "node")
    feed = Feed(settings, secured(rsyslog, ca, files), database)
    record(database, 3)
    feed.tick()
    assert [entry["event"] for entry in logs] == ["syslog_away"]
    with database.snapshot() as session:
        assert session.get(SyslogCursorRow, "tls") is None
    assert rsyslog.messages("tls") == []
