"""OHIF opens what the node sends: every voxel, every label and every length as they left it.

The results of known lesions go into an Orthanc with DICOMweb, and a browser loads them from there as a
radiologist would. Screenshots stay in `.cache/viewers` to be looked at. Square pixels throughout:
with others OHIF 3.13.2 draws measurements of a report in the wrong place (docs/viewers.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from dicomnode.encode.results import encode_results
from dicomnode.encode.words import label_of
from dicomnode.encode.writing import to_bytes
from dicomnode.selftest.temporary import free_port
from inference.labelmap import Lesion
from inference.measure import Axis
from tests.dicomnode.encode.situations import (
    STUDY_UID,
    Situation,
    drawn,
    in_an_organ,
    saved,
    scanned,
    seen,
    with_lesions,
    written,
)
from tests.dicomnode.encode.situations import identity as identity_of
from tests.dicomnode.encode.test_parts import SLICES, rods
from tests.phantoms import phantom, write_enhanced
from tests.real_parts import require_file
from tests.system.orthanc import Orthanc
from tests.viewers import table
from tests.viewers.browser import Viewer, browser
from tests.viewers.ohif import BUILT, served
from tests.viewers.table import Cells

pytestmark = [pytest.mark.slow, pytest.mark.real_parts]

PICTURES = Path(__file__).parents[2] / ".cache" / "viewers"
SQUARE_MM = (6.0, 2.0, 2.0)
LESIONS = ("axial-ct", "sagittal-ct", "oblique-mr", "multi-frame-mr", "single-slice",
           "organ-and-lesions-ct", "still-us",
           "stills-us", "stills-us-in-pixels", "loop-us", "loop-us-in-pixels")  # fmt: skip
WITHOUT = ("none-seen", "loop-us-none-seen")
LENGTH_TOLERANCE = 0.006
"""OHIF shows three figures."""


def situation(name: str, folder: Path) -> Situation:
    if name == "axial-ct":
        return written(folder, spacing_mm=SQUARE_MM)
    if name == "sagittal-ct":
        return written(folder, "sagittal", spacing_mm=SQUARE_MM)
    if name == "oblique-mr":
        return written(folder, "oblique", modality="MR", spacing_mm=SQUARE_MM)
    if name == "multi-frame-mr":
        truth = phantom("oblique", SQUARE_MM, intensity_unit="arbitrary")
        return seen(write_enhanced(truth.volume, folder / "e.dcm", identity_of("MR")), truth)
    if name == "organ-and-lesions-ct":
        return in_an_organ(written(folder, spacing_mm=SQUARE_MM))
    if name == "single-slice":
        return written(folder, spacing_mm=(96.0, 2.0, 2.0))
    if name == "none-seen":
        return drawn(folder)
    kind, *rest = name.split("-us")
    in_pixels, none_seen = "-in-pixels" in rest, "-none-seen" in rest
    spacing_mm = None if in_pixels else (0.1, 0.1)
    assert kind in ("still", "stills", "loop")
    return scanned(folder, kind, spacing_mm=spacing_mm, none_seen=none_seen)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    require_file(BUILT / "index.html")
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def opened() -> dict[str, Cells]:
    """What the viewer showed, by the name of the situation."""
    return {}


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.node.callspec.params["made"]
    return chosen


@pytest.fixture
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Situation:
    return situation(request.param, tmp_path / "source")


@pytest.fixture
def viewer(name: str, running: Browser, made: Situation, tmp_path: Path) -> Iterator[Viewer]:
    """The situation's images and results in a PACS, opened in OHIF."""
    with shown(running, [tmp_path / "source", *saved(made, tmp_path).values()], PICTURES / name) as opened:
        yield opened


@contextmanager
def shown(running: Browser, files: list[Path], pictures: Path) -> Iterator[Viewer]:
    """DICOM files, and those in folders, in a PACS of their own, their study opened in OHIF."""
    paths = sorted(path for file in files for path in (file.rglob("*") if file.is_dir() else (file,)))
    with TemporaryDirectory() as storage:
        orthanc = Orthanc(Path(storage), node_port=free_port(), forward=False, dicomweb=True).start()
        try:
            orthanc.upload([path for path in paths if path.is_file()])
            with served(orthanc.http_port, free_port()) as address:
                series_count = len(orthanc.get("/series"))
                opened = Viewer.open(running, address, STUDY_UID, series_count, pictures)
                yield opened
                opened.close()
        finally:
            orthanc.stop()


@pytest.mark.parametrize("made", LESIONS, indirect=True)
def test_results_open_as_they_left(
    name: str, viewer: Viewer, made: Situation, opened: dict[str, Cells]
) -> None:
    cells = (
        check_segmentation(viewer, made),
        check_measurements(viewer, made),
        check_volumes(viewer, made),
    )
    assert viewer.problems == []
    opened[name] = cells


@pytest.mark.parametrize("made", ["oblique-mr"], indirect=True)
def test_a_mirrored_segmentation_is_noticed(viewer: Viewer, made: Situation) -> None:
    mirrored = replace(made.lesion_map, layers=(np.flip(made.lesion_map.values, axis=2),))
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        check_segmentation(viewer, replace(made, lesion_map=mirrored))


def check_segmentation(viewer: Viewer, made: Situation) -> str:
    """Every pixel of every image, every label."""
    (description,) = viewer.descriptions("SEG")
    before = viewer.picture("images")
    viewer.show(description)
    after = viewer.picture("seg")
    assert differing_pixels(before, after) > 200, "nothing was drawn"
    return check_outlines(viewer.outlines(), made)


def check_outlines(shown: dict[str, dict[tuple[str, int], set[int]]], made: Situation) -> str:
    """Every label, and for each every pixel of every image."""
    assert shown.keys() == {segment_label(lesion) for lesion in made.lesion_map.lesions}
    for lesion in made.lesion_map.lesions:
        for index, frame in enumerate(made.source.frames):
            expected = made.lesion_map.plane(lesion.number, index)
            found = np.zeros(expected.size, np.bool_)
            image = frame.instance.sop_instance_uid, frame.frame_number or 1
            found[list(shown[segment_label(lesion)].get(image, ()))] = True
            np.testing.assert_array_equal(found.reshape(expected.shape), expected)
    pixels = sum(len(found) for images in shown.values() for found in images.values())
    images = {image for images in shown.values() for image in images}
    return f"{len(shown)} segments, {pixels} pixels on {len(images)} images, all in place"


def check_measurements(viewer: Viewer, made: Situation) -> str:
    """The report of diameters becomes measurements that a radiologist can correct."""
    (description,) = [name for name in viewer.descriptions("SR") if name.startswith("Diameters: ")]
    known = viewer.show(description)
    viewer.picture("sr-a")
    lengths = {m.number: m.long_axis.length for m in made.measurements if isinstance(m.long_axis, Axis)}
    in_report = {dict(m["labels"])["Long Axis"] for m in known["measurements"]}
    assert in_report == {f"{length.value:.2f} {length.unit}" for length in lengths.values()}
    taken = {item["label"]: item for item in viewer.measurements()}
    assert {item["tool"] for item in taken.values()} == {"Bidirectional"}
    labels = {m.number: label_of(m) for m in made.measurements}
    assert taken.keys() == {labels[number] for number in lengths}
    for number, length in lengths.items():
        found = shown_length(taken[labels[number]]["shown"][0], length.unit)
        assert found == pytest.approx(length.value, rel=LENGTH_TOLERANCE)
    return f"{len(taken)} measurements taken over, lengths as sent"


def check_volumes(viewer: Viewer, made: Situation) -> str:
    """The report of volumes draws every lesion."""
    (description,) = [name for name in viewer.descriptions("SR") if name.startswith("Volumes: ")]
    known = viewer.show(description, asks=False)
    viewer.picture("sr-b")
    assert len(known["measurements"]) == len(made.measurements)
    assert all(item["loaded"] for item in known["measurements"])
    return f"{len(known['measurements'])} lesions drawn"


IN_PARTS = "five-lesions-on-110-images-ct"


def test_a_result_in_parts_opens_part_by_part(
    running: Browser, tmp_path: Path, opened: dict[str, Cells]
) -> None:
    """550 frames come in two segmentations; the second is loaded beside the first."""
    source = written(tmp_path / "source", spacing_mm=(96 / SLICES, 2.0, 2.0), shapes=()).source
    made = with_lesions(source, rods(5, columns=48))
    paths = [tmp_path / "source"]
    for result in encode_results(made.lesion_map, made.measurements, made.context):
        paths.append(tmp_path / f"{result.kind}-{result.page}.dcm")
        paths[-1].write_bytes(to_bytes(result.dataset))
    with shown(running, paths, PICTURES / "parts") as viewer:
        parts = sorted(viewer.descriptions("SEG"))
        assert [name.split(":")[0] for name in parts] == ["Lesions 1 of 2", "Lesions 2 of 2"]
        for number, name in enumerate(parts, start=1):
            viewer.show(name)
            viewer.picture(f"seg-{number}")
        cells = (
            f"in 2 parts: {check_outlines(viewer.outlines(), made)}",
            check_measurements(viewer, made),
            check_volumes(viewer, made),
        )
        assert viewer.problems == []
    opened[IN_PARTS] = cells


def test_of_two_results_of_one_series_the_later_is_shown(running: Browser, tmp_path: Path) -> None:
    """A late image or, as here, a new model makes the next instance; it has lost a lesion."""
    first = situation("oblique-mr", tmp_path / "source")
    fewer = with_lesions(first.source, np.where(first.lesion_map.values == 3, 0, first.lesion_map.values))
    second = replace(fewer, context=replace(fewer.context, instance_number=2, model_digest="d" * 64))
    for made, folder in ((first, tmp_path / "first"), (second, tmp_path / "second")):
        folder.mkdir()
        saved(made, folder)
    files = [tmp_path / name for name in ("source", "first", "second")]
    with shown(running, files, PICTURES / "superseded") as viewer:
        check_segmentation(viewer, second)
        viewer.picture("list")
        assert viewer.problems == []


@pytest.mark.parametrize("made", WITHOUT, indirect=True)
def test_the_report_that_nothing_was_seen_opens(name: str, viewer: Viewer, opened: dict[str, Cells]) -> None:
    assert viewer.descriptions("SEG") == []
    (description,) = viewer.descriptions("SR")
    viewer.show(description, asks=False)
    viewer.picture("not-seen")
    assert viewer.measurements() == []
    assert viewer.problems == []
    opened[name] = ("none, rightly", "opens, without lesions", "none, rightly")


def test_the_documented_table_is_what_was_seen(opened: dict[str, Cells]) -> None:
    """A run of some of the tests writes and compares their rows only."""
    names = (*LESIONS, IN_PARTS, *WITHOUT)
    if table.is_written():
        known = table.documented() | opened
        table.write({name: known[name] for name in names if name in known})
    documented = table.documented()
    assert set(documented) == set(names), "run `make viewers`"
    assert {name: documented[name] for name in opened} == opened, "run `make viewers`, look at the difference"


def segment_label(lesion: Lesion) -> str:
    return f"Lesion {lesion.number}: {lesion.label.name}"


def differing_pixels(one: Path, other: Path) -> int:
    """Pixels of two screenshots that differ clearly in some colour."""
    first, second = (np.asarray(Image.open(path).convert("RGB"), np.int16) for path in (one, other))
    return int((np.abs(first - second).max(axis=2) > 30).sum())


def shown_length(text: str, unit: str) -> float:
    """The figure of "L: 26.4 mm"; centimetres of an ultrasound region become millimetres."""
    _, figure, shown_unit, *_ = text.split()
    return float(figure) * (10.0 if (shown_unit, unit) == ("cm", "mm") else 1.0)
