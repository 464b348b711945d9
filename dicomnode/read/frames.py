"""The frames of a series and their headers, whether one file holds one frame or all of them.

Enhanced multi-frame objects keep what describes a frame in functional groups, per frame or shared by
all (DICOM PS3.3 section C.7.6.16). `FrameHeader` hides the difference from what comes after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence as DicomSequence

from dicomnode.errors import UnreadableSeries
from dicomnode.header_index import HeaderIndex
from dicomnode.plain_values import number_and_vr, plain_numbers, plain_word, tag_and_vr
from dicomnode.study import Instance, Series, SourceFrame

FUNCTIONAL_GROUPS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
    "FrameContentSequence",
    "TemporalPositionSequence",
    "CardiacSynchronizationSequence",
    "MRImageFrameTypeSequence",
    "MRDiffusionSequence",
    "MREchoSequence",
    "MRModifierSequence",
    "MRTimingAndRelatedParametersSequence",
    "CTImageFrameTypeSequence",
    "CTReconstructionSequence",
    "CTXRayDetailsSequence",
)
"""Macros that place a frame, give its values, or tell it from others (C.7.6.16, C.8.13, C.8.15)."""

SAYING_MULTI_FRAME = (
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)

SAYING_WHAT_SAMPLES_ARE = tuple(
    number_and_vr(keyword)[0]
    for keyword in (
        "Modality",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "PixelPaddingValue",
        "RescaleIntercept",
        "RescaleSlope",
        "RescaleType",
        "ModalityLUTSequence",
    )
)
"""All that is asked of a frame before its samples become values."""
NAMED_AT_MOST = 4
MOST_FRAMES = 100_000
"""Of one instance; more come from broken headers."""


@dataclass(frozen=True, eq=False)
class FrameHeader:
    """Header of one frame. `layers` are searched in order: a frame's own value goes before a shared one."""

    frame: SourceFrame
    layers: tuple[Dataset | HeaderIndex, ...]
    _known_numbers: dict[tuple[str, int], tuple[float, ...] | None] = field(default_factory=dict, init=False)

    @property
    def name(self) -> str:
        """How messages call it: its frame number, InstanceNumber, or else its SOP Instance UID."""
        if self.frame.frame_number is not None:
            return f"frame {self.frame.frame_number}"
        return name_instance(self.frame.instance)

    @cached_property
    def description_of_samples(self) -> Hashable:
        """Equal for two frames whose headers say the very same of their samples, or else its own."""
        own = self.layers[0]
        if len(self.layers) == 1 and isinstance(own, HeaderIndex):
            return tuple(own.encoded_values(SAYING_WHAT_SAMPLES_ARE))
        return id(self)

    def get(self, keyword: str) -> Any:
        """The first value that is not empty, or None; raises UnreadableSeries for a broken one."""
        dictionary_vr = number_and_vr(keyword)[1]
        for layer in self.layers:
            found = _encoded(layer, keyword)
            if found is None:
                continue
            vr, encoded = found
            value: Any = None if encoded is None else plain_word(vr or dictionary_vr, encoded)
            if value is None:
                value = read_value(layer, keyword, lambda: self.name)
            if value is not None and value != "" and value != []:
                return value
        return None

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """A value of `count` finite numbers, or None when absent; raises UnreadableSeries for another."""
        known = self._known_numbers
        if (keyword, count) not in known:
            known[keyword, count] = self._read_numbers(keyword, count)
        return known[keyword, count]

    def number(self, keyword: str) -> float | None:
        """A single finite number, or None when absent."""
        found = self.numbers(keyword, 1)
        return None if found is None else found[0]

    def _read_numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        plain = self._plain_numbers(keyword)
        if plain is not None and len(plain) == count and all(map(math.isfinite, plain)):
            return plain
        value = self.get(keyword)
        if value is None:
            return None
        try:
            items = [value] if isinstance(value, str | bytes | int | float) else list(value)
            numbers = tuple(float(item) for item in items)
        except (TypeError, ValueError, OverflowError):
            numbers = ()
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            wanted = "a finite number" if count == 1 else f"{count} finite numbers"
            raise UnreadableSeries(
                f"{self.name}: {keyword} is not {wanted}; the header must be corrected at its source"
            )
        return numbers

    def _plain_numbers(self, keyword: str) -> tuple[float, ...] | None:
        """Where the first layer that has the attribute has it as plain numbers."""
        dictionary_vr = number_and_vr(keyword)[1]
        for layer in self.layers:
            found = _encoded(layer, keyword)
            if found is not None:
                vr, encoded = found
                return None if encoded is None else plain_numbers(vr or dictionary_vr, encoded)
        return None


def _encoded(layer: Dataset | HeaderIndex, keyword: str) -> tuple[str | None, bytes | None] | None:
    """VR, where the encoding names it, and the bytes of a value in little endian; None where it is absent.

    Without bytes where pydicom has decoded them already, or must.
    """
    if isinstance(layer, HeaderIndex):
        return layer.encoded(number_and_vr(keyword)[0])
    element = layer.get_item(tag_and_vr(keyword)[0])
    if element is None:
        return None
    raw = isinstance(element, RawDataElement) and element.is_little_endian
    return element.VR, (element.value or b"") if raw else None


def read_value(dataset: Dataset | HeaderIndex, keyword: str, name: Callable[[], str]) -> Any:
    """`dataset`'s value or None; raises UnreadableSeries where its bytes are no value of their VR."""
    try:
        return dataset.get(keyword)
    except Exception as error:  # pydicom converts on access, and anything may be in a file
        raise UnreadableSeries(
            f"{name()}: {keyword} cannot be read ({type(error).__name__}); "
            "the header must be corrected at its source"
        ) from error


def name_instance(instance: Instance) -> str:
    """How messages call an instance: by InstanceNumber, or SOP Instance UID where there is none."""
    try:
        return f"instance {int(instance.values.get('InstanceNumber'))}"
    except Exception:  # a name is needed for the very headers that are broken
        return f"instance {instance.sop_instance_uid}"


def name_all(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    shown = ", ".join(names[:NAMED_AT_MOST])
    more = len(names) - NAMED_AT_MOST
    return f"{shown} and {more} more" if more > 0 else shown


def frame_headers(series: Series) -> tuple[FrameHeader, ...]:
    """Every frame of `series`, in no particular order.

    Raises UnreadableSeries when multi-frame instances are not alone or say nothing about their frames.
    """
    found = [list(_frames_of(instance)) for instance in series.instances]
    multi_frame = [frames for frames in found if len(frames) > 1]
    if multi_frame and len(found) > 1:
        raise UnreadableSeries(
            f"{len(multi_frame)} multi-frame instances among the {len(found)} instances of one series: "
            "which of them belong together is not known; route them as separate series"
        )
    headers = tuple(header for frames in found for header in frames)
    stacks = sorted(
        {str(header.get("StackID")) for header in headers if header.frame.frame_number} - {"None"}
    )
    if len(stacks) > 1:
        raise UnreadableSeries(
            f"frames of {len(stacks)} stacks (StackID {', '.join(stacks[:NAMED_AT_MOST])}) in one series; "
            "send every stack as a series of its own"
        )
    return headers


def one_of_each_kind(headers: Iterable[FrameHeader]) -> tuple[FrameHeader, ...]:
    """The first of all frames with the same description of samples, which hardly differ within a series."""
    found: dict[Hashable, FrameHeader] = {}
    for header in headers:
        found.setdefault(header.description_of_samples, header)
    return tuple(found.values())


def frame_of(headers: Sequence[FrameHeader], frame_number: int | None) -> FrameHeader:
    """The header of one frame of one instance: 1, 2, ..., or None for the only one.

    Raises UnreadableSeries when there is no such frame.
    """
    for header in headers:
        if (header.frame.frame_number or 1) == (frame_number or 1):
            return header
    raise UnreadableSeries(f"there is no frame {frame_number} among {len(headers)}; send the object again")


def _frames_of(instance: Instance) -> Iterator[FrameHeader]:
    if not any(_encoded(instance.values, keyword) for keyword in SAYING_MULTI_FRAME):
        yield FrameHeader(SourceFrame(instance), (instance.values,))
        return
    header, name = instance.header, name_instance(instance)
    count = frame_count(header, name)
    per_frame = _items(header, "PerFrameFunctionalGroupsSequence", name)
    shared = _items(header, "SharedFunctionalGroupsSequence", name)
    if not per_frame and not shared and count == 1:
        yield FrameHeader(SourceFrame(instance), (header,))
        return
    if len(per_frame) != count:
        groups = f"but functional groups for {len(per_frame)}" if per_frame else "without functional groups"
        raise UnreadableSeries(
            f"{name} has {count} frame(s) {groups}: where each frame lies in the patient is not known; "
            "send single-frame images or a complete enhanced multi-frame object"
        )
    common = tuple(macro for item in shared[:1] for macro in _macros(item, name))
    for number, item in enumerate(per_frame, start=1):
        layers = (*_macros(item, f"frame {number}"), *common, header)
        yield FrameHeader(SourceFrame(instance, number), layers)


def frame_count(header: Dataset | HeaderIndex, name: str) -> int:
    """NumberOfFrames, 1 where it is absent; raises UnreadableSeries when it is no positive number."""
    value = read_value(header, "NumberOfFrames", lambda: name)
    try:
        count = 1 if value in (None, "") else int(value)
    except (TypeError, ValueError):
        count = 0
    if not 1 <= count <= MOST_FRAMES:
        raise UnreadableSeries(
            f"{name}: NumberOfFrames is not a number from 1 to {MOST_FRAMES}; send the object again"
        )
    return count


def _items(dataset: Dataset | HeaderIndex, keyword: str, name: str) -> DicomSequence:
    value = read_value(dataset, keyword, lambda: name)
    return value if isinstance(value, DicomSequence) else DicomSequence()


def _macros(item: Dataset, name: str) -> tuple[Dataset, ...]:
    return tuple(macro for keyword in FUNCTIONAL_GROUPS for macro in _items(item, keyword, name)[:1])
