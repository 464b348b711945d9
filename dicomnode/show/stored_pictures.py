"""Pictures of a stored segmentation on the stored images that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset

from dicomnode.encode.decode import SegmentFrame, read_frames
from dicomnode.encode.overlay import Drawing, draw
from dicomnode.errors import PermanentError
from dicomnode.read.slices import read_slice
from dicomnode.show.stored_report import StoredLesion
from dicomnode.study import Instance

CLOSE_UP_PIXELS = 384


@dataclass(frozen=True, eq=False)
class LesionFrames:
    """The frames of one segment, in the order of the segmentation."""

    frames: tuple[SegmentFrame, ...]

    def key_frame(self, lesion: StoredLesion | None) -> int:
        """Index of the frame on which the lesion was measured, or else of its largest cut."""
        for axis in lesion.axes if lesion else ():
            for index, frame in enumerate(self.frames):
                if _is_image_of(frame, axis.sop_instance_uid, axis.frame_number):
                    return index
        return int(np.argmax([frame.mask.sum() for frame in self.frames]))


def frames_by_segment(seg: Dataset) -> dict[int, LesionFrames]:
    """The frames of each segment. Raises PermanentError when the segmentation cannot be read."""
    found: dict[int, list[SegmentFrame]] = {}
    try:
        for frame in read_frames(seg):
            found.setdefault(frame.segment_number, []).append(frame)
    except (AttributeError, KeyError, ValueError) as error:
        raise PermanentError(f"the segmentation cannot be read ({type(error).__name__})") from error
    return {number: LesionFrames(tuple(frames)) for number, frames in sorted(found.items())}


def draw_stored(
    frames: LesionFrames,
    index: int,
    lesion: StoredLesion | None,
    find_instance: Callable[[str], Instance],
    lines: Sequence[str],
) -> Image.Image:
    """One image of a lesion with its outline, and its diameters where they were measured on this one.

    Raises PermanentError when the image is not there or cannot be read.
    """
    frame = frames.frames[index]
    instance = find_instance(frame.source_sop_instance_uid)
    shown = read_slice(instance, frame.source_frame_number)
    if shown.values.shape != frame.mask.shape:
        raise PermanentError("the image is not of the size of its segmentation: another one came later")
    axes = [
        (axis.start, axis.end)
        for axis in (lesion.axes if lesion else ())
        if _is_image_of(frame, axis.sop_instance_uid, axis.frame_number)
    ]
    return draw(
        Drawing(
            shown.values,
            shown.spacing_mm,
            shown.intensity_unit,
            instance.header,
            frame.mask,
            tuple(axes),
            lines,
        )
    )


def close_up(picture: Image.Image, mask: npt.NDArray[np.bool_]) -> Image.Image:
    """The square around a lesion: twice its extent, and at least a third of the picture."""
    rows, columns = np.nonzero(mask)
    across, down = picture.width / mask.shape[1], picture.height / mask.shape[0]
    box = columns.min() * across, rows.min() * down, (columns.max() + 1) * across, (rows.max() + 1) * down
    extent = max(box[2] - box[0], box[3] - box[1])
    side = min(max(2 * extent, picture.width / 3), picture.width, picture.height)
    left = min(max((box[0] + box[2] - side) / 2, 0), picture.width - side)
    top = min(max((box[1] + box[3] - side) / 2, 0), picture.height - side)
    size = (CLOSE_UP_PIXELS, CLOSE_UP_PIXELS)
    return picture.resize(size, Image.Resampling.BICUBIC, (left, top, left + side, top + side))


def _is_image_of(frame: SegmentFrame, sop_instance_uid: str, frame_number: int | None) -> bool:
    return frame.source_sop_instance_uid == sop_instance_uid and (frame.source_frame_number or 1) == (
        frame_number or 1
    )
