"""What sets several slices at one place apart: time, b-value, echo, ..."""

from __future__ import annotations

from collections.abc import Sequence

from dicomnode.read.frames import FrameHeader

TELLING_APART = (
    ("DiffusionBValue", "b-value"),
    ("SequenceName", "sequence name"),
    ("TemporalPositionIdentifier", "temporal position"),
    ("TemporalPositionIndex", "temporal position"),
    ("TemporalPositionTimeOffset", "temporal position"),
    ("EchoNumbers", "echo"),
    ("EchoTime", "echo time"),
    ("EffectiveEchoTime", "echo time"),
    ("InversionTime", "inversion time"),
    ("TriggerTime", "trigger time"),
    ("NominalCardiacTriggerDelayTime", "trigger time"),
    ("ImageType", "image type"),
    ("FrameType", "frame type"),
    ("DiffusionGradientOrientation", "diffusion direction"),
    ("ConvolutionKernel", "convolution kernel"),
    ("KVP", "tube voltage"),
    ("AcquisitionNumber", "acquisition number"),
    ("FrameAcquisitionNumber", "acquisition number"),
    ("AcquisitionTime", "acquisition time"),
    ("ContentTime", "content time"),
)
"""What commonly separates slices at one place, most telling first, and how messages call it."""

PRIVATE_B_VALUES = ((0x0019, 0x100C), (0x2001, 0x1003), (0x0043, 0x1039))
"""b-value of Siemens, Philips and GE before Diffusion b-value (0018,9087) came."""


def difference(headers: Sequence[FrameHeader]) -> str:
    """What sets slices at one place apart, in words, with the remedy."""
    if len({_b_value(header) for header in headers}) > 1:
        return "they differ in b-value; send every b-value as a series of its own"
    for keyword, words in TELLING_APART:
        if len({str(header.get(keyword)) for header in headers}) > 1:
            return f"they differ in {words} ({keyword}); send every one as a series of its own"
    return (
        "no attribute tells them apart: the same slices twice, or time points without a name; send each once"
    )


def _b_value(header: FrameHeader) -> str:
    found = header.get("DiffusionBValue")
    if found is not None:
        return str(found)
    for tag in PRIVATE_B_VALUES:
        element = header.frame.instance.header.get(tag)
        if element is not None:
            return str(element.value)
    return ""
