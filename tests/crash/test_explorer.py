"""A few kills from the table of points in every run of the tests; `make crash` does all of them, many times.

Not covered here: most points of the table, kills at random times.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from dicomnode.selftest.bundles import write_bundle
from tests.crash.explorer import Lane, Plan
from tests.crash.points import point_called

pytestmark = [pytest.mark.slow, pytest.mark.real_parts]


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    folder = tmp_path_factory.mktemp("crash")
    write_bundle(folder / "models" / "threshold")
    opened = Lane(folder / "lane", folder / "models", random.Random(1)).open()
    yield opened
    opened.close()


@pytest.mark.timeout(900)
def test_a_node_killed_all_along_the_path_of_a_study_loses_and_repeats_nothing(lane: Lane) -> None:
    first_start = [point_called("migrating")]
    one_by_one = [
        point_called(name) for name in ("byte_of_pdata", "placed_not_recorded", "routed", "seg_stored")
    ]
    all_at_once = [point_called(name) for name in ("synced_not_answered", "seg_sent_not_recorded")]
    for plan in (Plan(tuple(first_start)), Plan(tuple(one_by_one)), Plan(tuple(all_at_once), "power")):
        outcome = lane.round(plan)
        assert outcome.complaints == ()
        assert outcome.killed == tuple(point.name for point in plan.points)


@pytest.mark.timeout(900)
def test_a_paused_worker_that_wakes_after_its_lease_expired_cannot_publish(lane: Lane) -> None:
    assert lane.pause_a_worker().complaints == ()
    assert "lease_lost" in lane.node.log.read_text()
