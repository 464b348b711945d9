"""Which series goes to which model: exclusions, conditions, the choice among several, and the reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import (
    BasicTextSRStorage,
    EnhancedSRStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    XRayRadiationDoseSRStorage,
)

from dicomnode.conditions import check_series, slice_thickness_mm
from dicomnode.encode.equipment import MANUFACTURER, PRODUCT
from dicomnode.part10 import ParsedHeader
from dicomnode.route.exclusions import exclusion
from dicomnode.route.routing import Decision, route_study
from dicomnode.settings.node import RouteSettings
from dicomnode.settings.section import Conditions, Range
from dicomnode.study import Instance, Series, Study
from tests.dicomnode.parts import PATIENT, image, series_of


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer: ImageType holds LOCALIZER"),
        ({"ImageType": ["DERIVED", "PRIMARY", "scout"]}, "localizer: ImageType holds SCOUT"),
        ({"SeriesDescription": "Topogram 0.6 T20f"}, "localizer: by SeriesDescription"),
        ({"ProtocolName": "3-plane localizer"}, "localizer: by ProtocolName"),
        ({"SeriesDescription": "Dose Report"}, "dose or protocol page: by SeriesDescription"),
        ({"SeriesDescription": "Patient Protocol"}, "dose or protocol page: by SeriesDescription"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "secondary capture"),
        ({"QualityControlImage": "YES"}, "quality-assurance image: QualityControlImage is YES"),
        ({"SeriesDescription": "20cm QA#1"}, "quality-assurance image: SeriesDescription names"),
        ({"StudyDescription": "Daily QC"}, "quality-assurance image: StudyDescription names"),
        ({"PatientName": "QA^Phantom"}, "quality-assurance image: PatientName names"),
        ({"PatientName": "Phantom"}, "quality-assurance image: PatientName names"),
        ({"PatientID": "SERVICE"}, "quality-assurance image: PatientID is one that service"),
        ({"PatientID": "Service"}, "quality-assurance image: PatientID is one that service"),
        ({"PatientID": "QC_2024_01"}, "quality-assurance image: PatientID names"),
        ({"SOPClassUID": EnhancedSRStorage}, "not an image: Enhanced SR Storage"),
        ({"SOPClassUID": BasicTextSRStorage}, "not an image: Basic Text SR Storage"),
        ({"SOPClassUID": XRayRadiationDoseSRStorage}, "not an image: X-Ray Radiation Dose SR Storage"),
        ({"SOPClassUID": SegmentationStorage}, "not an image: Segmentation Storage"),
        ({"Manufacturer": MANUFACTURER, "ManufacturerModelName": PRODUCT}, "made by a node of this kind"),
    ],
)
def test_a_series_that_no_model_may_see_is_kept_out_with_its_reason(
    attributes: dict[str, Any], reason: str
) -> None:
    found = exclusion(series_of(**attributes))
    assert found is not None
    assert found.startswith(reason)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"PatientName": "Quincy^Jones"},
        {"PatientName": "Qa'im^Ali"},
        {"PatientName": None, "PatientID": None},
        {"SeriesDescription": "Thorax Qanadli"},
        {"SeriesDescription": "Low Dose Lung 1.0"},
        {"SeriesDescription": "Aqua 3D"},
        {"ImageType": None},
        {"QualityControlImage": "NO"},
        {"PatientID": "SERVICEMAN-4"},
    ],
)
def test_an_ordinary_series_may_go_on(attributes: dict[str, Any]) -> None:
    assert exclusion(series_of(**attributes)) is None


def test_a_result_of_ours_whose_equipment_was_rewritten_is_recognised_by_its_contributor() -> None:
    purpose, equipment = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "109102", "DCM"
    equipment.Manufacturer = MANUFACTURER
    equipment.PurposeOfReferenceCodeSequence = [purpose]
    series = series_of(Manufacturer="PACS vendor", ContributingEquipmentSequence=[equipment])
    assert exclusion(series) == "made by a node of this kind (loop guard)"


def test_one_excluded_object_keeps_its_whole_series_out() -> None:
    mixed = Series((*series_of(2).instances, *series_of(SOPClassUID=SegmentationStorage).instances))
    assert exclusion(mixed) == "not an image: Segmentation Storage"


CONDITIONS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
    ({"sop_class": "^CT "}, {}, {"SOPClassUID": MRImageStorage}, ""),
    ({"body_part_examined": "chest|lung"}, {"BodyPartExamined": "CHEST"}, {"BodyPartExamined": "HEAD"}, "+"),
    ({"study_description": "thorax"}, {"StudyDescription": "CT THORAX"}, {"StudyDescription": "Knee"}, "+"),
    ({"series_description": "lung"}, {"SeriesDescription": "Lung 1.0"}, {"SeriesDescription": "Soft"}, "+"),
    ({"protocol_name": "chest"}, {"ProtocolName": "Chest LD"}, {"ProtocolName": "Head"}, "+"),
    (
        {"orientation": "axial"},
        {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
        "+",
    ),
    ({"slice_thickness_mm": {"max": 3.0}}, {"SliceThickness": "3.0"}, {"SliceThickness": "3.1"}, "+"),
    ({"slice_thickness_mm": {"min": 1.0}}, {"SliceThickness": "1.0"}, {"SliceThickness": "0.9"}, "+"),
    ({"contrast": True}, {"ContrastBolusAgent": "Iomeron"}, {}, ""),
    ({"contrast": False}, {}, {"ContrastBolusAgent": "Iomeron"}, ""),
    ({"derived": False}, {}, {"ImageType": ["DERIVED", "SECONDARY"]}, ""),
    ({"derived": True}, {"ImageType": ["DERIVED", "SECONDARY"]}, {}, ""),
    ({"tags": {"KVP": "^120"}}, {"KVP": "120"}, {"KVP": "80"}, "+"),
]


@pytest.mark.parametrize(("condition", "fits", "fits_not", "absent"), CONDITIONS)
def test_a_condition_holds_fails_and_does_not_hold_for_what_is_absent(
    condition: dict[str, Any], fits: dict[str, Any], fits_not: dict[str, Any], absent: str
) -> None:
    when = Conditions(modality="CT", **condition)
    assert [check.passed for check in check_series(series_of(**fits), when)] == [True, True]
    assert [check.passed for check in check_series(series_of(**fits_not), when)] == [True, False]
    if absent == "+":
        nothing: dict[str, Any] = dict.fromkeys(fits)
        (_, check) = check_series(series_of(**nothing), when)
        assert not check.passed
        assert "(absent)" in str(check)


def test_the_modality_is_always_checked() -> None:
    when = Conditions(modality="ct")
    assert check_series(series_of(), when)[0].passed
    assert not check_series(series_of(Modality="MR"), when)[0].passed
    assert not check_series(series_of(Modality=None), when)[0].passed


def test_what_must_not_be_described_may_be_absent() -> None:
    when = Conditions(modality="CT", not_series_description="bone|kernel")
    assert check_series(series_of(SeriesDescription=None), when)[1].passed
    assert check_series(series_of(SeriesDescription="Lung"), when)[1].passed
    assert not check_series(series_of(SeriesDescription="BONE 1.0"), when)[1].passed


def test_images_are_counted_by_instances_and_by_frames() -> None:
    when = Conditions(modality="CT", instance_count=Range(min=3, max=4))
    assert not check_series(series_of(2), when)[1].passed
    assert check_series(series_of(3), when)[1].passed
    assert not check_series(series_of(5), when)[1].passed
    assert check_series(series_of(1, NumberOfFrames=4), when)[1].passed


@pytest.mark.parametrize("direction", [None, [1, 0, 0], [1, 0, 0, 0, 1, 0, 0]])
def test_an_orientation_that_says_nothing_fits_no_plane(direction: list[int] | None) -> None:
    when = Conditions(modality="CT", orientation="axial")
    assert not check_series(series_of(ImageOrientationPatient=direction), when)[1].passed


def enhanced(thickness_mm: float) -> Series:
    measures, plane, groups = Dataset(), Dataset(), Dataset()
    measures.SliceThickness = thickness_mm
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    groups.PixelMeasuresSequence, groups.PlaneOrientationSequence = [measures], [plane]
    return series_of(
        SliceThickness=None,
        ImageOrientationPatient=None,
        NumberOfFrames=60,
        SharedFunctionalGroupsSequence=[groups],
    )


def test_an_enhanced_image_is_judged_by_its_functional_groups() -> None:
    when = Conditions(
        modality="CT", orientation="axial", slice_thickness_mm=Range(max=2.0), instance_count=Range(min=50)
    )
    assert all(check.passed for check in check_series(enhanced(1.0), when))
    assert not all(check.passed for check in check_series(enhanced(5.0), when))


def route(name: str = "lesions", select: str = "best", **when: Any) -> RouteSettings:
    conditions = {"modality": "CT"} | when
    return RouteSettings.model_validate(
        {
            "name": name,
            "model": f"model of {name}",
            "destinations": ["P"],
            "select": select,
            "when": conditions,
        }
    )


def of_number(number: int, count: int = 3, **attributes: Any) -> Series:
    attributes.setdefault("SeriesInstanceUID", f"1.2.{number}")
    return series_of(count, SeriesNumber=number, **attributes)


def decide(routes: list[RouteSettings], *series: Series) -> list[Decision]:
    return list(route_study(Study(series), tuple(routes)))


def test_every_series_gets_one_decision_in_its_order() -> None:
    series = [of_number(1), of_number(2, Modality="MR"), of_number(3, QualityControlImage="YES")]
    decisions = decide([route()], *series)
    assert [decision.series for decision in decisions] == series
    assert [decision.route is not None for decision in decisions] == [True, False, False]


def test_the_first_route_that_matches_takes_the_series() -> None:
    (decision,) = decide([route("mr", modality="MR"), route("first"), route("second")], of_number(1))
    assert decision.route is not None
    assert decision.route.name == "first"
    assert decision.reason == "matches route 'first'"


def test_bytes_that_are_no_value_of_their_type_fit_no_condition() -> None:
    header, tag = image(), Tag("SliceThickness")
    header._dict[tag] = RawDataElement(tag, "FD", 4, b"1.5 ", 0, False, True)
    series = Series((Instance(Path("unread.dcm"), ParsedHeader(header), "0"),))
    assert slice_thickness_mm(series) is None


def test_without_routes_the_reason_says_so() -> None:
    (decision,) = decide([], of_number(1))
    assert (decision.route, decision.reason) == (None, "no route is configured")


def test_a_series_that_matches_nothing_names_the_first_failure_of_every_route() -> None:
    routes = [route("mr", modality="MR"), route("thin", slice_thickness_mm={"max": 1.0})]
    (decision,) = decide(routes, of_number(1))
    assert decision.reason == (
        "route 'mr': modality CT does not fit MR; route 'thin': slice_thickness_mm 1.5 does not fit ..1"
    )


def test_the_thinnest_series_is_the_best_and_the_others_say_why_not() -> None:
    thick, thin = of_number(1, SliceThickness="5"), of_number(2, SliceThickness="1")
    first, second = decide([route()], thick, thin)
    assert first.route is None
    assert first.reason == (
        "matches route 'lesions', but series number 2 is better: 3 slices of 1 mm against 3 slices of 5 mm"
    )
    assert second.route is not None
    assert second.reason == "matches route 'lesions'; best of 2 series: 3 slices of 1 mm"


def test_of_equally_thin_series_the_longest_is_the_best_then_the_lowest_number() -> None:
    routed = [d.route is not None for d in decide([route()], of_number(1, 3), of_number(2, 9))]
    assert routed == [False, True]
    routed = [d.route is not None for d in decide([route()], of_number(7), of_number(4))]
    assert routed == [False, True]


def test_a_series_of_unknown_thickness_is_never_better_than_a_known_one() -> None:
    unknown = of_number(1, 9, SliceThickness=None)
    assert [d.route is not None for d in decide([route()], unknown, of_number(2))] == [False, True]


def test_a_route_for_all_series_takes_all() -> None:
    assert all(d.route for d in decide([route(select="all")], of_number(1), of_number(2)))


def test_series_of_different_routes_are_no_rivals() -> None:
    routes = [route("thin", slice_thickness_mm={"max": 2.0}), route("thick", slice_thickness_mm={"min": 2.0})]
    decisions = decide(routes, of_number(1, SliceThickness="1"), of_number(2, SliceThickness="5"))
    assert [d.route.name for d in decisions if d.route] == ["thin", "thick"]


SECRET = "Zebrowska seen by Dr Kowalczyk"


@pytest.mark.parametrize("wanted", ["kowalczyk", "nobody"])
def test_no_reason_and_no_check_holds_free_text_or_the_patient(wanted: str) -> None:
    keywords = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "ImageComments")
    routes = [
        *(route(name, **{name: wanted}) for name in ("study_description", "series_description")),
        route("protocol", protocol_name=wanted),
        route("not", not_series_description=wanted),
        *(route(keyword, tags={keyword: wanted}) for keyword in keywords),
    ]
    text: dict[str, Any] = {"StudyDescription": SECRET, "SeriesDescription": SECRET, "ProtocolName": SECRET}
    decisions = decide(routes, of_number(1, ImageComments=SECRET, **text), of_number(2, **text))
    told = " ".join(f"{decision.reason} {decision.as_json()}" for decision in decisions)
    for secret in (SECRET, "Zebrowska", *PATIENT.values()):
        assert secret not in told


def test_coded_values_are_shown_so_that_a_decision_can_be_understood() -> None:
    (decision,) = decide([route(tags={"KVP": "^80"})], of_number(1, KVP="120"))
    assert "tags.KVP 120 does not fit /^80/" in decision.reason
