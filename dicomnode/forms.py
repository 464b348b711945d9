"""The forms in which a destination can take a result, and the objects that each form consists of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Literal, get_args


class Form(StrEnum):
    """One way to bring outlines or numbers to a reader."""

    SEG = "seg"
    """A binary segmentation: what every other form falls back from."""
    LABELMAP = "labelmap"
    """A label map segmentation, for viewers that know nothing else."""
    REPORTS = "reports"
    """Structured reports (TID 1500)."""
    CONTOURS = "contours"
    """A presentation state with the outlines and sizes drawn on the images."""
    PICTURES = "pictures"
    """Colour secondary captures: a page of numbers, then the key image of each lesion."""
    PDF = "pdf"
    """The same numbers and pictures as an encapsulated PDF."""
    RTSTRUCT = "rtstruct"
    """A radiotherapy structure set, for planning systems."""


ResultKind = Literal[
    "seg", "sr_measurements", "sr_volumes", "sr_not_seen",
    "labelmap", "sr_labelmap_volumes", "contours", "pictures", "pdf", "rtstruct",
]  # fmt: skip

KINDS: tuple[ResultKind, ...] = get_args(ResultKind)

DEFAULT_FORMS = (Form.SEG, Form.REPORTS)
"""What a destination gets of which nothing else is known."""


Wanted = Mapping[str, frozenset[ResultKind]]
"""The kinds of object that each destination gets, by the name of the peer."""


def kinds_of(forms: Iterable[Form]) -> frozenset[ResultKind]:
    """The kinds of object that a destination with these forms gets, as far as a result has them.

    A report never goes where the segmentation does not go that it refers to.
    """
    chosen = set(forms)
    kinds: set[ResultKind] = set()
    if Form.REPORTS in chosen:
        kinds |= {"sr_measurements", "sr_not_seen"}
        if Form.SEG in chosen:
            kinds.add("sr_volumes")
        elif Form.LABELMAP in chosen:
            kinds.add("sr_labelmap_volumes")
    for form in chosen - {Form.REPORTS}:
        kinds.add(_OWN_KIND[form])
    return frozenset(kinds)


_OWN_KIND: dict[Form, ResultKind] = {
    Form.SEG: "seg",
    Form.LABELMAP: "labelmap",
    Form.CONTOURS: "contours",
    Form.PICTURES: "pictures",
    Form.PDF: "pdf",
    Form.RTSTRUCT: "rtstruct",
}

DEFAULT_KINDS = kinds_of(DEFAULT_FORMS)


def wants(wanted: Wanted, destination: str, kind: str) -> bool:
    """Whether a destination gets objects of this kind."""
    return kind in wanted.get(destination, DEFAULT_KINDS)


def all_kinds(wanted: Wanted, destinations: Iterable[str]) -> frozenset[ResultKind]:
    """What must be made for all of these destinations; segmentation and reports are always made and kept."""
    return DEFAULT_KINDS.union(*(wanted.get(name, DEFAULT_KINDS) for name in destinations))
