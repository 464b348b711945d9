"""The state tables: every state can be reached, and what the table does not name is refused."""

from __future__ import annotations

from enum import StrEnum
from itertools import product

import pytest

from dicomnode.records.states import MOVES, DeliveryState, JobState, StudyState, moved

MACHINES: list[tuple[type[StrEnum], StrEnum]] = [
    (StudyState, StudyState.RECEIVING),
    (JobState, JobState.QUEUED),
    (DeliveryState, DeliveryState.WAITING),
]


@pytest.mark.parametrize(("machine", "first"), MACHINES)
def test_every_state_can_be_reached(machine: type[StrEnum], first: StrEnum) -> None:
    reached, size = {first}, 0
    while len(reached) != size:
        size = len(reached)
        reached |= {new for old, new in MOVES if old in reached and isinstance(new, machine)}
    assert reached == set(machine)


@pytest.mark.parametrize(("machine", "first"), MACHINES)
def test_the_table_decides_about_every_pair_of_states(machine: type[StrEnum], first: StrEnum) -> None:
    refused = 0
    for old, new in product(machine, machine):
        if (old, new) in MOVES:
            assert moved(old, new) is new
        else:
            refused += 1
            with pytest.raises(ValueError, match=f"no move from {old} to {new}"):
                moved(old, new)
    assert refused


def test_no_move_leads_from_one_kind_of_thing_to_another() -> None:
    assert all(type(old) is type(new) for old, new in MOVES)


def test_what_succeeded_or_was_delivered_stays_so() -> None:
    ends = {old for old, _ in MOVES}
    assert JobState.SUCCEEDED not in ends
    assert DeliveryState.DELIVERED not in ends
