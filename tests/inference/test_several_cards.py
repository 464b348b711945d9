"""Which device a worker runs on, where there is no card, one or several.

No card is used: torch is told how many there are.
"""

from __future__ import annotations

import pytest
import torch

from inference.device import device_named
from inference.errors import DeviceMissing
from inference.resident import ResidentModels


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A machine with two cards; what becomes the card of this process."""
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    return taken


def test_a_worker_makes_its_card_the_one_of_its_process(current: list[torch.device]) -> None:
    for name in ("cuda:1", "cuda:0", "auto"):
        models = ResidentModels(name)
        assert current.pop() == models.device
        assert models.device.type == "cuda"
    assert ResidentModels("cpu").device == torch.device("cpu")
    assert not current


@pytest.mark.parametrize("name", ["cuda:2", "cuda", "gpu0", "cuda:-1", "meta"])
def test_a_card_that_is_not_there_is_refused_with_those_that_are(
    name: str, current: list[torch.device]
) -> None:
    with pytest.raises(DeviceMissing, match="may name auto, cpu, cuda:0, cuda:1"):
        ResidentModels(name)
    assert not current


def test_without_a_card_auto_is_the_cpu_and_no_card_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_named("auto") == torch.device("cpu")
    with pytest.raises(DeviceMissing, match=r"may name auto, cpu$"):
        device_named("cuda:0")
