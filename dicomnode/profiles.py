"""What a peer was found to accept, and the forms of results that follow from it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

import tomli_w
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from dicomnode.errors import ConfigurationError
from dicomnode.forms import Form

LABEL_MAP_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
SOP_CLASS_NAMES = {LABEL_MAP_SEGMENTATION_STORAGE: "Label Map Segmentation Storage"}
"""Names of classes that pydicom 3.0 does not know (PS3.4 B.5)."""

NEEDS: dict[Form, tuple[str, ...]] = {
    Form.SEG: (SegmentationStorage,),
    Form.LABELMAP: (LABEL_MAP_SEGMENTATION_STORAGE,),
    Form.REPORTS: (Comprehensive3DSRStorage,),
    Form.CONTOURS: (GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage),
    Form.PICTURES: (SecondaryCaptureImageStorage,),
    Form.PDF: (EncapsulatedPDFStorage,),
    Form.RTSTRUCT: (RTStructureSetStorage,),
}
"""SOP classes of which a destination must accept all. Contours lie on grey images or on colour ones."""

OUTLINES = (Form.SEG, Form.LABELMAP, Form.CONTOURS, Form.PICTURES, Form.PDF)
NUMBERS = (Form.REPORTS, Form.PICTURES, Form.PDF)
"""The ladder: the best form first. A structure set is for planning, never chosen by itself."""


class Profile(BaseModel):
    """One peer as it answered when it was asked, or as an administrator wrote it down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ae_title: str
    probed_at: AwareDatetime
    forms: tuple[Form, ...] = Field(min_length=1)
    accepted: dict[str, tuple[str, ...]]
    """Transfer Syntax UIDs by SOP Class UID, for the record; only `forms` decides what is sent."""


def choose_forms(accepted_classes: Collection[str]) -> tuple[Form, ...]:
    """The best accepted carrier of outlines and the best of numbers; empty when nothing can be taken."""
    possible = {form for form, needed in NEEDS.items() if all(uid in accepted_classes for uid in needed)}
    chosen = [next((form for form in ladder if form in possible), None) for ladder in (OUTLINES, NUMBERS)]
    return tuple(dict.fromkeys(form for form in chosen if form is not None))


def profile_path(folder: Path, peer_name: str) -> Path | None:
    """Where the profile of a peer is kept; None for a name that is no file name."""
    return folder / f"{peer_name}.toml" if re.fullmatch(r"\w[\w.-]*", peer_name) else None


def write_profile(path: Path, profile: Profile) -> None:
    """Write `profile` where `read_profile` finds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = profile.model_dump(mode="json")
    content["probed_at"] = profile.probed_at
    path.write_text(f"# Written by `dicomnode probe`. Change `forms` as you need.\n{tomli_w.dumps(content)}")


def read_profile(path: Path) -> Profile:
    """Raises ConfigurationError naming the file and what is wrong with it."""
    try:
        return Profile.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(map(str, problem["loc"]))
        raise ConfigurationError(
            f"profile {path}: {f'{where}: ' if where else ''}{problem['msg']}; "
            "correct it, or have it written anew by `dicomnode probe`"
        ) from error


def now() -> datetime:
    """The time of a probe, to the second."""
    return datetime.now().astimezone().replace(microsecond=0)
