"""Layers with few output channels in their wider form against the layers as they are. Weights are random.

Nothing here judges a time (`tests/bench/stages/inference.py` does).
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from inference.engine import fitted
from inference.networks.narrow import Spread, Strip, widen_narrow
from inference.networks.onednn import Merged, merged
from inference.sweep import outlook_of
from inference.view import view_of
from tests.inference.test_blocks import UNET, built, how
from tests.inference.test_onednn import CPU, NETWORKS, WINDOW, needs_onednn

pytestmark = needs_onednn
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


def layer_of(kind: type[nn.Module], *given: Any, slope: float | None = None, **options: Any) -> Merged:
    torch.manual_seed(1)
    layer = kind(*given, **options).eval()
    found = Merged(layer, "layer")  # type: ignore[arg-type]  # only convolutions are given
    found.slope = slope
    return found


def widened(layer: nn.Module) -> nn.Module:
    """The form that a layer gets."""
    parent = nn.Sequential(copy.deepcopy(layer))
    widen_narrow(parent)
    return parent[0]


@pytest.mark.parametrize("slope", [None, 0.0, 0.1])
@pytest.mark.parametrize("outputs", [1, 2, 3, 7])
@pytest.mark.parametrize("columns", [32, 33])
@torch.inference_mode()
def test_a_strip_says_what_its_voxels_say(slope: float | None, outputs: int, columns: int) -> None:
    for kind, kernel, size in ((nn.Conv2d, (3, 5), (9, columns)), (nn.Conv3d, (3, 1, 3), (4, 6, columns))):
        padding = [n // 2 for n in kernel]
        layer = layer_of(kind, 5, outputs, kernel, padding=padding, slope=slope)
        wide = widened(layer)
        assert isinstance(wide, Strip)
        image = torch.randn(2, 5, *size).contiguous(memory_format=LAYOUTS[len(size)])
        expected = layer(image)
        torch.testing.assert_close(wide(image), expected, atol=1e-5, rtol=1e-5)
        if slope is None:
            torch.testing.assert_close(wide(image, expected), layer(image, expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slope", [None, 0.0, 0.1])
@pytest.mark.parametrize(("kernel", "padding", "more"), [(3, 1, 1), (2, 0, 0), (4, 1, 0), (5, 2, 1)])
@torch.inference_mode()
def test_a_spread_voxel_becomes_what_it_became(
    slope: float | None, kernel: int, padding: int, more: int
) -> None:
    for kind, stride, size in (
        (nn.ConvTranspose2d, (2, 2), (5, 7)),
        (nn.ConvTranspose3d, (2, 2, 2), (3, 4, 5)),
    ):
        options = {"padding": padding, "output_padding": more, "slope": slope}
        layer = layer_of(kind, 6, 3, kernel, stride, **options)
        wide = widened(layer)
        assert isinstance(wide, Spread)
        image = torch.randn(2, 6, *size).contiguous(memory_format=LAYOUTS[len(size)])
        expected = layer(image)
        assert expected.shape[2:] == tuple(2 * n for n in size)
        torch.testing.assert_close(wide(image), expected, atol=1e-5, rtol=1e-5)


def test_axes_may_spread_unlike() -> None:
    layer = layer_of(
        nn.ConvTranspose3d, 6, 3, (1, 3, 2), (1, 2, 2), padding=(0, 1, 0), output_padding=(0, 1, 0)
    )
    image = torch.randn(1, 6, 3, 4, 5)
    with torch.inference_mode():
        torch.testing.assert_close(widened(layer)(image), layer(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        layer_of(nn.Conv2d, 5, 16, 3, padding=1),
        layer_of(nn.Conv2d, 5, 3, 3),
        layer_of(nn.Conv2d, 5, 3, 3, 2, padding=1),
        layer_of(nn.Conv2d, 5, 3, 3, padding=2, dilation=2),
        layer_of(nn.Conv2d, 4, 2, 3, padding=1, groups=2),
        layer_of(nn.Conv3d, 5, 3, 1),
        layer_of(nn.ConvTranspose2d, 5, 3, 3, 2),
        layer_of(nn.ConvTranspose2d, 5, 3, 3, 2, padding=1),
        layer_of(nn.ConvTranspose2d, 5, 16, 2, 2),
        layer_of(nn.ConvTranspose3d, 5, 3, 4, 4),
    ],
    ids=lambda layer: str(layer.convolution),
)
def test_other_layers_stay_as_they_are(layer: Merged) -> None:
    assert type(widened(layer)) is Merged


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("spatial_dims", [2, 3])
@torch.inference_mode()
def test_whole_networks_say_what_they_said(name: str, spatial_dims: int) -> None:
    network = built(NETWORKS[name], spatial_dims)
    image = torch.randn(2, 1, *WINDOW[spatial_dims])
    wide = merged(network, image)
    widen_narrow(wide)
    torch.testing.assert_close(wide(image), network(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@torch.inference_mode()
def test_how_far_a_network_looks_is_found_out_before(spatial_dims: int) -> None:
    network = built(UNET | {"num_res_units": 2}, spatial_dims)
    preprocessing = how(spatial_dims)
    fast = fitted(network, preprocessing, CPU)
    assert {type(module) for module in fast.modules()} >= {Strip, Spread}
    expected = view_of(network, 1, preprocessing.window_size)
    assert expected is not None
    assert outlook_of(fast, preprocessing).view == expected
    assert view_of(fast, 1, preprocessing.window_size) != expected
