"""Layers merged for oneDNN against the layers as they are. Weights are random unless a bundle has them.

Nothing here judges a time. Half precision is not covered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.blocks.convolutions import ResidualUnit
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from inference.bundle import read_bundle
from inference.engine import Model, in_channels_last, load_network
from inference.networks.onednn import Added, Merged, Summed, merged
from inference.view import view_of
from tests.inference.test_blocks import EXACT, LOOKS_EVERYWHERE, UNET, built

MODELS = Path(__file__).parents[2] / "config" / "models"
NETWORKS = EXACT | LOOKS_EVERYWHERE
WINDOW = {2: (64, 64), 3: (32, 32, 32)}
CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    reason="this torch was built without oneDNN",
)


def convolutions_left(network: nn.Module) -> int:
    """Convolutions outside merged layers."""
    inside = sum(isinstance(module, Merged) for module in network.modules())
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return sum(isinstance(module, kinds) for module in network.modules()) - inside


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in network.modules())


@needs_onednn
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("spatial_dims", [2, 3])
@torch.inference_mode()
def test_merged_layers_say_what_the_network_says(name: str, spatial_dims: int) -> None:
    network = built(NETWORKS[name], spatial_dims)
    image = torch.randn(2, 1, *WINDOW[spatial_dims])
    fast = merged(network, image)
    assert fast is not network
    assert convolutions_left(fast) == 0
    other = torch.randn(1, 1, *WINDOW[spatial_dims])
    torch.testing.assert_close(fast(other), network(other), atol=1e-4, rtol=1e-4)


@needs_onednn
def test_norms_and_activations_become_part_of_the_convolutions() -> None:
    network = built(UNET, 3)
    fast = merged(network, torch.randn(1, 1, *WINDOW[3]))
    assert norms(network) > 0
    assert norms(fast) == 0
    assert not any(isinstance(module, nn.PReLU) for module in fast.modules())


@needs_onednn
@torch.inference_mode()
def test_sums_of_residual_units_become_part_of_a_convolution() -> None:
    network = built(UNET | {"num_res_units": 2}, 3)
    image = torch.randn(1, 1, *WINDOW[3])
    fast = merged(network, image)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        found = fast(image)
    called = {event.key: event.count for event in profile.key_averages()}
    units = sum(isinstance(module, ResidualUnit) for module in network.modules())
    ends_with_activation = 1
    assert sum(isinstance(module, Added) for module in fast.modules()) == units - ends_with_activation
    assert sum(isinstance(module, Summed) for module in fast.modules()) == ends_with_activation
    assert "aten::add" not in called, "a sum in memory of its own"
    torch.testing.assert_close(found, network(image), atol=1e-4, rtol=1e-4)


@needs_onednn
@torch.inference_mode()
def test_a_residual_unit_that_ends_with_an_activation_keeps_its_sum() -> None:
    network = nn.Sequential(ResidualUnit(2, 4, 4, subunits=1, norm="batch"), nn.Conv2d(4, 2, 1)).eval()
    image = torch.randn(1, 4, 32, 32)
    fast = merged(network, image)
    assert convolutions_left(fast) == 0
    assert not any(isinstance(module, Added) for module in fast.modules())
    torch.testing.assert_close(fast(image), network(image))


@needs_onednn
@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.PReLU])
def test_what_is_not_a_number_still_spoils_what_sees_it(activation: type[nn.Module]) -> None:
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), activation(), nn.Conv2d(4, 2, 5, padding=2)]
    network = nn.Sequential(*layers).eval()
    fast = merged(network, torch.randn(1, 1, 32, 32))
    assert convolutions_left(fast) == 0
    assert view_of(fast, 1, (32, 32)) == view_of(network, 1, (32, 32))


DYNUNET: dict[str, Any] = {
    "_target_": "monai.networks.nets.DynUNet",
    "in_channels": 1,
    "out_channels": 2,
    "kernel_size": [3, 3, 3],
    "strides": [1, 2, 2],
    "upsample_kernel_size": [2, 2],
    "filters": [4, 6, 8],
    "norm_name": ["instance", {"affine": True}],
    "res_block": True,
}
"""As nnU-Net builds its networks; it keeps its layers in two places."""


@needs_onednn
@pytest.mark.parametrize("network_def", [DYNUNET, UNET | {"norm": "instance"}])
@pytest.mark.parametrize("spatial_dims", [2, 3])
@torch.inference_mode()
def test_norms_of_each_image_work_where_the_map_lies(network_def: dict[str, Any], spatial_dims: int) -> None:
    network = in_channels_last(built(network_def, spatial_dims), spatial_dims)
    for name, weight in network.named_parameters():
        if "norm" in name:
            weight.uniform_(0.5, 1.5)
    image = torch.randn(3, 1, *WINDOW[spatial_dims])
    image[1:] *= 10.0
    fast = merged(network, image)
    assert convolutions_left(fast) == 0
    assert not any(isinstance(module, _InstanceNorm) for module in fast.modules())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        found = fast(image)
    assert "aten::clone" not in {event.key for event in profile.key_averages()}, "a map in another order"
    torch.testing.assert_close(found, network(image), atol=1e-4, rtol=1e-4)
    assert view_of(fast, 1, WINDOW[spatial_dims]) is None


@needs_onednn
def test_a_norm_with_a_mean_of_its_own_stays() -> None:
    norm = nn.InstanceNorm2d(4, track_running_stats=True)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), norm, nn.ReLU()).eval()
    fast: Any = merged(network, torch.randn(1, 1, 32, 32))
    assert convolutions_left(fast) == 0
    assert isinstance(fast[1], nn.InstanceNorm2d)


class Odd(nn.Module):
    """Reads what lies between its layers, which merging would change."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        before: torch.Tensor = self.layers[0](image)
        after: torch.Tensor = self.layers(image)
        return before + after


@needs_onednn
def test_a_network_that_merging_would_change_stays_as_it_is() -> None:
    network = Odd().eval()
    network.layers[1].running_var.fill_(4.0)  # type: ignore[operator]
    assert merged(network, torch.randn(1, 1, 32, 32)) is network


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 2, 3, padding="same"),
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 3)),
    ],
)
@torch.inference_mode()
def test_a_convolution_of_another_kind_is_left_alone(layer: nn.Module) -> None:
    network = nn.Sequential(layer, nn.ReLU()).eval()
    image = torch.randn(1, 1, 32, 32)
    fast: Any = merged(network, image)
    assert not isinstance(fast[0], Merged)
    torch.testing.assert_close(fast(image), network(image))


@pytest.mark.parametrize("folder", sorted(MODELS.iterdir()), ids=lambda folder: folder.name)
@torch.inference_mode()
def test_shipped_models_decide_as_they_did(folder: Path) -> None:
    bundle = read_bundle(folder)
    how = bundle.card.preprocessing
    image = torch.randn(1, how.channels, *how.window_size).cumsum(dim=-1) / 4  # neighbours are alike
    fast, plain = Model(bundle, CPU).network, load_network(bundle).eval()
    assert fast is not plain
    torch.testing.assert_close(fast(image), plain(image), atol=1e-3, rtol=1e-3)
    best, second = plain(image).topk(2, dim=1).values.unbind(dim=1)
    is_sure = best - second > 2e-3
    assert is_sure.float().mean() > 0.9
    assert not ((fast(image).argmax(dim=1) != plain(image).argmax(dim=1)) & is_sure).any()
