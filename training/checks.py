"""What ruins a study and is cheap to find before training starts.

Every case is loaded once. A problem of one case does not keep the others from being looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from training.cases import Case, DataSet, LoadedCase, Mask, Split
from training.datasets.manifest import torn_groups
from training.errors import DataError

Severity = Literal["error", "warning"]
Progress = Callable[[int, int], None]
"""Is told how many cases are done, and of how many."""

HASH_SIZE = 12
"""A perceptual hash has this many bits squared: 144."""
NEAR_BITS = 22
"""Of 144 bits: two images that differ in no more are held to be near duplicates.

It suits breast ultrasound: images of one group differ in 8 bits (median), of two groups in 24 and
more. It is no measure of patients elsewhere. Axial brain slices of one patient differ in 32 bits
(median), while different heads come down to about 20; crops of one anatomy leave 24 (lung nodules)
and 30 (hippocampus) between patients. So look at the pairs it names, or give another number.
"""
DARK, BRIGHT = 0.5, 99.5
"""Percentiles of a slice that become black and white before it is hashed."""
NAMED = 5
"""How many cases a message names before it only counts."""


@dataclass(frozen=True)
class Problem:
    """Something found; `case` is empty where the whole data set is meant.

    With an error, training would fail or its results be wrong. A warning is for a person to judge.
    """

    severity: Severity
    case: str
    message: str


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is kept of a case that was loaded. `bits` is None for an image of one value."""

    case: Case
    labels: frozenset[int]
    bits: Mask | None


def check(
    data: DataSet, labels: int, near_bits: int = NEAR_BITS, progress: Progress | None = None
) -> list[Problem]:
    """Everything found wrong with `data`, errors first; `labels` is the highest label number.

    Never raises DataError: what cannot be read is a problem like any other.
    """
    try:
        cases = data.cases()
    except DataError as error:
        return [Problem("error", "", str(error))]
    problems = [
        Problem("error", "", f"group {group} lies in more than one split; keep it in one")
        for group in torn_groups(cases)
    ]
    seen: list[_Seen] = []
    for done, case in enumerate(cases, start=1):
        try:
            loaded = data.load(case)
        except DataError as error:
            problems.append(Problem("error", case.name, str(error)))
        else:
            problems.extend(_of_case(loaded, labels))
            seen.append(_Seen(case, _labels(loaded), perceptual_hash(loaded)))
        if progress is not None:
            progress(done, len(cases))
    problems.extend(_absent(seen, labels))
    problems.extend(_near_duplicates(seen, near_bits))
    return sorted(problems, key=lambda problem: problem.severity != "error")


def perceptual_hash(loaded: LoadedCase) -> Mask | None:
    """144 bits of the slice with the largest lesion, or of the middle slice where there is no lesion.

    pHash: which of the lowest frequencies of a cosine transform lie above their median (imagehash).
    Half of the bits are set, so two hashes always differ in an even number of them. None when the
    slice has hardly more than one value, or values that are not finite.
    """
    areas = np.count_nonzero(loaded.truth, axis=(1, 2))
    index = int(areas.argmax()) if areas.any() else loaded.volume.shape[0] // 2
    voxels = loaded.volume.voxels[index].astype(np.float32)
    if not np.isfinite(voxels).all():
        return None
    low, high = np.percentile(voxels, (DARK, BRIGHT))
    if low == high:
        return None
    grey = ((voxels - low) / (high - low)).clip(0.0, 1.0) * 255.0
    bits: Mask = imagehash.phash(Image.fromarray(grey.astype(np.uint8)), hash_size=HASH_SIZE).hash.ravel()
    return bits


def _of_case(loaded: LoadedCase, labels: int) -> Iterator[Problem]:
    name, voxels = loaded.case.name, loaded.volume.voxels
    bad = int(np.count_nonzero(~np.isfinite(voxels)))
    if bad:
        yield Problem("error", name, f"{bad} voxels are not finite; mend or leave out the image")
    elif voxels.min() == voxels.max():
        yield Problem("error", name, f"every voxel is {voxels.flat[0]:g}; leave out the image")
    highest = int(loaded.truth.max())
    if highest > labels:
        yield Problem(
            "error", name, f"the mask holds label {highest}, the model has {labels}; correct one of them"
        )


def _labels(loaded: LoadedCase) -> frozenset[int]:
    return frozenset(int(value) for value in np.unique(loaded.truth) if value > 0)


def _absent(seen: Sequence[_Seen], labels: int) -> Iterator[Problem]:
    """Splits without cases, labels that a split lacks, and cases without any label."""
    for split in get_args(Split):
        found = [item for item in seen if item.case.split == split]
        if not found:
            yield Problem("warning", "", f"no readable case is in split {split}")
            continue
        severity: Severity = "error" if split == "train" else "warning"
        for label in sorted(set(range(1, labels + 1)).difference(*(item.labels for item in found))):
            yield Problem(severity, "", f"label {label} occurs in no case of split {split}")
    empty = [item.case for item in seen if not item.labels]
    if empty:
        counts = Counter(case.split for case in empty)
        each = ", ".join(f"{counts[split]} {split}" for split in get_args(Split))
        yield Problem("warning", "", f"{len(empty)} of {len(seen)} masks are empty ({each}): {_named(empty)}")


def _near_duplicates(seen: Sequence[_Seen], near_bits: int) -> Iterator[Problem]:
    """Each held-out case with its nearest one among those that a model may have been fitted to before."""
    for split, before in (("val", ("train",)), ("test", ("train", "val"))):
        known = [item for item in seen if item.bits is not None and item.case.split in before]
        held_out = [item for item in seen if item.bits is not None and item.case.split == split]
        if not known:
            continue
        table = np.stack([item.bits for item in known if item.bits is not None])
        for item in held_out:
            distances: npt.NDArray[np.int64] = np.count_nonzero(table != item.bits, axis=1)
            nearest = int(distances.argmin())
            if distances[nearest] <= near_bits:
                like = known[nearest].case
                yield Problem(
                    "warning",
                    item.case.name,
                    f"in {split}, looks like {like.name} in {like.split}: {distances[nearest]} of "
                    f"{table.shape[1]} bits differ; if they show one patient, put them into one group",
                )


def _named(cases: Sequence[Case]) -> str:
    names = ", ".join(case.name for case in cases[:NAMED])
    return names if len(cases) <= NAMED else f"{names} and {len(cases) - NAMED} more"
