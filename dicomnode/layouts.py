"""Finds the elements of a header at once where they lie as in one that was walked before.

The slices of a series differ in values, not in what surrounds them: most have the tags, VRs and lengths of
another slice at the very same places. One comparison of bytes shows it, however many elements there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from dicomnode.elements import SPECIFIC_CHARACTER_SET, Content, Element, Found, find_elements

MOST_KEPT = 64
"""A series has some ten layouts, and several series may arrive at once."""
LONGEST_BYTES = 2**16
"""Of a header whose layout is kept: so all of them together take a few megabytes."""
TAIL_BYTES = 8
"""Compared first: these of the pixel data seldom lie at the same place in another layout."""
UNDEFINED_LENGTH = b"\xff\xff\xff\xff"

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Layout(Generic[T]):
    """The bytes of one header that decide what is found in it, and what that is."""

    start: int
    content: bytes
    """From `start` to behind the tag and length of the pixel data."""
    values: tuple[Element, ...]
    """What may be anything, as long as it lies there."""
    found: T

    @cached_property
    def tail(self) -> tuple[int, int, bytes]:
        """The last bytes, and between which places of a whole content they lie."""
        end = self.start + len(self.content)
        return end - TAIL_BYTES, end, self.content[-TAIL_BYTES:]

    def is_that_of(self, content: Content) -> bool:
        """Whether the elements of `content` lie at the same places. The `tail` lies there already."""
        others = np.frombuffer(content, np.uint8, len(self.content), self.start)
        return (others & self._outside_values).tobytes() == self._structure

    @cached_property
    def _outside_values(self) -> npt.NDArray[np.uint8]:
        """All bits of the bytes that the walk from element to element looks at."""
        outside = np.full(len(self.content), 0xFF, np.uint8)
        for _, start, length in self.values:
            at = start - self.start
            item_by_item = self.content[at - len(UNDEFINED_LENGTH) : at] == UNDEFINED_LENGTH
            if not item_by_item:
                outside[at : at + length] = 0
        return outside

    @cached_property
    def _structure(self) -> bytes:
        return (np.frombuffer(self.content, np.uint8) & self._outside_values).tobytes()


class KnownLayouts(Generic[T]):
    """The layouts that came last, and what was found in them."""

    def __init__(self) -> None:
        self._kept: tuple[Layout[T], ...] = ()
        """The latest first. Replaced as a whole, so threads need no lock."""

    def find(self, content: Content, start: int) -> T | None:
        """What was found in a header that begins at the same `start` and differs only in values."""
        for layout in self._kept:
            first, end, tail = layout.tail
            if content[first:end] == tail and layout.start == start and layout.is_that_of(content):
                return layout.found
        return None

    def keep(self, content: Content, start: int, end: int, values: Iterable[Element], found: T) -> None:
        """`end` is behind the tag and length of the pixel data. Without pixel data nothing is kept."""
        if len(content) >= end and end - start <= LONGEST_BYTES:
            layout = Layout(start, bytes(content[start:end]), tuple(values), found)
            self._kept = (layout, *self._kept[: MOST_KEPT - 1])


_explicit, _implicit = KnownLayouts[Found](), KnownLayouts[Found]()


def locate_elements(content: Content, start: int, *, explicit: bool, whole: bool = True) -> Found | None:
    """The same as `find_elements`, sooner where a header of the same layout came before."""
    known = _explicit if explicit else _implicit
    found = known.find(content, start)
    if found is None:
        found = find_elements(content, start, explicit=explicit, whole=whole)
        if found is not None:
            known.keep(content, start, end_of_pixel_header(found, explicit=explicit), values_of(found), found)
    return found


def end_of_pixel_header(found: Found, *, explicit: bool) -> int:
    """Behind the tag and length of the pixel data that follow the elements, if any do."""
    return found.end + (12 if explicit else 8)


def values_of(found: Found) -> Iterable[Element]:
    """Where values lie that change nothing in how a data set is read."""
    return [element for tag, element in found.elements.items() if tag != SPECIFIC_CHARACTER_SET]
