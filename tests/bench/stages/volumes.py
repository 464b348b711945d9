"""Series to volume: files in, one array of real-world values and its place in the patient out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own manual calls it so
from highdicom.image import get_volume_from_series
from monai.data import PydicomReader
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from dicomnode.read.frames import frame_headers
from dicomnode.read.pixels import read_one_by_one
from dicomnode.read.room import Allocate, Room
from dicomnode.read.volumes import read_volume
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.study import Series, read_instance
from inference.volume import Volume, Voxels
from tests.bench.harness import AtLeast, Case, Contender, Reading, Run, Setting, Stage, simply
from tests.bench.needs import program

SIDE = 512
SLICES_OF_GROWTH = (50, 200, 500, 1000, 2000)
PEAK = """
import sys, time
from pathlib import Path
import imagecodecs, torch
from tests.bench.memory import peak_mib
from tests.bench.stages.volumes import by_node
paths = sorted(Path(sys.argv[1]).iterdir())
by_node(paths[:2])
def read():
    start = time.perf_counter()
    by_node(paths)
    seconds.append(time.perf_counter() - start)
for round in sys.stdin:
    seconds = []
    peak = peak_mib(read)
    print(seconds[0], peak, flush=True)
"""


def by_node(paths: Sequence[Path], empty: Allocate = np.empty) -> Voxels:
    """Headers, geometry with all refusals, values."""
    instances = tuple(read_instance(path, sha256="0" * 64) for path in paths)
    return read_volume(Series(instances), empty).volume.voxels


def one_by_one(paths: Sequence[Path]) -> Voxels:
    """What the node does where the fast way does not go; the paths are in slice order."""
    headers = frame_headers(Series(tuple(read_instance(path, sha256="0" * 64) for path in paths)))
    return read_one_by_one(headers, (len(paths), SIDE, SIDE), hounsfield=True)


def by_pydicom(paths: Sequence[Path]) -> Voxels:
    """Sorted, rescaled to float32, stacked."""
    found = sorted((dcmread(path) for path in paths), key=lambda d: float(d.ImagePositionPatient[2]))
    return np.stack([d.pixel_array.astype(np.float32) * d.RescaleSlope + d.RescaleIntercept for d in found])


def by_simpleitk(paths: Sequence[Path]) -> Voxels:
    """GDCM's scan of the folder, then the series reader."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(paths[0].parent)))
    return np.asarray(sitk.GetArrayFromImage(reader.Execute()))


def by_highdicom(paths: Sequence[Path]) -> Voxels:
    """Its slices run against ours."""
    return np.asarray(get_volume_from_series([dcmread(path) for path in paths]).array)


def by_monai(paths: Sequence[Path]) -> Voxels:
    """Its axes are (column, row, slice)."""
    reader = PydicomReader()
    return np.asarray(reader.get_data(reader.read(str(paths[0].parent)))[0]).T


def by_dcm2niix(paths: Sequence[Path], folder: Path) -> Voxels:
    """The program, then nibabel; its rows run upwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    subprocess.run(
        ["dcm2niix", "-z", "n", "-b", "n", "-f", "out", "-o", str(folder), str(paths[0].parent)],
        check=True,
        capture_output=True,
    )
    return np.asarray(nibabel.load(folder / "out.nii").dataobj).T[:, ::-1]


def read_and_copy(paths: Sequence[Path]) -> Voxels:
    """The floor: every file into memory, its last bytes into the array; knows nothing of DICOM."""
    voxels = np.empty((len(paths), SIDE, SIDE), np.int16)
    for image, path in zip(voxels, paths, strict=True):
        image[...] = np.frombuffer(path.read_bytes()[-image.nbytes :], np.int16).reshape(image.shape)
    return voxels


def write_ct(slices: int, folder: Path) -> list[Path]:
    """A CT whose slices all differ."""
    noise = np.random.default_rng(1).integers(-1000, 1500, (8, SIDE, SIDE)).astype(np.int16)
    voxels = np.stack([noise[index % 8] + np.int16(index % 500) for index in range(slices)])
    return write_series(Volume(voxels, np.diag([1.0, 0.7, 0.7, 1.0]), "HU"), folder, SeriesIdentity())


def compress(paths: Sequence[Path], syntax: str) -> None:
    """Every file in place."""
    for path in paths:
        dataset = dcmread(path)
        dataset.compress(syntax)
        dataset.save_as(path)


def check(ways: dict[str, Callable[[], Voxels]]) -> None:
    """All give one volume, seen from one side or the other."""
    expected = ways["node"]()
    for name, way in ways.items():
        found = way()
        if not (np.array_equal(found, expected) or np.array_equal(found[::-1], expected)):
            raise ValueError(f"{name} reads other values than the node")


def cases(setting: Setting) -> Iterator[Case]:
    paths = write_ct(setting.choose(4, 60, 500), setting.folder / "ct")
    room = Room()
    ways: dict[str, Callable[[], Voxels]] = {
        "node": lambda: by_node(paths, room.empty),
        "node, first volume": lambda: by_node(paths),
        "node, one by one": lambda: one_by_one(paths),
        "pydicom, stacked": lambda: by_pydicom(paths),
        "SimpleITK series reader": lambda: by_simpleitk(paths),
        "highdicom": lambda: by_highdicom(paths),
        "MONAI PydicomReader": lambda: by_monai(paths),
        "read and copy": lambda: read_and_copy(paths),
    }
    niix, niix_way = program("dcm2niix", "dcm2niix"), lambda: by_dcm2niix(paths, setting.folder / "niix")
    check(ways | ({"dcm2niix": niix_way} if niix.present else {}))
    contenders = (*(simply(name, way) for name, way in ways.items()), simply("dcm2niix", niix_way, [niix]))
    goals = (AtLeast("node", 8.0, "SimpleITK series reader"), AtLeast("node", 0.6, "read and copy"))
    yield Case("CT of 512 x 512", contenders, "SimpleITK series reader", goals, len(paths), "slices")
    shutil.rmtree(setting.folder / "ct")
    yield from _compressed(setting)
    for slices in setting.choose((3,), SLICES_OF_GROWTH[:2], SLICES_OF_GROWTH):
        folder = setting.folder / f"ct{slices}"
        write_ct(slices, folder)
        yield Case(
            f"{slices} slices",
            (Contender("node", _alone(folder), warm_up=False),),
            count=slices,
            unit="slices",
            at=("slices", slices),
        )
        shutil.rmtree(folder)


def _compressed(setting: Setting) -> Iterator[Case]:
    for name, syntax in (("JPEG 2000", JPEG2000Lossless), ("JPEG-LS", JPEGLSLossless)):
        paths = write_ct(setting.choose(2, 16, 60), setting.folder / "compressed")
        compress(paths, syntax)
        ways: dict[str, Callable[[], Voxels]] = {
            "node": lambda paths=paths: by_node(paths),  # type: ignore[misc]
            "node, one by one": lambda paths=paths: one_by_one(paths),  # type: ignore[misc]
            "SimpleITK series reader": lambda paths=paths: by_simpleitk(paths),  # type: ignore[misc]
        }
        check(ways)
        contenders = tuple(simply(name, way) for name, way in ways.items())
        goals = (AtLeast("node", 1.5, "node, one by one"), AtLeast("node", 1.0, "SimpleITK series reader"))
        yield Case(
            f"{name}, without loss", contenders, "SimpleITK series reader", goals, len(paths), "slices"
        )
        shutil.rmtree(setting.folder / "compressed")


def _alone(folder: Path) -> Any:
    """In a process of its own, which reads once a line, and tells its peak above what it had before."""

    @contextmanager
    def opened() -> Iterator[Run]:
        command = [sys.executable, "-c", PEAK, str(folder)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdin is not None
            assert reader.stdout is not None
            asked, told = reader.stdin, reader.stdout

            def run() -> Reading:
                print("read", file=asked, flush=True)
                seconds, peak_mib = map(float, told.readline().split())
                return Reading(seconds, {"peak (MiB)": peak_mib})

            yield run

    return opened


STAGE = Stage(
    "volumes",
    "Series to volume",
    "A CT of 512 x 512 pixels in native form becomes one array, int16 where all values fit. `node` "
    "reads headers, checks the geometry and reads straight into the array, which lies where a worker had the "
    "volume before; `first volume` is in memory that the system must clear first, as with all others. "
    "`one by one` is its simple "
    "way without the geometry: pydicom, and its decoders for compressed images. `read and copy` knows "
    "nothing of DICOM and is the floor. All ways are "
    "checked to give the same values before they are timed. The peak is that of a process above what it "
    "held before reading.",
    cases,
    rounds=5,
)
