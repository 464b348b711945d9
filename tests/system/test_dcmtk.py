"""With DCMTK's tools as peers: who is let in, what is taken, and what the audit says of it.

Not covered: TLS, which is in tests/dicomnode/test_tls.py.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.series_writer import SeriesIdentity, write_series
from tests.phantoms import phantom
from tests.real_parts import require_program
from tests.system.node import AE_TITLE, Node, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.real_parts]


def test_a_known_peer_is_answered(node: Node) -> None:
    assert _echo(node, calling="PACS", called=AE_TITLE).returncode == 0


def test_an_unknown_caller_is_rejected_and_audited(node: Node) -> None:
    answer = _echo(node, calling="STRANGER", called=AE_TITLE)
    assert answer.returncode != 0
    assert "Calling AE Title Not Recognized" in answer.stderr + answer.stdout
    rejected = wait_for(lambda: node.events(event="association_rejected"), "the rejection is audited")
    assert rejected[-1].detail["calling_ae_title"] == "STRANGER"
    assert rejected[-1].detail["address"] == "127.0.0.1"


def test_a_wrong_called_title_is_rejected(node: Node) -> None:
    answer = _echo(node, calling="PACS", called="SOMEBODY")
    assert answer.returncode != 0
    assert "Called AE Title Not Recognized" in answer.stderr + answer.stdout


@pytest.mark.parametrize("syntax", ["-xe", "-xi", "-xb", "-xd"])
def test_storescu_stores_a_series_that_becomes_results(node: Node, tmp_path: Path, syntax: str) -> None:
    """Explicit, implicit, big-endian and deflated transfer syntaxes, as a toolkit sends them."""
    identity = SeriesIdentity()
    paths = write_series(phantom(spacing_mm=(6.0, 2.0, 2.0)).volume, tmp_path / "study", identity)
    if syntax == "-xd":  # storescu sends deflated files, but deflates none itself
        paths = [_deflate(path) for path in paths]
    sent = _dcmtk("storescu", syntax, "-aet", "PACS", "-aec", AE_TITLE, "127.0.0.1", str(node.port),
                  *map(str, paths))  # fmt: skip
    assert sent.returncode == 0, sent.stderr
    node.wait_until_delivered(identity.study_instance_uid)
    assert len(node.events(event="instance_received", study_instance_uid=identity.study_instance_uid)) == len(
        paths
    )


def test_nobody_else_can_read_what_a_running_node_keeps(node: Node, tmp_path: Path) -> None:
    identity = SeriesIdentity()
    paths = write_series(phantom(spacing_mm=(6.0, 2.0, 2.0)).volume, tmp_path / "study", identity)
    assert _dcmtk("storescu", "-aet", "PACS", "-aec", AE_TITLE, "127.0.0.1", str(node.port),
                  *map(str, paths)).returncode == 0  # fmt: skip
    node.wait_until_delivered(identity.study_instance_uid)
    data = node.settings.node.data
    kept = [data, *data.rglob("*")]
    assert len(kept) > 2 * len(paths)
    open_to_others = {
        str(path.relative_to(data)): f"{mode:o}" for path in kept if (mode := _rights(path)) & 0o077
    }
    assert open_to_others == {}


def _rights(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:  # journals of the database come and go
        return 0


def test_the_same_series_sent_again_makes_no_new_work(node: Node, tmp_path: Path) -> None:
    identity = SeriesIdentity()
    paths = write_series(phantom(spacing_mm=(6.0, 2.0, 2.0)).volume, tmp_path / "study", identity)
    for _ in range(2):
        sent = _dcmtk("storescu", "-xe", "-aet", "PACS", "-aec", AE_TITLE, "127.0.0.1", str(node.port),
                      *map(str, paths))  # fmt: skip
        assert sent.returncode == 0
        node.wait_until_delivered(identity.study_instance_uid)
    assert len(node.jobs(study_instance_uid=identity.study_instance_uid)) == 1
    repeated = node.events(event="instance_repeated", study_instance_uid=identity.study_instance_uid)
    assert len(repeated) == len(paths)


def _deflate(path: Path) -> Path:
    deflated = path.with_suffix(".deflated")
    done = _dcmtk("dcmconv", "+td", str(path), str(deflated))
    assert done.returncode == 0, done.stderr
    assert dcmread(deflated, stop_before_pixels=True).file_meta.TransferSyntaxUID.is_deflated
    return deflated


def _echo(node: Node, calling: str, called: str) -> subprocess.CompletedProcess[str]:
    return _dcmtk("echoscu", "-v", "-aet", calling, "-aec", called, "127.0.0.1", str(node.port))


def _dcmtk(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Without TCP_NODELAY the toolkit waits 40 ms for every object.
    return subprocess.run(
        [require_program(program), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "TCP_NODELAY": "1"},
    )
