"""Compressed frames, decoded by several threads, are what pydicom makes of them, or left to it."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory

import jpeg_ls
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, fragment_frame
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    UID,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from dicomnode.errors import UnreadableSeries
from dicomnode.read.frames import FrameHeader, frame_headers
from dicomnode.read.pixels import check_greyscale, read_voxels
from dicomnode.read.stored import stored_frames
from dicomnode.study import Series, SourceFrame, read_instance
from inference.volume import Volume
from tests.dicomnode.test_straight import assert_same, both, write_slice
from tests.fuzz.mutate import mutate
from tests.phantoms import read_series, write_enhanced
from tests.phantoms.dicom import save

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
SHARED = (Path(__file__).parents[2] / "../shared/data").resolve()
Samples = npt.NDArray[np.uint16]

pytestmark = pytest.mark.filterwarnings("ignore")  # broken frames make decoders talk


def encoded(syntax: str, samples: Samples, bits: int, signed: bool) -> bytes:
    """By pydicom; imagecodecs only decodes here."""
    rows, columns = samples.shape
    known_sign = samples if signed and syntax != JPEGLSLossless else samples & np.uint16(2**bits - 1)
    return bytes(
        get_encoder(syntax).encode(
            known_sign.tobytes(),
            rows=rows,
            columns=columns,
            samples_per_pixel=1,
            bits_allocated=16,
            bits_stored=bits,
            pixel_representation=int(signed),
            photometric_interpretation="MONOCHROME2",
            number_of_frames=1,
        )
    )


SYNTAXES = (JPEG2000Lossless, JPEGLSLossless)


def image(rng: np.random.Generator, shape: tuple[int, int], bits: int, signed: bool) -> Samples:
    """Smooth with a little noise, or noise alone; of `bits`, sign extended."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    ramp = np.linspace(low, high - 1, shape[0] * shape[1]).reshape(shape)
    noise = rng.integers(low, high, shape)
    values = np.clip(ramp + noise // 64, low, high - 1) if rng.random() < 0.7 else noise
    return values.astype(np.int64).astype(np.uint16)


def write_compressed(
    path: Path, samples: Samples, frame: bytes, syntax: str, bits: int, signed: bool, fragments: int = 1
) -> None:
    change = Dataset()
    change.Rows, change.Columns = samples.shape
    change.PixelRepresentation, change.BitsStored, change.HighBit = int(signed), bits, bits - 1
    change.SOPInstanceUID = f"1.2.{int(path.stem)}"
    pieces = [frame] if fragments == 1 else list(fragment_frame(frame, fragments))
    body = encapsulate([frame]) if fragments == 1 else encapsulate(pieces, has_bot=False)
    write_slice(path, body, change, syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.sampled_from([9, 10, 12, 13, 15, 16]),
    signed=st.booleans(),
    fragments=st.sampled_from([1, 1, 2]),
    all_bits=st.booleans(),
)
def test_any_image_is_decoded_the_same(
    syntax: str, seed: int, bits: int, signed: bool, fragments: int, all_bits: bool
) -> None:
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(33, 50)), int(rng.integers(33, 50))
    with TemporaryDirectory() as folder:
        expected = []
        for index in range(3):
            samples = image(rng, shape, bits, signed)
            frame = encoded(syntax, samples, 16 if all_bits else bits, signed)
            path = Path(folder) / "series" / f"{index}.dcm"
            write_compressed(path, samples, frame, syntax, bits, signed, fragments)
            expected.append(samples.view(np.int16) if signed else samples)
        fast, simple = both(frame_headers(read_series(Path(folder) / "series")))
        assert fast is not None
        assert_same(fast, simple)
        np.testing.assert_array_equal(fast, np.stack(expected))


@pytest.mark.parametrize("seed", range(25))
def test_a_broken_frame_is_never_more_than_the_simple_way_makes_of_it(tmp_path: Path, seed: int) -> None:
    signed = seed % 2 == 0
    samples = image(np.random.default_rng(seed), (40, 36), 12, signed)
    broken = mutate(encoded(JPEG2000Lossless, samples, 12, signed), random.Random(seed))
    write_compressed(tmp_path / "series" / "0.dcm", samples, broken, JPEG2000Lossless, 12, signed)
    assert_same(*both(frame_headers(read_series(tmp_path / "series"))))


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_cut_frame_is_left_to_the_simple_way_which_refuses_it(
    tmp_path: Path, syntax: str, part: float
) -> None:
    samples = image(np.random.default_rng(5), (40, 36), 12, signed=False)
    frame = encoded(syntax, samples, 12, False)
    cut = frame[: max(2, int(part * len(frame)))]
    write_compressed(tmp_path / "series" / "0.dcm", samples, cut, syntax, 12, False)
    fast, simple = both(frame_headers(read_series(tmp_path / "series")))
    assert fast is None
    assert isinstance(simple, str)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEGLSNearLossless])
@pytest.mark.parametrize("frames", [1, 3])
def test_a_cut_jpeg_ls_frame_never_reaches_its_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str, frames: int
) -> None:
    """CharLS may look for the end of such a frame for seconds."""
    shape = (40, 36)
    images = [image(np.random.default_rng(seed), shape, 12, signed=False) for seed in range(frames)]
    streams = [encoded(JPEGLSLossless, samples, 12, False) for samples in images]
    streams[-1] = streams[-1][: len(streams[-1]) // 3]
    change = Dataset()
    change.Rows, change.Columns = shape
    change.BitsStored, change.HighBit, change.PixelRepresentation = 12, 11, 0
    change.NumberOfFrames = frames
    change.SOPInstanceUID = "1.2.3"
    write_slice(tmp_path / "0.dcm", encapsulate(streams), change, syntax)
    instance = read_instance(tmp_path / "0.dcm", sha256="")
    headers = [
        FrameHeader(SourceFrame(instance, number), (instance.header,)) for number in range(1, frames + 1)
    ]
    asked: list[int] = []
    decode = jpeg_ls.decode_pixel_data

    def counting(stream: bytes) -> object:
        asked.append(len(stream))
        return decode(stream)

    monkeypatch.setattr(jpeg_ls, "decode_pixel_data", counting)
    with pytest.raises(UnreadableSeries, match=f"frame {frames} are cut off.*no end marker.*send it again"):
        list(stored_frames(headers))
    assert len(asked) == frames - 1


def test_a_frame_that_is_not_what_its_header_says_is_left_to_pydicom(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for number, syntax in enumerate(SYNTAXES):
        other = image(rng, (40, 36), 12, signed=False)
        path = tmp_path / str(number) / "0.dcm"
        write_compressed(path, other[:, :30], encoded(syntax, other, 12, False), syntax, 12, False)
        fast, _ = both(frame_headers(read_series(path.parent)))
        assert fast is None, UID(syntax).name


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("signed", [False, True])
def test_more_bits_in_use_than_are_stored_are_left_to_pydicom(
    tmp_path: Path, syntax: str, signed: bool
) -> None:
    samples = image(np.random.default_rng(6), (40, 36), 14, signed)
    frame = encoded(syntax, samples, 16, signed)
    write_compressed(tmp_path / "0.dcm", samples, frame, syntax, 12, signed)
    fast, _ = both(frame_headers(read_series(tmp_path)))
    assert fast is None


def test_frames_of_one_object_are_found_by_their_fragments(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    voxels = np.stack([image(rng, (40, 36), 12, signed=True).view(np.int16) for _ in range(5)])
    for number, with_table in enumerate((True, False)):
        path = tmp_path / str(number) / "enhanced.dcm"
        path.parent.mkdir()
        write_enhanced(Volume(voxels, np.eye(4), "HU"), path, frame_order=[3, 0, 4, 1, 2])
        dataset = dcmread(path)
        dataset.PixelData = encapsulate(
            [encoded(JPEG2000Lossless, frame.view(np.uint16), 16, True) for frame in dataset.pixel_array],
            has_bot=with_table,
        )
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        save(dataset, path)
        fast, simple = both(frame_headers(read_series(path.parent)))
        assert fast is not None
        assert_same(fast, simple)


@pytest.mark.parametrize("change", ["offsets", "tail", "short"])
def test_odd_encapsulation_is_left_to_pydicom(tmp_path: Path, change: str) -> None:
    samples = image(np.random.default_rng(3), (40, 36), 12, signed=False)
    path = tmp_path / "0.dcm"
    write_compressed(
        path, samples, encoded(JPEG2000Lossless, samples, 12, False), JPEG2000Lossless, 12, False
    )
    content = bytearray(path.read_bytes())
    if change == "offsets":
        table = content.index(b"\xfe\xff\x00\xe0\x04\x00\x00\x00")
        content[table + 8] = 4
    elif change == "tail":
        content += b"\xfc\xff\xfc\xffOB\x00\x00\x02\x00\x00\x00\x00\x00\x00"
    else:
        del content[-8:]
    path.write_bytes(content)
    fast, simple = both(frame_headers(read_series(tmp_path)))
    assert fast is None
    assert isinstance(simple, str) == (change != "tail")


def test_one_broken_frame_is_refused_by_its_name(tmp_path: Path) -> None:
    for index in range(4):
        samples = image(np.random.default_rng(index), (40, 36), 12, signed=False)
        frame = encoded(JPEG2000Lossless, samples, 12, False)
        write_compressed(
            tmp_path / f"{index}.dcm",
            samples,
            frame[:60] if index == 2 else frame,
            JPEG2000Lossless,
            12,
            False,
        )
    with pytest.raises(UnreadableSeries, match="cannot be decoded"):
        read_voxels(frame_headers(read_series(tmp_path)))


def test_files_of_pydicom_are_the_same_both_ways() -> None:
    read, fast_ones = compressed_files_in(BUNDLED)
    assert read >= 10
    assert fast_ones >= 3


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_files_that_others_compressed_are_the_same_both_ways() -> None:
    read, fast_ones = compressed_files_in(SHARED / "dicom_robustness")
    assert read > 15
    assert fast_ones > 5


def compressed_files_in(folder: Path) -> tuple[int, int]:
    """How many images were compared, and how many of them the fast way took."""
    found = [of_a_compressed_file(path) for path in sorted(folder.rglob("*.dcm"))]
    return sum(fast is not None for fast in found), sum(fast is True for fast in found)


def of_a_compressed_file(path: Path) -> bool | None:
    """Whether the fast way took it; None where it is no compressed greyscale image."""
    try:
        series = Series((read_instance(path, sha256=""),))
        headers = frame_headers(series)
        for header in headers:
            check_greyscale(header)
        if not series.header.file_meta.TransferSyntaxUID.is_encapsulated:
            return None
        fast, simple = both(headers)
    except Exception:  # many of them are broken on purpose
        return None
    assert_same(fast, simple)
    return fast is not None
