"""UIDs that follow from input and model, so that a repeated run makes the same objects.

All are "2.25." and a 128-bit integer (DICOM PS3.5 B.2), taken from a SHA-256.
"""

from __future__ import annotations

import hashlib

from dicomnode.encode.context import ResultContext
from dicomnode.forms import ResultKind


def derived_uid(*parts: str) -> str:
    """A UID that depends on all of `parts` and on nothing else."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def sop_instance_uid(context: ResultContext, kind: ResultKind, page: int = 1) -> str:
    """SOP Instance UID (0008,0018): one per input set, model and kind of object, and page of it."""
    pages = () if page == 1 else (str(page),)
    return derived_uid("instance", context.source.series.digest, context.model_digest, kind, *pages)


def series_instance_uid(context: ResultContext, kind: ResultKind, page: int = 1) -> str:
    """Series Instance UID (0020,000E): the same for all results of one model on one source series.

    It does not depend on the digests, so a superseding result joins the series of the earlier one;
    only pictures begin a new one, since a viewer would show old and new pages mixed. Of a segmentation
    in parts each has a series of its own: of two in one series viewers show only the later.
    """
    own: tuple[str, ...] = ()
    if kind == "pictures":
        own = (str(context.instance_number),)
    elif page > 1:
        own = ("part", str(page))
    return derived_uid("series", context.source.series.series_instance_uid, context.card.name, kind, *own)


def tracking_uid(context: ResultContext, number: int) -> str:
    """Tracking UID (0062,0021) of lesion `number`, the same in SEG and reports."""
    return derived_uid("lesion", context.source.series.digest, context.model_digest, str(number))


def dimension_organization_uid(context: ResultContext) -> str:
    """Dimension Organization UID (0020,9164) of the SEG."""
    return derived_uid("dimensions", context.source.series.digest, context.model_digest)


def device_uid(model_digest: str) -> str:
    """Device UID (0018,1002) of the model (IHE AI Results)."""
    return derived_uid("device", model_digest)
