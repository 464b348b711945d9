"""Two results on one series: Dice, lesions and what lies where, on masks that are counted by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from dicomnode.errors import PermanentError
from dicomnode.models.compare import Match, Seen, compare

TUMOUR, ORGAN = ("52988006", "SCT"), ("39607008", "SCT")


def seen(lesions: dict[int, str], labels: dict[int, tuple[str, str]] | None = None, at: float = 0.0) -> Seen:
    """Lesions drawn in one row of pixels: every "x" is a voxel of that number."""
    found = Seen(labels=labels or dict.fromkeys(lesions, TUMOUR))
    for number, drawn in lesions.items():
        found.masks[("1.2.3", None)][number] = mask(drawn)
    found.positions_mm[("1.2.3", None)] = np.array([0.0, 0.0, at])
    return found


def mask(drawn: str) -> npt.NDArray[np.bool_]:
    return np.array([[letter == "x" for letter in drawn]])


def test_the_same_twice_agrees_wholly() -> None:
    found = compare(seen({1: "xx..", 2: "...x"}), seen({1: "xx..", 2: "...x"}))
    assert (found.dice, found.only_live, found.only_candidate) == (1.0, 0, 0)
    assert found.matches == (Match(1, 1, 2), Match(2, 2, 1))


def test_dice_counts_voxels_that_both_give_the_same_label() -> None:
    found = compare(seen({1: "xxxx...."}), seen({1: "..xxxxxx"}))
    assert (found.live_voxels, found.candidate_voxels, found.common_voxels) == (4, 6, 2)
    assert found.dice == pytest.approx(2 * 2 / (4 + 6))


def test_another_label_in_the_same_place_is_no_agreement() -> None:
    found = compare(seen({1: "xxx"}, {1: TUMOUR}), seen({1: "xxx"}, {1: ORGAN}))
    assert (found.dice, found.matches, found.only_live, found.only_candidate) == (0.0, (), 1, 1)


def test_numbers_of_lesions_need_not_agree() -> None:
    found = compare(seen({1: "xx......", 2: "....xx.."}), seen({1: "....xxx.", 2: "xx......"}))
    assert found.matches == (Match(1, 2, 2), Match(2, 1, 2))


def test_a_lesion_in_two_pieces_is_matched_once_by_its_larger_piece() -> None:
    found = compare(seen({1: "xxxxxx"}), seen({1: "xx....", 2: "...xxx"}))
    assert found.matches == (Match(1, 2, 3),)
    assert (found.only_live, found.only_candidate) == (0, 1)


def test_what_one_alone_sees() -> None:
    nothing = Seen()
    found = compare(seen({1: "xx.."}), nothing)
    assert (found.dice, found.only_live, found.only_candidate) == (0.0, 1, 0)
    found = compare(nothing, seen({1: "xx..", 2: "...x"}))
    assert (found.dice, found.only_live, found.only_candidate) == (0.0, 0, 2)


def test_where_neither_sees_anything_there_is_no_dice() -> None:
    assert compare(Seen(), Seen()).dice is None


def test_lesions_that_overlap_count_in_each_other_only_once_as_label() -> None:
    found = compare(seen({1: "xxx.", 2: ".xxx"}), seen({1: "xxxx"}))
    assert (found.live_voxels, found.candidate_voxels, found.dice) == (4, 4, 1.0)
    assert (len(found.matches), found.only_live) == (1, 1)


def test_other_images_of_the_series_have_nothing_in_common() -> None:
    other = Seen(labels={1: TUMOUR}, positions_mm={("1.2.4", None): None})
    other.masks[("1.2.4", None)][1] = mask("xxx")
    assert compare(seen({1: "xxx"}), other).dice == 0.0


def test_frames_in_another_place_are_not_compared() -> None:
    with pytest.raises(PermanentError, match=r"not lie in the same place on image 1\.2\.3"):
        compare(seen({1: "xx"}), seen({1: "xx"}, at=0.1))
