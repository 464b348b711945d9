"""Finds the elements of a header at once where they lie as in one that was walked before.

The slices of a series differ in values, not in what surrounds them: most have the tags, VRs and lengths of
another slice at the very same places. One comparison of bytes shows it, however many elements there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dicomnode.elements import SPECIFIC_CHARACTER_SET, Content, Found, find_elements

MOST_KEPT = 64
"""A series has some ten layouts, and several series may arrive at once."""
LONGEST_BYTES = 2**16
"""Of a header whose layout is kept: so all of them together take a few megabytes."""
UNDEFINED_LENGTH = b"\xff\xff\xff\xff"


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the elements of one header lie, and the bytes that say so: all but values."""

    start: int
    explicit: bool
    found: Found
    content: bytes
    """From `start` to behind the tag and length of the pixel data."""
    pixel_header: bytes

    def is_that_of(self, content: Content) -> bool:
        """Whether the elements of `content` lie at the same places. Its `pixel_header` lies there already."""
        others = np.frombuffer(content, np.uint8, len(self.content), self.start)
        return bool(((others & self._outside_values) == self._structure).all())

    @cached_property
    def _outside_values(self) -> npt.NDArray[np.uint8]:
        """All bits of the bytes that the walk from element to element looks at."""
        outside = np.full(len(self.content), 0xFF, np.uint8)
        for tag, (_, start, length) in self.found.elements.items():
            at = start - self.start
            item_by_item = self.content[at - len(UNDEFINED_LENGTH) : at] == UNDEFINED_LENGTH
            if not item_by_item and tag != SPECIFIC_CHARACTER_SET:
                outside[at : at + length] = 0
        return outside

    @cached_property
    def _structure(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.content, np.uint8) & self._outside_values


_layouts: tuple[Layout, ...] = ()
"""The latest first. Replaced as a whole, so threads need no lock."""


def locate_elements(content: Content, start: int, *, explicit: bool, whole: bool = True) -> Found | None:
    """The same as `find_elements`, sooner where a header of the same layout came before."""
    for layout in _layouts:
        end = layout.found.end
        if (
            content[end : end + len(layout.pixel_header)] == layout.pixel_header
            and layout.start == start
            and layout.explicit == explicit
            and layout.is_that_of(content)
        ):
            return layout.found
    found = find_elements(content, start, explicit=explicit, whole=whole)
    if found is not None:
        _keep(content, start, explicit, found)
    return found


def _keep(content: Content, start: int, explicit: bool, found: Found) -> None:
    global _layouts
    pixel_header = bytes(content[found.end : found.end + (12 if explicit else 8)])
    if pixel_header and found.end - start <= LONGEST_BYTES:
        walked = bytes(content[start : found.end]) + pixel_header
        _layouts = (Layout(start, explicit, found, walked, pixel_header), *_layouts[: MOST_KEPT - 1])
