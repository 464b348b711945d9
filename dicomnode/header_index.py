"""The header of a data set as an index of its bytes: values are decoded when they are asked for.

Most instances need a dozen of a hundred values, and most values are plain text. What is not plain, pydicom
decodes from the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, cast

from pydicom import Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement, empty_value_for_VR
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    PrivateTransferSyntaxes,
)

from dicomnode.elements import Content, Element, find_elements

TEXT_VRS = ("UI", "LO", "SH", "CS")
"""Single values of them are the bytes without the padding behind."""
NOT_INDEXED = (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


@dataclass(frozen=True, eq=False)
class HeaderIndex:
    """Elements of `content` by tag. Asked for values like a pydicom data set, it answers the same.

    Only text comes as plain str, even where pydicom makes a class of its own of it.
    """

    content: Content
    elements: dict[int, Element]
    explicit: bool

    def get(self, keyword: str) -> Any:
        """The value of an attribute, None where it is absent; raises what pydicom raises for a broken one."""
        tag, dictionary_vr = _tag_of(keyword)
        element = self.elements.get(tag)
        if element is None:
            return None
        vr, start, length = element
        if (vr or dictionary_vr) in TEXT_VRS:
            value = bytes(self.content[start : start + length])
            if value.isascii() and b"\\" not in value and b"\x1b" not in value:
                return value.rstrip(b" \0").decode()
        return self.dataset.get(keyword)

    def get_item(self, keyword: str) -> Any:
        """The element of an attribute, not decoded; None where it is absent."""
        tag, _ = _tag_of(keyword)
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
    elements = find_elements(content, start, explicit=explicit, whole=whole)
    return None if elements is None else HeaderIndex(content, elements, explicit)


@cache
def _tag_of(keyword: str) -> tuple[int, str]:
    """Tag and VR of an attribute of the standard; raises KeyError for a keyword that is none."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(f"{keyword} is no attribute of the standard")
    return tag, dictionary_VR(tag)


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
