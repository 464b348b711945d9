"""What the node does with bytes from outside, as functions that end in a word or in a finding.

An expected end is "refused" (at the door), "parked" (kept, and failed with a reason) or "taken". Whatever
else is raised is a finding, and so is an object that is acknowledged and cannot be read back.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from pydicom.data import get_testdata_file
from pydicom.errors import InvalidDicomError

from dicomnode.config import load_settings
from dicomnode.encode.decode import read_frames
from dicomnode.errors import ConfigurationError, PermanentError
from dicomnode.part10 import read_part10
from dicomnode.profiles import read_profile
from dicomnode.read.folder import read_folder
from dicomnode.read.volumes import read_volume
from dicomnode.receive.arrival import Arrival, Origin, identify
from dicomnode.route.routing import route_study
from dicomnode.show.stored_report import read_measurements
from dicomnode.spool import Spool
from dicomnode.study import read_instance, text
from inference.volume import Volume
from tests.dicomnode.encode.situations import saved, situation
from tests.dicomnode.parts import CONFIG, image, write_config
from tests.fuzz.network import answered, answers, conversations, objected, said
from tests.fuzz.web import asked, requests

ORIGIN = Origin("PACS", "127.0.0.1", "LESIONNODE")
EVERY_OF_MORE = 40
MORE = "FUZZ_CORPUS"
"""Environment variable: a folder of more DICOM files to begin with."""


def received(content: bytes) -> str:
    """A file's bytes as they come by C-STORE: file meta information of ours, the data set as sent."""
    warnings.simplefilter("ignore")
    try:
        meta = read_part10(content, pixels=False).file_meta
    except InvalidDicomError:
        return "refused"
    arrival = Arrival(
        file_header=b"",
        encoded=memoryview(content),
        sop_class_uid=text(meta, "MediaStorageSOPClassUID"),
        sop_instance_uid=text(meta, "MediaStorageSOPInstanceUID"),
        transfer_syntax_uid=text(meta, "TransferSyntaxUID"),
        origin=ORIGIN,
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            identity = identify(arrival)
            path = Spool(Path(folder)).instance_path(
                identity.study_instance_uid, identity.series_instance_uid, arrival.sop_instance_uid, "0" * 64
            )
        except PermanentError:
            return "refused"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        kept = read_instance(path)  # what is acknowledged can be read back
    assert text(kept.header, "SeriesInstanceUID") == identity.series_instance_uid
    return "taken"


def opened(content: bytes) -> str:
    """A file in a folder that is explained and segmented, up to the volume that a model would see."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = load_settings(write_config(folder, port=11112, peer_port=11113))
        (folder / "images").mkdir()
        (folder / "images" / "one.dcm").write_bytes(content)
        try:
            studies = read_folder(folder / "images").studies
        except PermanentError:
            return "refused"
        for study in studies:
            route_study(study, settings.route)
            for series in study.series:
                try:
                    assert isinstance(read_volume(series).volume, Volume)
                except PermanentError:
                    return "parked"
    return "taken"


def configured(content: bytes) -> str:
    """`node.toml` and the profile of a peer."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "node.toml"
        path.write_bytes(content)
        ends = []
        for read in (load_settings, read_profile):
            try:
                read(path)
                ends.append("taken")
            except ConfigurationError:
                ends.append("refused")
    return min(ends, key=("taken", "refused").index)


def returned(content: bytes) -> str:
    """A segmentation or report as it is read back, with the errors that are foreseen for broken ones."""
    warnings.simplefilter("ignore")
    try:
        dataset = read_part10(content, pixels=True)
        for frame in read_frames(dataset):
            assert frame.mask.shape == (int(dataset.Rows), int(dataset.Columns))
    except InvalidDicomError:
        return "refused"
    except BROKEN:
        frames_are_read = False
    else:
        frames_are_read = True
    try:
        measured = bool(read_measurements([dataset]).lesions)
    except BROKEN:
        measured = False
    return "taken" if frames_are_read or measured else "refused"


BROKEN = (AttributeError, KeyError, ValueError, TypeError, IndexError)
"""What a data set raises in which something is missing or of another kind."""

Target = Callable[[bytes], str]
TARGETS: dict[str, Target] = {
    "received": received,
    "opened": opened,
    "returned": returned,
    "configured": configured,
    "associated": said,
    "answered": answered,
    "syslog": objected,
    "web": asked,
}
SHARES = {
    "received": 0.4, "opened": 0.3, "returned": 0.08, "configured": 0.08, "associated": 0.03,
    "answered": 0.01, "syslog": 0.02, "web": 0.06,
}  # fmt: skip
"""Which part of the cases each target gets; what is left is for the socket of a whole receiver."""

WORDS: dict[str, Callable[[], list[bytes]]] = {
    "associated": conversations,
    "answered": answers,
    "syslog": lambda: [
        b"",
        b"6 <85>1\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x16\x03\x03\x00\x04\x02\x00\x00\x00",
    ],
    "web": requests,
}
"""First input of those that read no files."""

BUNDLED = (
    "CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm",
    "liver_1frame.dcm", "test-SR.dcm", "reportsi.dcm", "emri_small.dcm", "emri_small_RLE.dcm",
    "SC_rgb_small_odd.dcm", "JPEG2000.dcm", "JPEG-LL.dcm", "rtplan.dcm", "nested_priv_SQ.dcm", "US1_UNCR.dcm",
)  # fmt: skip
"""Of pydicom's own test files: images of many kinds, a segmentation, reports, a plan."""


def corpus(target: str) -> list[bytes]:
    """Good input to begin with."""
    if target in WORDS:
        return WORDS[target]()
    if target == "configured":
        profile = b'ae_title = "PACS"\nprobed_at = 2026-01-01T00:00:00Z\nforms = ["seg"]\n[accepted]\n'
        return [CONFIG.format(port=11112, peer_port=11113).encode(), profile]
    files = [Path(found) for name in BUNDLED if (found := get_testdata_file(name, download=False))]
    if MORE in os.environ:
        found_there = (path for path in Path(os.environ[MORE]).rglob("*") if path.is_file())
        files += sorted(found_there)[::EVERY_OF_MORE]
    contents = [path.read_bytes() for path in files]
    made = 5 * results() if target == "returned" else []  # as often as all others together
    return [*made, *(content for content in contents if len(content) < 600_000)]


def results() -> list[bytes]:
    """The segmentation and both reports of two lesions, as the node sends them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        objects = saved(situation("straight-line", folder / "source"), folder)
        return [path.read_bytes() for path in objects.values()]


def tiny_image() -> bytes:
    """One image small enough that most changes hit its header."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "tiny.dcm"
        image().save_as(path, enforce_file_format=True)
        return path.read_bytes()
