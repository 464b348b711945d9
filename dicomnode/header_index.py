"""The header of a data set as an index of its bytes: values are decoded when they are asked for.

Most instances need a dozen of a hundred values, and most values are plain text. What is not plain, pydicom
decodes from the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from pydicom import Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement, empty_value_for_VR
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    PrivateTransferSyntaxes,
)

from dicomnode.elements import Content, Element, Found, PixelPlace, pixel_place
from dicomnode.layouts import locate_elements
from dicomnode.plain_values import TEXT_VRS, number_and_vr, plain_text

NOT_INDEXED = (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


@dataclass(frozen=True, eq=False)
class HeaderIndex:
    """Elements of `content` by tag. Asked for values like a pydicom data set, it answers the same.

    Only text comes as plain str, even where pydicom makes a class of its own of it.
    """

    content: Content
    found: Found
    explicit: bool

    @property
    def elements(self) -> dict[int, Element]:
        """VR, start and length of each value by its tag."""
        return self.found.elements

    @property
    def pixels(self) -> PixelPlace | None:
        """Where native pixel data lie behind the header."""
        return pixel_place(self.content, self.found.end, explicit=self.explicit)

    def get(self, keyword: str) -> Any:
        """The value of an attribute, None where it is absent; raises what pydicom raises for a broken one."""
        tag, dictionary_vr = number_and_vr(keyword)
        found = self.encoded(tag)
        if found is None:
            return None
        vr, value = found
        if (vr or dictionary_vr) in TEXT_VRS:
            word = plain_text(value)
            if word is not None:
                return word
        return self.dataset.get(keyword)

    def encoded(self, tag: int) -> tuple[str | None, bytes] | None:
        """VR, where the encoding names it, and the bytes of a value; None where it is absent."""
        element = self.found.elements.get(tag)
        if element is None:
            return None
        vr, start, length = element
        return vr, bytes(self.content[start : start + length])

    def encoded_values(self, tags: tuple[int, ...]) -> list[tuple[str | None, bytes] | None]:
        """`encoded` for several attributes."""
        content = self.content
        return [place and (place[0], bytes(content[place[1]])) for place in self.found.places(tags)]

    def get_item(self, key: str | BaseTag) -> Any:
        """The element of an attribute, not decoded; None where it is absent."""
        tag = number_and_vr(key)[0] if isinstance(key, str) else int(key)
        return self._raw(tag, self.elements[tag]) if tag in self.elements else None

    def __getitem__(self, keyword: str) -> Any:
        return self.dataset[keyword]

    @cached_property
    def dataset(self) -> Dataset:
        """All elements as pydicom keeps them until they are asked for."""
        dataset = Dataset({_base_tag(tag): self._raw(tag, found) for tag, found in self.elements.items()})
        named = "SpecificCharacterSet" in dataset
        encodings = convert_encodings(dataset.SpecificCharacterSet) if named else default_encoding
        dataset.set_original_encoding(not self.explicit, True, encodings)
        return dataset

    def _raw(self, tag: int, element: Element) -> RawDataElement:
        vr, start, length = element
        value = bytes(self.content[start : start + length])
        if not value:
            value = cast(bytes, empty_value_for_VR(vr, raw=True))
        return RawDataElement(_base_tag(tag), vr, length, value, start, not self.explicit, True)


def index_header(
    content: Content, transfer_syntax_uid: str, start: int = 0, *, whole: bool = True
) -> HeaderIndex | None:
    """The header of the data set that begins at `start`; None where only pydicom can tell.

    Without `whole` the content is cut off somewhere behind the header. Never raises.
    """
    if transfer_syntax_uid in NOT_INDEXED or transfer_syntax_uid in PrivateTransferSyntaxes:
        return None
    explicit = transfer_syntax_uid != ImplicitVRLittleEndian
    found = locate_elements(content, start, explicit=explicit, whole=whole)
    return None if found is None else HeaderIndex(content, found, explicit)


_base_tags: dict[int, BaseTag] = {}
MOST_KEPT_TAGS = 10_000


def _base_tag(tag: int) -> BaseTag:
    """pydicom's kind of tag; made once, as files hold the same ones again and again."""
    found = _base_tags.get(tag)
    if found is None:
        found = BaseTag(tag)
        if len(_base_tags) < MOST_KEPT_TAGS:
            _base_tags[tag] = found
    return found
