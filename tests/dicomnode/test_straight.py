"""Reading straight into one array gives the very bits of reading one frame after the other, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.errors import UnreadableSeries
from dicomnode.read.frames import FrameHeader, frame_headers
from dicomnode.read.pixels import check_greyscale, read_one_by_one, read_voxels, volume_shape
from dicomnode.read.straight import DECODING, Meaning, StraightFrame, _fill_int16, _read_all, read_straight
from dicomnode.read.values import Rescale, intensity_unit
from dicomnode.series_writer import SeriesIdentity, slice_dataset, write_series
from dicomnode.study import Series, group_studies, read_instance
from inference.volume import Volume, Voxels
from tests.phantoms import read_series, write_enhanced
from tests.phantoms.dicom import save

SHARED = (Path(__file__).parents[2] / "../shared/data").resolve()
ROWS, COLUMNS = 3, 5
IDENTITY = SeriesIdentity(
    study_instance_uid="1.2.3", series_instance_uid="1.2.4", frame_of_reference_uid="1.2.5"
)

pytestmark = pytest.mark.filterwarnings("ignore")  # real and odd headers make pydicom talk

slopes = st.sampled_from(["1", "1", "1", "2", "-1", "0.5", "3.7e-3", "70000", "1e300", "0"])
intercepts = st.sampled_from(["0", "-1024", "-8192", "40000", "0.25", "-3e9"])


def both(headers: tuple[FrameHeader, ...]) -> tuple[Voxels | None, Voxels | str]:
    """What the fast and the simple way say."""
    shape, hounsfield = volume_shape(headers), intensity_unit(headers) == "HU"
    try:
        simple: Voxels | str = read_one_by_one(headers, shape, hounsfield)
    except UnreadableSeries as error:
        simple = str(error)
    return read_straight(headers, shape, hounsfield), simple


def assert_same(fast: Voxels | None, simple: Voxels | str) -> None:
    if fast is not None:
        assert not isinstance(simple, str), f"only the fast way reads it, the other says: {simple}"
        assert fast.dtype == simple.dtype
        np.testing.assert_array_equal(fast, simple)


def write_slice(path: Path, samples: bytes, change: Dataset, syntax: str) -> None:
    """One CT slice whose stored bytes and attributes are given."""
    volume = Volume(np.zeros((1, ROWS, COLUMNS), np.int16), np.eye(4), "HU")
    dataset = slice_dataset(volume, 0, IDENTITY)
    dataset.update(change)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PixelData = samples
    dataset.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID.__class__(syntax)
    dataset.set_original_encoding(None, None)
    save(dataset, path)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_samples_and_any_line(data: st.DataObject) -> None:
    signed, bits = data.draw(st.integers(0, 1)), data.draw(st.sampled_from([16, 16, 15, 12, 8, 1]))
    slope, intercept = data.draw(slopes), data.draw(intercepts)
    padding = data.draw(st.sampled_from([None, -2000, -1000, 63536]))
    syntax = data.draw(st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]))
    with TemporaryDirectory() as folder:
        for index in range(2):
            change = Dataset()
            change.PixelRepresentation, change.BitsStored, change.HighBit = signed, bits, bits - 1
            change.RescaleSlope, change.RescaleIntercept = slope, intercept
            change.SOPInstanceUID = f"1.2.{index}"
            if padding is not None:
                fits = padding in (range(-(2**15), 2**15) if signed else range(2**16))
                change.add_new(
                    "PixelPaddingValue", "SS" if padding < 0 else "US", padding if fits or padding >= 0 else 0
                )
            samples = data.draw(st.binary(min_size=2 * ROWS * COLUMNS, max_size=2 * ROWS * COLUMNS))
            write_slice(Path(folder) / "series" / f"{index}.dcm", samples, change, syntax)
        fast, simple = both(frame_headers(read_series(Path(folder) / "series")))
        assert_same(fast, simple)
        assert fast is not None or isinstance(simple, str), "these are simple enough for the fast way"


def test_enhanced_frames_are_read_from_their_places(tmp_path: Path) -> None:
    volume = small(6)
    order = [3, 0, 5, 1, 4, 2]
    series = write_enhanced(volume, tmp_path / "enhanced.dcm", frame_order=order)
    fast, simple = both(frame_headers(series))
    assert fast is not None
    assert_same(fast, simple)
    np.testing.assert_array_equal(fast, volume.voxels[order])


def small(slices: int) -> Volume:
    values = np.arange(slices * 80, dtype=np.int16).reshape(slices, 8, 10) - 1000
    return Volume(values, np.eye(4), "HU")


def series_of_three(folder: Path) -> list[Path]:
    write_series(small(3), folder, SeriesIdentity())
    return sorted(folder.iterdir())


def is_left_to_the_simple_way(folder: Path) -> bool:
    fast, _ = both(frame_headers(read_series(folder)))
    return fast is None


def test_other_sample_sizes_are_left_to_the_simple_way(tmp_path: Path) -> None:
    paths = series_of_three(tmp_path)
    dataset = dcmread(paths[1])
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = bytes(8 * 10)
    save(dataset, paths[1])
    assert is_left_to_the_simple_way(tmp_path)


def test_a_file_that_changed_behind_its_header_is_left_to_the_simple_way(tmp_path: Path) -> None:
    paths = series_of_three(tmp_path)
    headers = frame_headers(read_series(tmp_path))
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    fast, simple = both(headers)
    assert fast is None
    assert isinstance(simple, str)
    with pytest.raises(UnreadableSeries):
        read_voxels(headers)


def test_something_behind_the_pixels_is_left_to_the_simple_way(tmp_path: Path) -> None:
    paths = series_of_three(tmp_path)
    paths[0].write_bytes(paths[0].read_bytes() + b"\xfc\xff\xfc\xffOB\x00\x00\x02\x00\x00\x00\x00\x00")
    assert is_left_to_the_simple_way(tmp_path)
    assert read_voxels(frame_headers(read_series(tmp_path))).shape == (3, 8, 10)


def test_a_slope_of_zero_is_refused_in_the_usual_words(tmp_path: Path) -> None:
    paths = series_of_three(tmp_path)
    dataset = dcmread(paths[1])
    dataset.RescaleSlope = 0
    save(dataset, paths[1])
    with pytest.raises(UnreadableSeries, match="RescaleSlope is 0"):
        read_voxels(frame_headers(read_series(tmp_path)))


@dataclass(frozen=True)
class Waiting:
    """A frame that is as slow as the frames it waits for."""

    awaited: tuple[Event, ...]
    read: Event

    def read_into(self, samples: npt.NDArray[np.uint16]) -> None:
        assert all(event.wait(60.0) for event in self.awaited)
        samples[...] = 7
        self.read.set()


def test_a_slow_frame_holds_up_no_frame_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    read = [Event() for _ in range(20)]
    slow = Waiting(tuple(read[1:]), read[0])
    stored = [slow, *(Waiting((), event) for event in read[1:])]
    meaning = Meaning(np.dtype(np.int16), 16, Rescale(1.0, 0.0), None)
    frames = [StraightFrame(one, meaning) for one in stored]
    voxels = _read_all(frames, np.zeros((len(frames), ROWS, COLUMNS), np.int16), _fill_int16, DECODING)
    assert voxels is not None
    assert (voxels == 7).all()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_real_series_are_the_same_both_ways() -> None:
    read, fast_ones = 0, 0
    for series in real_series():
        try:
            headers = frame_headers(series)
            for header in headers:
                check_greyscale(header)
            fast, simple = both(headers)
        except UnreadableSeries:
            continue
        assert_same(fast, simple)
        read, fast_ones = read + 1, fast_ones + (fast is not None)
    assert read > 20
    assert fast_ones > 0.6 * read


def real_series() -> list[Series]:
    studies = group_studies(read_instance(path) for path in sorted(SHARED.rglob("*.dcm")))
    return [series for study in studies for series in study.series]
