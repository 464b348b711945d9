"""A header that lies as another one did is found at once, and as a walk through it would find it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from dicomnode import layouts, part10
from dicomnode.elements import Found, find_elements
from dicomnode.layouts import MOST_KEPT, KnownLayouts, locate_elements
from dicomnode.part10 import IndexedHeader, index_part10
from tests.dicomnode.test_header_index import as_file, rich_image

pytestmark = pytest.mark.filterwarnings("ignore")  # changed headers make pydicom talk
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@pytest.fixture(autouse=True)
def nothing_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "_explicit", KnownLayouts())
    monkeypatch.setattr(layouts, "_implicit", KnownLayouts())
    monkeypatch.setattr(part10, "_known_files", KnownLayouts())


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """One number for each header that was walked."""
    walked: list[int] = []

    def counting(*arguments: object, **named: object) -> Found | None:
        walked.append(1)
        return find_elements(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(layouts, "find_elements", counting)
    yield walked


def data_set(instance_number: int, *, syntax: str = ExplicitVRLittleEndian, undefined: bool = False) -> bytes:
    """Without the file meta information."""
    dataset = rich_image(syntax, undefined=undefined)
    dataset.InstanceNumber, dataset.Rows, dataset.Columns = instance_number, 8, 8
    dataset.PixelData = bytes(128)
    content = as_file(dataset)
    return content[144 + int.from_bytes(content[140:144], "little") :]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True])
def test_the_second_of_two_like_headers_is_not_walked(syntax: str, undefined: bool, walks: list[int]) -> None:
    explicit = syntax != ImplicitVRLittleEndian
    first, second = (data_set(number, syntax=syntax, undefined=undefined) for number in (11, 12))
    assert first != second
    found = locate_elements(first, 0, explicit=explicit)
    assert found is not None
    assert locate_elements(second, 0, explicit=explicit) is found
    assert locate_elements(memoryview(second)[:-100], 0, explicit=explicit, whole=False) is found
    assert len(walks) == 1


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True])
def test_any_changed_byte_changes_as_much_as_in_a_walk(syntax: str, undefined: bool) -> None:
    explicit = syntax != ImplicitVRLittleEndian
    base = data_set(11, syntax=syntax, undefined=undefined)
    assert locate_elements(base, 0, explicit=explicit) is not None
    known = layouts._explicit if explicit else layouts._implicit
    kept, rng = known._kept, random.Random(1)
    for at in range(len(base)):
        changed = bytearray(base)
        changed[at] = rng.choice([0, 255, changed[at] ^ 1, rng.randrange(256)])
        known._kept = kept
        expected = find_elements(changed, 0, explicit=explicit)
        assert locate_elements(changed, 0, explicit=explicit) == expected, f"byte {at}"


def anew(content: bytes) -> IndexedHeader | None:
    """The header of a file before which none was read."""
    part10._known_files._kept = ()
    return index_part10(content)


def assert_same_places(found: IndexedHeader | None, expected: IndexedHeader | None, what: str) -> None:
    assert (found is None) == (expected is None), what
    if found is not None and expected is not None:
        assert found.meta.found == expected.meta.found, what
        assert found.values.found == expected.values.found, what
        assert found.pixels == expected.pixels, what
        assert (found.preamble, found.values.content) == (expected.preamble, expected.values.content), what


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_any_changed_byte_of_a_file_changes_as_much_as_in_a_walk(syntax: str) -> None:
    dataset = rich_image(syntax)
    dataset.PixelData = bytes(128)
    base = as_file(dataset)
    assert anew(base) is not None
    kept, rng = part10._known_files._kept, random.Random(2)
    assert len(kept) == 1
    for at in range(len(base)):
        changed = bytearray(base)
        changed[at] = rng.choice([0, 255, changed[at] ^ 1, rng.randrange(256)])
        expected = anew(bytes(changed))
        part10._known_files._kept = kept
        assert_same_places(index_part10(bytes(changed)), expected, f"byte {at}")


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless])
def test_a_file_that_differs_in_its_transfer_syntax_is_walked_anew(syntax: str) -> None:
    dataset = rich_image()
    dataset.PixelData = bytes(128)
    base = as_file(dataset)
    uid = ExplicitVRLittleEndian.encode()
    other = base.replace(uid, syntax.encode().ljust(len(uid), b"\0"))
    assert other != base
    expected = anew(other)
    assert anew(base) is not None
    assert_same_places(index_part10(other), expected, syntax)


@pytest.mark.parametrize("end", range(0, 600, 3))
def test_a_cut_header_is_not_taken_for_a_whole_one(end: int) -> None:
    base = data_set(11)
    locate_elements(base, 0, explicit=True)
    for whole in (True, False):
        expected = find_elements(base[:end], 0, explicit=True, whole=whole)
        assert locate_elements(base[:end], 0, explicit=True, whole=whole) == expected


def test_elsewhere_in_a_file_it_is_another_layout(walks: list[int]) -> None:
    base = data_set(11)
    for start in (0, 10):
        found = locate_elements(bytes(start) + base, start, explicit=True)
        assert found == find_elements(bytes(start) + base, start, explicit=True)
    assert len(walks) == 2


def test_only_the_latest_layouts_are_kept(walks: list[int]) -> None:
    for length in range(1, MOST_KEPT + 20):
        dataset = rich_image()
        dataset.ImageComments, dataset.PixelData = "x" * 2 * length, bytes(2)
        content = as_file(dataset)
        assert locate_elements(content[144 + content[140] :], 0, explicit=True) is not None
    assert len(layouts._explicit._kept) == MOST_KEPT
    assert len(walks) == MOST_KEPT + 19
