"""What is written without highdicom, or by it from fewer images, is byte for byte what highdicom makes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from highdicom.sr import (
    AlgorithmIdentification,
    CoordinatesForMeasurement,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    ImageLibrary,
    ImageRegion,
    LanguageOfContentItemAndDescendants,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    ReferencedSegment,
    SourceImageForRegion,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes

from dicomnode.encode.concepts import (
    COMMENT,
    ENGLISH,
    IMAGING_MEASUREMENTS,
    LONG_AXIS,
    SHORT_AXIS,
    UNITS,
    Concept,
    repertoire,
    rounded,
)
from dicomnode.encode.content import child, children
from dicomnode.encode.context import Result
from dicomnode.encode.coordinates import outline, to_graphic_data
from dicomnode.encode.equipment import MANUFACTURER, serial_number
from dicomnode.encode.items import ItemWriter
from dicomnode.encode.parts import Part
from dicomnode.encode.seg import coded, encode_seg, lesion_name
from dicomnode.encode.sources import reference
from dicomnode.encode.uids import device_uid, tracking_uid
from dicomnode.encode.words import label_of
from inference.measure import Axis, LesionMeasurement, Quantity
from tests.dicomnode.encode.situations import Situation, situation, written

NAMES = ["oblique-mr", "multi-frame-mr", "stills-us-in-pixels", "organ-and-lesions-ct", "straight-line"]


@pytest.fixture(params=NAMES, scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Situation:
    return situation(request.param, tmp_path_factory.mktemp("source"))


def written_as(items: Iterable[Dataset]) -> bytes:
    return ItemWriter().sequence(list(items))


def groups_of(report: Dataset) -> list[Dataset]:
    found = child(report, IMAGING_MEASUREMENTS)
    return [] if found is None else children(found)


def test_measurement_groups_are_those_of_highdicom(made: Situation) -> None:
    results = made.encode()
    diameters, volumes = results["sr_measurements"].dataset, results["sr_volumes"].dataset
    measured = [m for m in made.measurements if isinstance(m.long_axis, Axis)]
    axes = [item for m in measured for item in diameter_group(m, made)]
    assert written_as(groups_of(diameters)) == written_as(axes)
    seg = results["seg"].dataset
    both = [
        item for m in made.measurements for item in (*contour_group(m, made), *segment_group(m, made, seg))
    ]
    assert written_as(groups_of(volumes)) == written_as(both)


def test_the_head_of_a_report_and_its_images_are_those_of_highdicom(made: Situation) -> None:
    report = made.encode()["sr_volumes"].dataset
    title = made.context.card.title
    observer = DeviceObserverIdentifyingAttributes(
        uid=device_uid(made.context.model_digest),
        name=title,
        manufacturer_name=MANUFACTURER,
        model_name=title,
        serial_number=serial_number(made.context.model_digest),
    )
    head = [*LanguageOfContentItemAndDescendants(ENGLISH), *ObserverContext(codes.DCM.Device, observer)]
    content = children(report)
    assert written_as(content[: len(head)]) == written_as(head)
    slices = sorted({m.key_slice for m in made.measurements})
    headers = {
        f.instance.sop_instance_uid: f.instance.header for f in (made.source.frames[i] for i in slices)
    }
    if made.source.series.modality in ("CT", "MR") and made.source.frames[0].frame_number is None:
        library = children(report, codes.DCM.ImageLibrary)
        assert written_as(library) == written_as(ImageLibrary(list(headers.values())))


@pytest.mark.parametrize("attributes", [{}, {"SpacingBetweenSlices": "5.5"}, {"SliceThickness": None}])
@pytest.mark.parametrize("kind", ["seg", "labelmap"])
def test_a_segmentation_of_the_slices_with_lesions_is_that_of_all(
    attributes: dict[str, Any], kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_the_same_of_all_slices(written(tmp_path, attributes=attributes), kind, monkeypatch)


def test_segmentations_of_every_source_are_those_of_all_slices(
    made: Situation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_the_same_of_all_slices(made, "seg", monkeypatch)


def assert_the_same_of_all_slices(made: Situation, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def encoded() -> bytes:
        return Result(kind, encode_seg(made.lesion_map, made.measurements, made.context, kind)).content

    few = encoded()
    monkeypatch.setattr(Part, "slices", property(lambda _: list(range(made.lesion_map.shape[0]))))
    assert encoded() == few


def finding(m: LesionMeasurement, made: Situation, identifier: str) -> dict[str, Any]:
    return {
        "tracking_identifier": TrackingIdentifier(tracking_uid(made.context, m.number), identifier),
        "finding_type": coded(m.label.type),
        "finding_sites": [FindingSite(coded(m.label.site))] if m.label.site else None,
        "algorithm_id": AlgorithmIdentification(
            made.context.card.title,
            made.context.card.version,
            [f"sha256={made.context.model_digest}"],
            manufacturer=MANUFACTURER,
        ),
    }


def comment(m: LesionMeasurement) -> Any:
    return TextContentItem(COMMENT, label_of(m), "CONTAINS")


def source_image(index: int, made: Situation) -> SourceImageForRegion:
    image = reference(made.source.frames[index])
    return SourceImageForRegion(image.sop_class_uid, image.sop_instance_uid, image.frame_numbers)


def diameter_group(m: LesionMeasurement, made: Situation) -> Any:
    numbers = []
    for name, axis in ((LONG_AXIS, m.long_axis), (SHORT_AXIS, m.short_axis)):
        if isinstance(axis, Axis):
            points = to_graphic_data([axis.start, axis.end])
            drawn = CoordinatesForMeasurement("POLYLINE", points, source_image(axis.slice_index, made))
            drawn.ContentSequence[0].RelationshipType = "SELECTED FROM"  # 0.28.2 writes INFERRED FROM
            unit = UNITS[axis.length.unit]
            numbers.append(
                Measurement(name, rounded(axis.length.value), unit, referenced_coordinates=[drawn])
            )
    tool = "Bidirectional" if len(numbers) == 2 else "Length"
    said = finding(m, made, f"Cornerstone3DTools@^0.1.0:{tool}:{lesion_name(m.number)}")
    group = MeasurementsAndQualitativeEvaluations(measurements=numbers, **said)
    group[0].ContentSequence.append(comment(m))
    return group


def contour_group(m: LesionMeasurement, made: Situation) -> Any:
    points = outline(made.lesion_map.plane(m.number, m.key_slice))
    group = PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=ImageRegion("POLYLINE", points, source_image(m.key_slice, made)),
        measurements=numbers_of(m, repertoire(made.source.volume).of_contour),
        **finding(m, made, lesion_name(m.number)),
    )
    group[0].ContentSequence.append(comment(m))
    return group


def segment_group(m: LesionMeasurement, made: Situation, seg: Dataset) -> Any:
    series = SourceSeriesForSegmentation(made.source.series.series_instance_uid)
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=ReferencedSegment(
            seg.SOPClassUID, seg.SOPInstanceUID, m.number, source_series=series
        ),
        measurements=numbers_of(m, repertoire(made.source.volume).of_segment),
        **finding(m, made, lesion_name(m.number)),
    )


def numbers_of(m: LesionMeasurement, concepts: Iterable[Concept]) -> list[Measurement]:
    values = [(concept, concept.value(m)) for concept in concepts]
    return [
        Measurement(
            concept.code,
            rounded(value.value),
            UNITS[value.unit],
            method=concept.method,
            derivation=concept.derivation,
        )
        for concept, value in values
        if isinstance(value, Quantity)
    ]
