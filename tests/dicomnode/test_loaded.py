"""What a process has loaded costs no time in the middle of a study."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from dicomnode.loaded import keep_what_is_loaded, let_go_of_what_ended


class Ring:
    """Refers to itself, so that only the collector ends it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def nothing_is_kept_afterwards() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_the_collector_does_not_look_at_it_any_more() -> None:
    ring = Ring()
    keep_what_is_loaded()
    assert not any(seen is ring for seen in gc.get_objects())


def test_what_came_later_is_still_freed() -> None:
    keep_what_is_loaded()
    later = weakref.ref(Ring())
    gc.collect()
    assert later() is None


def test_a_kept_object_that_has_ended_is_freed_when_asked_for() -> None:
    ring = Ring()
    kept = weakref.ref(ring)
    keep_what_is_loaded()
    del ring
    gc.collect()
    assert kept() is not None
    let_go_of_what_ended()
    assert kept() is None
    assert gc.get_freeze_count()


def test_where_nothing_is_kept_nothing_is_looked_at() -> None:
    let_go_of_what_ended()
    assert not gc.get_freeze_count()
