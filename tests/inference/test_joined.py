"""Skip connections with room that stays against those of the library. Weights are random."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.layers.simplelayers import SkipConnection
from torch import nn

from inference.engine import in_channels_last
from inference.networks.joined import Joined, join_in_place
from inference.networks.onednn import CHANNELS_LAST, merged
from tests.inference.test_blocks import UNET, built
from tests.inference.test_onednn import needs_onednn

pytestmark = needs_onednn
SIZES = ((1, 1, 32, 32, 32), (2, 1, 16, 48, 32), (1, 1, 16, 16, 16), (2, 1, 32, 32, 32))
"""Of batches; a 2-D network gets the first four numbers."""


@pytest.fixture(params=[2, 3])
def images(request: pytest.FixtureRequest) -> list[torch.Tensor]:
    layout = CHANNELS_LAST[2 + request.param]
    return [torch.randn(size[: 2 + request.param]).contiguous(memory_format=layout) for size in SIZES]


@pytest.fixture
def network(images: list[torch.Tensor]) -> nn.Module:
    axes = images[0].ndim - 2
    return merged(in_channels_last(built(UNET, axes), axes), images[0])


def joints(network: nn.Module) -> list[Joined]:
    return [module for module in network.modules() if isinstance(module, Joined)]


@torch.inference_mode()
def test_maps_of_any_size_are_joined_as_before_and_answers_stay(
    network: nn.Module, images: list[torch.Tensor]
) -> None:
    fast = copy.deepcopy(network)
    join_in_place(fast)
    answers = [fast(image) for image in images]
    assert joints(fast)
    assert not any(isinstance(module, SkipConnection) for module in fast.modules())
    for image, answer in zip(images, answers, strict=True):
        assert torch.equal(answer, network(image))


@torch.inference_mode()
def test_a_copy_has_room_of_its_own(network: nn.Module, images: list[torch.Tensor]) -> None:
    join_in_place(network)
    image = images[0]
    expected = network(image)
    other = copy.deepcopy(network)
    assert torch.equal(other(image), expected)
    for one, same in zip(joints(network), joints(other), strict=True):
        assert one._room.data_ptr() != same._room.data_ptr()


@torch.inference_mode()
def test_a_joined_map_that_is_an_answer_gets_memory_of_its_own() -> None:
    layer = nn.Conv2d(2, 2, 3, padding=1)
    for last in (nn.Identity(), nn.ReLU(inplace=True)):
        network = merged(nn.Sequential(layer, SkipConnection(layer), last).eval(), torch.randn(1, 2, 8, 8))
        join_in_place(network)
        assert not joints(network)
