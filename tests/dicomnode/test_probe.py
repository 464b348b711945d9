"""What a peer accepts, and what follows from it for the results that it gets."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicomnode.config import load_settings
from dicomnode.deliver.sender import accepted_syntaxes
from dicomnode.errors import ConfigurationError, TransientError
from dicomnode.forms import Form, kinds_of
from dicomnode.profiles import LABEL_MAP_SEGMENTATION_STORAGE, NEEDS, choose_forms, read_profile
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.node import PeerSettings
from tests.dicomnode.console import Command
from tests.dicomnode.parts import peer_answering, wait_until, write_config
from tests.real_parts import require_program

STATES = (GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage)
CLASSES = sorted({uid for needed in NEEDS.values() for uid in needed})


@pytest.mark.parametrize(
    ("accepted", "forms"),
    [
        (CLASSES, (Form.SEG, Form.REPORTS)),
        ([LABEL_MAP_SEGMENTATION_STORAGE, Comprehensive3DSRStorage], (Form.LABELMAP, Form.REPORTS)),
        ([SegmentationStorage, SecondaryCaptureImageStorage], (Form.SEG, Form.PICTURES)),
        ([*STATES, Comprehensive3DSRStorage, SecondaryCaptureImageStorage], (Form.CONTOURS, Form.REPORTS)),
        ([*STATES, SecondaryCaptureImageStorage], (Form.CONTOURS, Form.PICTURES)),
        ([STATES[0], SecondaryCaptureImageStorage], (Form.PICTURES,)),
        ([SecondaryCaptureImageStorage, EncapsulatedPDFStorage], (Form.PICTURES,)),
        ([EncapsulatedPDFStorage], (Form.PDF,)),
        ([], ()),
    ],
)
def test_the_best_accepted_form_is_chosen(accepted: list[str], forms: tuple[Form, ...]) -> None:
    assert choose_forms(accepted) == forms


def test_a_probe_writes_a_profile_that_the_node_follows(tmp_path: Path) -> None:
    with peer_answering(sop_classes=[SecondaryCaptureImageStorage, EncapsulatedPDFStorage]) as peer:
        command = Command(write_config(tmp_path, peer_port=peer.port))
        assert load_settings(command.config).wanted["PACS"] == kinds_of([Form.SEG, Form.REPORTS])
        told = command("probe", "PACS")
    assert "forms: pictures" in told
    profile = read_profile(tmp_path / "profiles" / "PACS.toml")
    assert profile.forms == (Form.PICTURES,)
    assert str(ExplicitVRLittleEndian) in profile.accepted[SecondaryCaptureImageStorage]
    assert SegmentationStorage not in profile.accepted
    assert load_settings(command.config).wanted["PACS"] == {"pictures"}
    assert peer.received == []


def test_a_dry_run_only_says_it(tmp_path: Path) -> None:
    with peer_answering() as peer:
        command = Command(write_config(tmp_path, peer_port=peer.port))
        assert command.json("probe", "PACS", "--dry-run")["forms"] == ["seg", "reports"]
    assert not (tmp_path / "profiles").exists()


def test_storage_commitment_is_told_of_and_never_switched_on(tmp_path: Path) -> None:
    offered = [SegmentationStorage, StorageCommitmentPushModel]
    with peer_answering(sop_classes=offered) as peer:
        command = Command(write_config(tmp_path, peer_port=peer.port))
        assert command.json("probe", "PACS")["storage_commitment"] is True
        assert "set storage_commitment = true" in command("probe", "PACS")
    assert load_settings(command.config).peers["PACS"].storage_commitment is False
    assert StorageCommitmentPushModel not in read_profile(tmp_path / "profiles" / "PACS.toml").accepted


def test_a_peer_that_takes_nothing_of_ours_is_told_of(tmp_path: Path) -> None:
    with peer_answering(sop_classes=[]) as peer:
        command = Command(write_config(tmp_path, peer_port=peer.port))
        assert "it accepts no form of result" in command("probe", "PACS", code=1)
    assert not (tmp_path / "profiles").exists()


def test_a_peer_that_is_away_is_said_to_be_away(tmp_path: Path) -> None:
    peer = PeerSettings(name="X", ae_title="X", host="127.0.0.1", port=free_port())
    with pytest.raises(TransientError, match="does not answer"):
        accepted_syntaxes("NODE", peer, CLASSES)


def test_what_the_configuration_says_goes_before_the_profile(tmp_path: Path) -> None:
    with peer_answering() as peer:
        config = write_config(tmp_path, peer_port=peer.port)
        Command(config)("probe", "PACS")
    config.write_text(
        config.read_text().replace('name = "PACS"', 'name = "PACS"\nforms = ["pdf", "rtstruct"]', 1)
    )
    assert load_settings(config).wanted["PACS"] == {"pdf", "rtstruct"}


def test_a_broken_profile_is_named_at_the_start(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "profiles").mkdir()
    written = 'ae_title = "PACS"\nprobed_at = 2026-01-05T10:00:00Z\nforms = ["hologram"]\naccepted = {}\n'
    (tmp_path / "profiles" / "PACS.toml").write_text(written)
    with pytest.raises(ConfigurationError, match=r"profiles/PACS.toml: .*forms.0"):
        load_settings(config)


def test_profiles_that_this_user_may_not_see_are_named_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path)

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(
        ConfigurationError, match=r"PACS\.toml cannot be looked for \(Permission denied\); run"
    ):
        load_settings(config)


@pytest.mark.real_parts
def test_a_storescp_that_takes_only_pictures_is_found_out(tmp_path: Path) -> None:
    peer = PeerSettings(name="OLD", ae_title="OLD", host="127.0.0.1", port=free_port())
    with _storescp(tmp_path, peer.port, ("SecondaryCaptureImageStorage",)):
        accepted = accepted_syntaxes("NODE", peer, CLASSES)
    assert set(accepted) == {SecondaryCaptureImageStorage}
    assert choose_forms(accepted) == (Form.PICTURES,)


@contextmanager
def _storescp(folder: Path, port: int, classes: tuple[str, ...]) -> Iterator[None]:
    """DCMTK's storescp with a profile that accepts Verification and `classes` alone."""
    contexts = "\n".join(f"PresentationContext{i} = {name}\\Plain" for i, name in enumerate(classes, start=2))
    (folder / "storescp.cfg").write_text(
        "[[TransferSyntaxes]]\n[Plain]\nTransferSyntax1 = LocalEndianExplicit\n"
        "TransferSyntax2 = LittleEndianImplicit\n[[PresentationContexts]]\n[Old]\n"
        f"PresentationContext1 = VerificationSOPClass\\Plain\n{contexts}\n"
        "[[Profiles]]\n[Default]\nPresentationContexts = Old\n"
    )
    program = require_program("storescp")
    with subprocess.Popen(
        [program, "-xf", "storescp.cfg", "Default", "--ignore", str(port)],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as server:  # fmt: skip
        try:
            peer = PeerSettings(name="OLD", ae_title="OLD", host="127.0.0.1", port=port)
            wait_until(lambda: _answers(peer))
            yield
        finally:
            server.terminate()


def _answers(peer: PeerSettings) -> bool:
    try:
        accepted_syntaxes("NODE", peer, CLASSES)
    except TransientError:
        return False
    return True
