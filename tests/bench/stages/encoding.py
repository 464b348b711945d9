"""SEG and reports of a CT with many lesions, against plain highdicom and dcmqi."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import nrrd
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from dicomnode.encode.context import Result, ResultContext
from dicomnode.encode.parts import parts_of
from dicomnode.encode.results import encode_results
from dicomnode.encode.seg import coded, encode_seg
from inference.codes import Code
from inference.labelmap import LesionMap
from inference.measure import LesionMeasurement, measure_lesions
from tests.bench import chest_ct
from tests.bench.harness import AtLeast, Case, Contender, Reading, Run, Setting, Stage, command, simply, timed
from tests.bench.memory import peak_mib
from tests.bench.needs import pip_program
from tests.dicomnode.encode.situations import CREATED_AT, DIGEST, NODULE, card

WHAT = """\
One job's lesions as objects, in a warm process with the headers in memory. "node: SEG" makes the
segmentation (in parts of at most 400 frames) and its bytes; "node: all" makes the segmentation and both
reports, reads them back, and compares them with their source voxel by voxel and number by number. highdicom
makes one unchecked segmentation of the same label map; dcmqi is a program that reads images and a label map
from files and writes one. Memory is what a call adds at its peak."""
DCMQI_MOST_LESIONS = 200
"""It takes label values up to 255."""
PROGRAM = "itkimage2segimage"

Job = tuple[LesionMap, tuple[LesionMeasurement, ...], ResultContext]


def cases(setting: Setting) -> Iterator[Case]:
    """By lesions on a CT of 300 slices, then by slices with 20 lesions."""
    warnings.simplefilter("ignore")  # highdicom and pydicom tell of the same values again and again
    slices, side = setting.choose((20, 96), (300, 512), (300, 512))
    for count in setting.choose((1,), (1, 20), (1, 20, 200, 500)):
        yield _against_peers(_job(count, slices, side), setting.folder)
    for slices in setting.choose((), (50, 300), (50, 150, 500, 1000, 2000)):
        ours = (_everything(_job(20, slices, 256)),)
        yield Case(f"20 lesions in {slices} slices of 256 x 256", ours, at=("slices", slices))


def _job(count: int, slices: int, side: int) -> Job:
    found = chest_ct.lesion_map(count, slices, side)
    seen = chest_ct.volume(found)
    context = ResultContext(chest_ct.source(seen), card(), DIGEST, 1, CREATED_AT)
    return found, measure_lesions(found, seen), context


def _against_peers(job: Job, folder: Path) -> Case:
    found, measurements, context = job
    ours = simply("node: SEG", lambda: _segs(job))
    peers = [simply("highdicom: SEG", lambda: _highdicom(found, context))]
    goals = [AtLeast("node: SEG", 1.0, "highdicom: SEG")]
    if len(measurements) <= DCMQI_MOST_LESIONS:
        peers.append(_dcmqi(job, folder))
        goals.append(AtLeast("node: SEG", 2.0, "dcmqi: SEG"))
    contenders = (ours, _everything(job), *peers)
    count = len(measurements)
    name = f"{count} lesions in {len(found.values)} slices"
    return Case(name, contenders, "node: SEG", tuple(goals), count, "lesions", ("lesions", count))


def _segs(job: Job) -> list[bytes]:
    found, measurements, context = job
    parts = parts_of(found)
    return [Result("seg", encode_seg(found, measurements, context, part=part)).content for part in parts]


def _everything(job: Job) -> Contender:
    @contextmanager
    def opened() -> Iterator[Run]:
        def run() -> Reading:
            seconds, mib = timed(lambda: peak_mib(lambda: _contents(job)))
            return Reading(seconds, {"peak memory (MiB)": mib})

        yield run

    return Contender("node: all", opened)


def _contents(job: Job) -> list[bytes]:
    return [result.content for result in encode_results(*job)]


def _highdicom(found: LesionMap, context: ResultContext) -> bytes:
    """As its user guide has it: a label map, without empty frames."""
    algorithm = AlgorithmIdentificationSequence(
        name="benchmark", family=codes.cid7162.ArtificialIntelligence, version="1"
    )
    seg = Segmentation(
        source_images=[frame.instance.header for frame in context.source.frames],
        pixel_array=found.values if len(found.lesions) > 255 else found.values.astype("uint8"),
        segmentation_type="BINARY",
        segment_descriptions=[
            SegmentDescription(
                segment_number=lesion.number,
                segment_label=f"Lesion {lesion.number}",
                segmented_property_category=coded(NODULE.category),
                segmented_property_type=coded(NODULE.type),
                algorithm_type="AUTOMATIC",
                algorithm_identification=algorithm,
            )
            for lesion in found.lesions
        ],
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="benchmark",
        manufacturer_model_name="benchmark",
        software_versions="1",
        device_serial_number="1",
    )
    buffer = BytesIO()
    seg.save_as(buffer)
    return buffer.getvalue()


def _dcmqi(job: Job, folder: Path) -> Contender:
    found, _, context = job
    images, labels, metadata = folder / "images", folder / "labels.nrrd", folder / "segments.json"
    if not images.exists():
        chest_ct.write(context.source.volume, images)

    @contextmanager
    def opened() -> Iterator[Run]:
        affine = context.source.volume.affine
        header = {
            "space": "left-posterior-superior",
            "space directions": affine[:3, [2, 1, 0]].T,
            "space origin": affine[:3, 3],
            "encoding": "raw",
        }
        nrrd.write(str(labels), found.values.transpose(2, 1, 0), header)
        metadata.write_text(json.dumps(_dcmqi_metadata(len(found.lesions))))
        arguments: dict[str, Path] = {
            "--inputDICOMDirectory": images,
            "--inputImageList": labels,
            "--inputMetadata": metadata,
            "--outputDICOM": folder / "dcmqi.dcm",
        }
        flat = [part for pair in arguments.items() for part in pair]
        with command(PROGRAM, [PROGRAM, *flat]).open() as run:
            yield run

    return Contender("dcmqi: SEG", opened, (pip_program(PROGRAM, "dcmqi"),), warm_up=False)


def _dcmqi_metadata(count: int) -> dict[str, object]:
    def code(found: Code) -> dict[str, str]:
        return {
            "CodeValue": found.value, "CodingSchemeDesignator": found.scheme, "CodeMeaning": found.meaning
        }  # fmt: skip

    return {
        "ContentCreatorName": "benchmark",
        "SeriesNumber": "1",
        "InstanceNumber": "1",
        "segmentAttributes": [
            [
                {
                    "labelID": number,
                    "SegmentLabel": f"Lesion {number}",
                    "SegmentAlgorithmType": "AUTOMATIC",
                    "SegmentAlgorithmName": "benchmark",
                    "SegmentedPropertyCategoryCodeSequence": code(NODULE.category),
                    "SegmentedPropertyTypeCodeSequence": code(NODULE.type),
                }
                for number in range(1, count + 1)
            ]
        ],
    }


STAGE = Stage("encoding", "Encoding", WHAT, cases, rounds=3)
