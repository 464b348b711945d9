"""Which SOP classes hold images that a model could look at."""

from __future__ import annotations

from pydicom.uid import UID, EnhancedUSVolumeStorage


def is_image(sop_class_uid: str) -> bool:
    """Whether a storage SOP class is an image, by its name in PS3.6 table A-1."""
    return "Image Storage" in UID(sop_class_uid).name or sop_class_uid == EnhancedUSVolumeStorage


def is_secondary_capture(sop_class_uid: str) -> bool:
    """Whether a SOP class is one of the secondary captures."""
    return "Secondary Capture" in UID(sop_class_uid).name
