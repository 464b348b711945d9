"""Pixels that are made for the screen, in grey or colour, as grey values 0..255."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut

from dicomnode.errors import UnreadableSeries
from dicomnode.read.frames import FrameHeader
from dicomnode.read.stored import check_high_bit, reason_of

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the luminance (ITU-R BT.601)."""
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"


def check_for_the_screen(header: FrameHeader) -> None:
    """Raise UnreadableSeries unless the frame holds unsigned grey or colour pixels."""
    if not header.number("Rows") or not header.number("Columns"):
        raise UnreadableSeries(f"{header.name} is not an image (no Rows and Columns); route images only")
    photometric, bits = _photometric(header), header.number("BitsStored") or 0
    samples = 3 if photometric in COLOUR else 1
    known = photometric in (*MONOCHROME, *COLOUR, PALETTE) and header.number("SamplesPerPixel") == samples
    if not known or header.number("PixelRepresentation") != 0 or not 8 <= bits <= 16:
        raise UnreadableSeries(
            f"{header.name}: pixels for the screen must be 8 to 16 unsigned bits, grey or colour, not "
            f"{photometric[:16]} of {bits:g} bits; send the image in a usual form"
        )
    check_high_bit(header)


def to_grey(header: FrameHeader, stored: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.int16]:
    """Grey values (row, column) of decoded pixels; colour becomes its luminance.

    `stored` is (row, column) or (row, column, RGB): the decoder has converted YBR already. Of more than
    8 bits the highest 8 count. MONOCHROME1 is turned so that high values are bright. Raises
    UnreadableSeries when the palette of the image cannot be applied.
    """
    photometric = _photometric(header)
    if photometric == PALETTE:
        colours = _apply_palette(header, stored, dataset)
        return _luminance(_to_eight_bits(colours, _bits_of_palette(header, dataset)))
    values = _to_eight_bits(stored, int(header.number("BitsStored") or 8))
    if values.ndim == 3:
        return _luminance(values)
    return (255 - values if photometric == "MONOCHROME1" else values).astype(np.int16)


def _photometric(header: FrameHeader) -> str:
    return str(header.get("PhotometricInterpretation") or "absent")


def _luminance(rgb: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    grey: npt.NDArray[np.int16] = np.rint(rgb[..., :3] @ LUMA).astype(np.int16)
    return grey


def _to_eight_bits(values: npt.NDArray[Any], bits: int) -> npt.NDArray[np.int64]:
    highest: npt.NDArray[np.int64] = np.clip(values.astype(np.int64) >> (bits - 8), 0, 255)
    return highest


def _bits_of_palette(header: FrameHeader, dataset: Dataset) -> int:
    """8 bits may lie in entries of 16, whatever the descriptor calls them (C.7.6.3.1.5)."""
    every_value = np.arange(2 ** int(header.number("BitsStored") or 8), dtype=np.uint16)
    return 8 if _apply_palette(header, every_value, dataset).max() < 2**8 else 16


def _apply_palette(header: FrameHeader, stored: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[Any]:
    try:
        colours = np.asarray(apply_color_lut(stored, dataset))
        # pydicom 3.0 takes the table for little endian even where the file is not.
        return colours if dataset.original_encoding[1] else colours.byteswap()
    except Exception as error:  # anything may be in a palette
        raise UnreadableSeries(
            f"{header.name}: its palette cannot be applied ({reason_of(error)}); "
            "the header must be corrected at its source"
        ) from error
