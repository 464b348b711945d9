"""What the roofline counts, by hand and by torch's own counter. How fast a machine is, is not judged."""

from __future__ import annotations

import pytest
import torch

from inference.networks.build import build_network
from tests.bench.roofline import META, Ceilings, Layer, Roofline, layers_of
from tests.bench.stages.inference import SMALL_UNET
from training.networks import count_flops


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_layer_is_counted_as_by_hand(dtype: torch.dtype) -> None:
    network = torch.nn.Conv2d(3, 5, kernel_size=3, padding=1).to(META, dtype)
    (layer,) = layers_of(network, torch.empty(2, 3, 8, 10, device=META, dtype=dtype))
    assert layer.flops == 2 * (2 * 5 * 8 * 10) * (3 * 3 * 3)
    values = 2 * 3 * 8 * 10 + 5 * 3 * 3 * 3 + 5 + 2 * 5 * 8 * 10  # image, weights, bias, map
    assert layer.moved_bytes == values * dtype.itemsize


def test_all_layers_of_a_network_are_counted_and_its_weights_stay_where_they_are() -> None:
    network = build_network(SMALL_UNET).eval()
    roofline = Roofline(network, torch.float32, Ceilings(1e12, 1e10))
    shapes = [torch.Size((1, 1, 16, 32, 32)), torch.Size((1, 1, 16, 16, 16))]
    found = roofline.figures(shapes, seconds=2.0)
    flops = sum(2 * count_flops(network, tuple(shape)) for shape in shapes)
    assert found["TFLOP"] == pytest.approx(flops / 1e12)
    assert found["TFLOP/s"] == pytest.approx(found["TFLOP"] / 2.0)
    assert next(network.parameters()).device == torch.device("cpu")


def test_the_floor_of_a_layer_is_what_takes_longer_and_layers_follow_each_other() -> None:
    ceilings = Ceilings(flops_per_s=100.0, bytes_per_s=10.0)
    computing, moving = Layer(flops=300.0, moved_bytes=1.0), Layer(flops=1.0, moved_bytes=20.0)
    assert ceilings.floor_s([computing]) == 3.0
    assert ceilings.floor_s([moving]) == 2.0
    assert ceilings.floor_s([computing, moving]) == 5.0
