"""A short look at bad input in the normal suite; `make fuzz` takes the long one (docs/robustness.md)."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import mutate
from tests.fuzz.targets import TARGETS, corpus, tiny_image

EXPECTED = {"refused", "parked", "taken"}
CORPUS = {name: corpus(name) for name in TARGETS}
SHORT = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@pytest.mark.parametrize("target", TARGETS)
def test_good_input_ends_as_expected(target: str) -> None:
    assert {TARGETS[target](content) for content in CORPUS[target]} <= EXPECTED


@pytest.mark.parametrize("target", TARGETS)
@given(seed=st.integers(0, 2**32 - 1))
@SHORT
def test_changed_input_ends_as_expected(target: str, seed: int) -> None:
    chance = random.Random(seed)
    assert TARGETS[target](mutate(chance.choice(CORPUS[target]), chance)) in EXPECTED


@pytest.mark.parametrize("target", TARGETS)
@given(content=st.binary(max_size=4096))
@SHORT
def test_any_bytes_end_as_expected(target: str, content: bytes) -> None:
    assert TARGETS[target](content) in EXPECTED
    assert TARGETS[target](tiny_image()[:400] + content) in EXPECTED
