"""TLS in both directions against DCMTK and OpenSSL, with certificates made for the occasion.

Not covered: revocation, which the node does not look at; real peers that are older than TLS 1.2.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage
from sqlalchemy import select

from dicomnode.certificates import check_certificates
from dicomnode.checks.peers import check_calls
from dicomnode.config import load_settings
from dicomnode.deliver.answers import Fate
from dicomnode.deliver.sender import echo, send
from dicomnode.errors import ConfigurationError, TransientError
from dicomnode.observe.readiness import readiness
from dicomnode.receive.admission import WITHOUT_TLS, WRONG_CERTIFICATE, admit
from dicomnode.receive.arrival import Origin
from dicomnode.receive.listener import Listener
from dicomnode.records.db import Database
from dicomnode.records.tables import InstanceRow
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.node import PeerSettings, Settings
from dicomnode.spool import Spool
from tests.certificates import Authority
from tests.databases import migrated_database
from tests.dicomnode.parts import events, image, save, wait_until, write_config
from tests.real_parts import require_program

WAIT_S = 60.0

TLS = """
[tls]
certificate = "{certificate}"
key = "{key}"
authorities = "{authorities}"
port = {port}

[[peer]]
name = "secure"
ae_title = "SECURE"
host = "127.0.0.1"
port = {peer_port}
may_send = true
tls = true
tls_name = "{tls_name}"
"""


@dataclass
class Place:
    """A node that listens by TLS, its authority and its configuration."""

    authority: Authority
    certificate: Path
    key: Path
    settings: Settings
    database: Database

    @property
    def peer(self) -> PeerSettings:
        return self.settings.peers["secure"]

    @property
    def tls_port(self) -> int:
        assert self.settings.tls
        return self.settings.tls.port

    def rejections(self) -> list[str]:
        return [detail["reason"] for _, detail in events(self.database, "association_rejected")]

    def stored(self) -> int:
        with self.database.snapshot() as session:
            return len(list(session.scalars(select(InstanceRow))))


def place_in(folder: Path, tls_name: str = "") -> Place:
    authority = Authority(folder / "ca")
    certificate, key = authority.sign("node.hospital")
    more = TLS.format(
        certificate=certificate, key=key, authorities=authority.file, port=free_port(),
        peer_port=free_port(), tls_name=tls_name,
    )  # fmt: skip
    settings = load_settings(write_config(folder, more))
    database = migrated_database(settings)
    return Place(authority, certificate, key, settings, database)


@contextmanager
def listening(place: Place) -> Iterator[Listener]:
    spool = Spool(place.settings.spool)
    spool.prepare()
    listener = Listener(place.settings, place.database, spool)
    listener.start()
    try:
        yield listener
    finally:
        listener.stop()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = place_in(tmp_path)
    yield found
    found.database.engine.dispose()


def storescu(place: Place, file: Path, *tls: str, calling: str = "SECURE", port: int = 0) -> int:
    command = [
        require_program("storescu"), *tls, "-aet", calling, "-aec", "LESIONNODE",
        "127.0.0.1", str(port or place.tls_port), str(file),
    ]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "TCP_NODELAY": "1"}, capture_output=True, timeout=120)
    return done.returncode


def as_client(authority: Authority, certificate: Path, key: Path) -> list[str]:
    return ["+tls", str(key), str(certificate), "+cf", str(authority.file)]


def openssl(place: Place, *arguments: str) -> str:
    """What `openssl s_client` says; it sends nothing and ends when the other side closes, or soon."""
    command = [require_program("openssl"), "s_client", "-connect", f"127.0.0.1:{place.tls_port}", *arguments]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=120)
    return (done.stdout + done.stderr).decode(errors="replace")


@pytest.mark.real_parts
def test_a_peer_with_a_certificate_of_our_authority_stores_and_others_are_refused_and_audited(
    place: Place, tmp_path: Path
) -> None:
    file = save(image(), tmp_path / "a.dcm")
    good = as_client(place.authority, *place.authority.sign("pacs.hospital"))
    expired = as_client(place.authority, *place.authority.sign("old.hospital", days=-1))
    foreign = Authority(tmp_path / "foreign", "Somebody else")
    forged = as_client(place.authority, *foreign.sign("pacs.hospital"))
    with listening(place):
        assert storescu(place, file, *good) == 0
        wait_until(lambda: place.stored() == 1, WAIT_S)
        assert storescu(place, file, *expired) != 0
        wait_until(
            lambda: "TLS: certificate of the peer: certificate has expired" in place.rejections(), WAIT_S
        )
        assert storescu(place, file, *forged) != 0
        wait_until(lambda: any("unable to get local issuer" in said for said in place.rejections()), WAIT_S)
        assert storescu(place, file, "+tla", "+cf", str(place.authority.file)) != 0
        wait_until(lambda: "TLS: peer did not return a certificate" in place.rejections(), WAIT_S)
        assert storescu(place, file) != 0  # speaks plain DICOM to the TLS port
        wait_until(lambda: len(place.rejections()) == 4, WAIT_S)
        assert storescu(place, file, calling="SECURE", port=place.settings.node.port) != 0
        wait_until(lambda: WITHOUT_TLS.reason in place.rejections(), WAIT_S)


@pytest.mark.real_parts
@pytest.mark.parametrize(
    ("offer", "refused"),
    [
        (("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), True),
        (("-tls1_2", "-cipher", "AES128-SHA256:AES256-GCM-SHA384"), True),  # no forward secrecy
        (("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA"), True),  # no AEAD
        (("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"), False),
        (("-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"), False),
        (("-tls1_3",), False),
    ],
)
def test_only_what_bcp_195_recommends_is_negotiated(
    place: Place, offer: tuple[str, ...], refused: bool
) -> None:
    certificate, key = place.authority.sign("pacs.hospital")
    with listening(place):
        said = openssl(
            place, *offer, "-cert", str(certificate), "-key", str(key), "-CAfile", str(place.authority.file)
        )
        if refused:
            assert "Cipher is (NONE)" in said
            wait_until(lambda: place.rejections(), WAIT_S)
            assert place.rejections()[0].startswith("TLS: ")
        else:
            assert "Verify return code: 0 (ok)" in said
            assert "Cipher is (NONE)" not in said


def test_a_handshake_that_is_not_finished_holds_up_nobody_and_is_closed(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    rules = place.settings.listener.model_copy(update={"association_timeout_s": 2.0})
    place.settings = place.settings.model_copy(update={"listener": rules})
    me = place.peer.model_copy(update={"port": place.tls_port, "ae_title": "LESIONNODE"})
    with listening(place), socket.create_connection(("127.0.0.1", place.tls_port)) as silent:
        echo("SECURE", me)
        silent.settimeout(WAIT_S)
        assert silent.recv(1) == b""
        wait_until(lambda: place.rejections() == ["TLS: not finished in time"], WAIT_S)


def test_the_plain_port_stays_closed_when_every_sender_uses_tls(place: Place) -> None:
    only = place.settings.model_copy(update={"peer": (place.peer,)})
    spool = Spool(place.settings.spool)
    spool.prepare()
    listener = Listener(only, place.database, spool)
    listener.start()
    try:
        assert listener.ports == [place.tls_port]
        listens = readiness(only, place.database)[-1]
        assert (listens.name, listens.good) == ("listener", True), listens.detail
        with socket.create_connection(("127.0.0.1", place.tls_port)) as plain:
            plain.sendall(b"no TLS at all\r\n")
            wait_until(place.rejections, WAIT_S)
        wait_until(lambda: not listener._connections._opening, WAIT_S)
        assert len(place.rejections()) == 1, "who only tries the port is not turned away"
    finally:
        listener.stop()
    (never,) = check_calls(only, place.database, 0.0)
    assert f"at port {place.tls_port}" in never.detail


@pytest.mark.real_parts
def test_results_go_by_tls_to_a_peer_whose_certificate_bears_its_name(tmp_path: Path) -> None:
    place = place_in(tmp_path, tls_name="archive.hospital")
    certificate, key = place.authority.sign("archive.hospital")
    folder = tmp_path / "received"
    folder.mkdir()
    command = [
        require_program("storescp"), *as_client(place.authority, certificate, key), "-rc", "-od", str(folder),
        "-aet", "SECURE", str(place.peer.port),
    ]  # fmt: skip
    server = subprocess.Popen(command, env={**os.environ, "TCP_NODELAY": "1"}, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(place.peer), WAIT_S)
        file = save(image(), tmp_path / "a.dcm")
        assert [answer.fate for answer in send("NODE", place.peer, [file], 30.0)] == [Fate.ACCEPTED]
        assert len(list(folder.iterdir())) == 1
        other = place.peer.model_copy(update={"tls_name": "somebody.else"})
        with pytest.raises(TransientError, match="by TLS, or one side does not believe"):
            echo("NODE", other)
    finally:
        server.terminate()
        server.wait(30)


def answers(peer: PeerSettings) -> bool:
    try:
        echo("NODE", peer)
    except TransientError:
        return False
    return True


def serial_at(place: Place) -> str:
    """Serial number of the certificate that new connections are shown."""
    certificate, key = place.authority.sign("probe.hospital", folder=place.key.parent / "probe")
    said = openssl(place, "-cert", str(certificate), "-key", str(key), "-showcerts")
    shown = said[said.index("-----BEGIN CERTIFICATE") :]
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-serial"], input=shown.encode(), capture_output=True, timeout=60
    )
    return done.stdout.decode().strip()


@pytest.mark.real_parts
def test_a_new_certificate_is_used_without_a_restart_and_a_broken_one_is_not(
    place: Place, tmp_path: Path
) -> None:
    for path in (place.certificate, place.key, place.authority.file):
        age(path)
    with listening(place):
        first = serial_at(place)
        certificate, key = place.authority.sign("node.hospital", folder=tmp_path / "renewed")
        put(certificate, place.certificate)
        assert serial_at(place) == first  # the key is still the old one: told, and the old pair stays
        assert "key" in told(place, "certificate_not_reloaded")
        put(key, place.key)
        second = serial_at(place)
        assert second != first
        assert told(place, "certificate_reloaded") == "{}"
        place.certificate.write_text("rubbish")
        age(place.certificate)
        assert serial_at(place) == second
        wait_until(lambda: len(events(place.database, "certificate_not_reloaded")) == 2, WAIT_S)
        assert serial_at(place) == second
        assert len(events(place.database, "certificate_not_reloaded")) == 2  # told once


def put(new: Path, old: Path) -> None:
    """Replace a file as a renewal does, a while ago."""
    shutil.copy(new, old.with_suffix(".tmp"))
    age(old.with_suffix(".tmp"))
    old.with_suffix(".tmp").rename(old)


def age(path: Path) -> None:
    earlier = time.time() - 10
    os.utime(path, (earlier, earlier))


def told(place: Place, event: str) -> str:
    wait_until(lambda: events(place.database, event), WAIT_S)
    return str(events(place.database, event)[-1][1])


def test_files_that_are_just_being_written_are_left_alone(place: Place) -> None:
    with listening(place) as listener:
        place.certificate.write_text("half")
        credentials = listener._servers[0]._credentials
        assert credentials is not None
        credentials.context()
        assert events(place.database, "certificate_not_reloaded") == []


def test_a_peer_is_bound_to_the_name_in_its_certificate(tmp_path: Path) -> None:
    settings = place_in(tmp_path, tls_name="CT1.hospital").settings
    origin = Origin("SECURE", "127.0.0.1", "LESIONNODE")
    assert admit(origin, settings, ("ct1.hospital", "127.0.0.1")) is settings.peers["secure"]
    assert admit(origin, settings, ("ct2.hospital",)) is WRONG_CERTIFICATE
    assert admit(origin, settings, ()) is WRONG_CERTIFICATE
    assert admit(origin, settings, None) is WITHOUT_TLS


def test_a_key_with_a_password_is_opened_by_a_file(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    certificate, key = place.authority.sign("locked.hospital", password=b"correct horse")
    password = tmp_path / "password"
    assert place.settings.tls
    for content in ("correct horse\n", "wrong\n", None):
        files = place.settings.tls.model_copy(
            update={"certificate": certificate, "key": key, "key_password_file": password}
        )
        if content is None:
            files = files.model_copy(update={"key_password_file": None})
        else:
            password.write_text(content)
        place.settings = place.settings.model_copy(update={"tls": files})
        if content == "correct horse\n":
            with listening(place):
                pass
        else:
            with pytest.raises(ConfigurationError, match="key cannot be used"), listening(place):
                pass


SECRET = "MC4CAQAwBQYDK2VwBCIEIDqxyzSecretSecretSecret"


def test_a_secret_in_the_configuration_is_refused_and_not_repeated(tmp_path: Path) -> None:
    key = f"-----BEGIN PRIVATE KEY-----\\n{SECRET}\\n-----END PRIVATE KEY-----"
    more = f'[tls]\ncertificate = "a.pem"\nkey = "{key}"\nauthorities = "ca.pem"\n'
    with pytest.raises(ConfigurationError) as caught:
        load_settings(write_config(tmp_path, more))
    assert "tls.key: give the path of a file that holds the secret" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("tls = true", "peer 'x': tls = true, but the node has no certificate"),
        ('tls_name = "a"', "peer 'x': tls_name without tls = true"),
    ],
)
def test_tls_of_a_peer_that_cannot_be_is_a_problem_of_the_configuration(
    tmp_path: Path, more: str, says: str
) -> None:
    peer = f'[[peer]]\nname = "x"\nae_title = "X"\nhost = "h"\nport = 1\n{more}\n'
    with pytest.raises(ConfigurationError, match=says):
        load_settings(write_config(tmp_path, peer))


def test_a_peer_that_wants_tls_is_never_called_without(tmp_path: Path) -> None:
    peer: Any = PeerSettings(name="x", ae_title="X", host="127.0.0.1", port=free_port(), tls=True)
    file = save(image(SOPClassUID=CTImageStorage), tmp_path / "a.dcm")
    with pytest.raises(ValueError, match="wants TLS"):
        list(send("NODE", peer, [file], 1.0))


def findings(place: Place, days: float) -> list[str]:
    """What is not good about the TLS files, `days` from now."""
    assert place.settings.tls
    then = datetime.now(UTC) + timedelta(days=days)
    return [detail for good, detail in check_certificates(place.settings.tls, then) if not good]


def test_the_check_tells_of_certificates_that_expire_soon_or_are_over(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    place.authority.sign("node.hospital", days=200)
    assert findings(place, -1) == []
    assert findings(place, 10) == [f"ca.pem: CN=Test CA expires on {in_days(30)}, in 19 days; renew it"]
    assert findings(place, 40) == [f"ca.pem: CN=Test CA expired on {in_days(30)}; renew it"]
    assert any("node.hospital expired" in told for told in findings(place, 201))


def in_days(days: int) -> str:
    return f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%d}"


def test_the_check_tells_of_a_key_that_does_not_fit_or_that_others_can_read(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    place.authority.sign("node.hospital", days=200)
    _, other = place.authority.sign("other.hospital")
    place.key.write_bytes(other.read_bytes())
    place.key.chmod(0o640)
    mismatch, readable = findings(place, -1)
    assert "with key" in mismatch
    assert "KEY_VALUES_MISMATCH" in mismatch
    assert "chmod 600" in readable
    place.authority.file.unlink()
    assert any("authorities" in told and "No such file" in told for told in findings(place, -1))
