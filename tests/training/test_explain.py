"""Explanations of networks whose every weight is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.nets.unet import UNet
from torch import nn

from training.errors import RunError
from training.trust.explain import deepest_convolution, occlusion_map, seg_grad_cam

BRIGHT, DARK = (10, 22), (24, 8)


class TwoDetectors(nn.Module):
    """Channel 0 of `look` answers to bright spots, channel 1 to dark ones; only the first makes a lesion."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.decide = nn.Conv2d(2, 2, 1, bias=False)
        with torch.no_grad():
            self.look.weight.copy_(torch.stack([torch.ones(1, 3, 3), -torch.ones(1, 3, 3)]) / 9)
            self.decide.weight.copy_(torch.tensor([[0.0, 0.0], [6.0, 0.0]])[..., None, None])

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (n, 2, row, column)."""
        logits: torch.Tensor = self.decide(torch.relu_(self.look(batch)))
        return logits - torch.tensor([0.0, 3.0]).view(2, 1, 1)


class Watcher(nn.Module):
    """Calls everything lesion as far as one place is bright, wherever that is."""

    def __init__(self, place: tuple[int, ...]) -> None:
        super().__init__()
        self.place = place

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (n, 2, ...)."""
        seen = batch[(slice(None), slice(0, 1), *(slice(p, p + 1) for p in self.place))]
        lesion = seen.expand(-1, 1, *batch.shape[2:])
        return torch.cat([-4.0 * lesion + 2.0, 4.0 * lesion - 2.0], dim=1)


def two_spots() -> tuple[torch.Tensor, torch.Tensor]:
    """An image (1, 32, 32) with a bright and a dark spot, and the region of the bright one."""
    image = torch.zeros(1, 32, 32)
    region = torch.zeros(32, 32, dtype=torch.bool)
    for (row, column), value in ((BRIGHT, 1.0), (DARK, -1.0)):
        image[0, row - 2 : row + 3, column - 2 : column + 3] = value
    region[BRIGHT[0] - 2 : BRIGHT[0] + 3, BRIGHT[1] - 2 : BRIGHT[1] + 3] = True
    return image, region


def peak(values: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(values.argmax(), values.shape))


def test_grad_cam_peaks_where_the_known_filter_finds_the_lesion() -> None:
    image, region = two_spots()
    found = seg_grad_cam(TwoDetectors(), image, region, layer="look")
    assert found[BRIGHT] == found.max() == 1.0
    assert region.numpy()[peak(found)]
    assert found[DARK] == 0.0


def test_grad_cam_explains_the_region_and_no_other_lesion() -> None:
    network = TwoDetectors()
    with torch.no_grad():
        network.decide.weight[1] = 6.0  # now either detector makes a lesion
    image, region = two_spots()
    found = seg_grad_cam(network, image, region, layer="look")
    assert (found[BRIGHT], found[DARK]) == (1.0, 0.0)


def test_grad_cam_for_the_background_does_not_show_the_lesion() -> None:
    image, region = two_spots()
    found = seg_grad_cam(TwoDetectors(), image, region, label=0, layer="look")
    assert found[BRIGHT] == 0.0
    assert found[DARK] == found.max() == 1.0  # the detector of bright spots is below zero there


def test_grad_cam_leaves_no_hook_gradient_or_mode_behind() -> None:
    network = TwoDetectors().train()
    image, region = two_spots()
    with torch.no_grad():
        seg_grad_cam(network, image, region)
    assert network.training
    assert all(not module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not image.requires_grad


def test_a_network_in_a_wrapper_that_is_not_in_evaluation_mode_stays_in_it() -> None:
    inner = TwoDetectors().eval()
    wrapped = nn.Sequential(inner)
    image = torch.rand(1, 32, 32)
    region = torch.ones(32, 32, dtype=torch.bool)
    seg_grad_cam(wrapped, image, region, layer="0.look")
    occlusion_map(wrapped, image, region)
    assert wrapped.training
    assert not any(module.training for module in inner.modules())


def test_the_deepest_convolution_is_the_coarsest_with_the_most_channels() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 9, 3, padding=1),
        nn.Conv2d(9, 4, 3, stride=4),
        nn.Conv2d(4, 7, 1),
        nn.Conv2d(7, 2, 1),
        nn.Upsample(scale_factor=4),
    )
    assert deepest_convolution(network, torch.zeros(1, 32, 32)) == "2"


def test_a_convolution_of_one_voxel_has_no_places_to_show() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 8, 1))
    assert deepest_convolution(network, torch.zeros(1, 16, 16)) == "0"
    with pytest.raises(RunError, match="name a layer"):
        deepest_convolution(nn.Identity(), torch.zeros(1, 16, 16))


@pytest.mark.parametrize("dims", [2, 3])
def test_maps_lie_on_the_grid_of_the_image_in_two_and_three_dimensions(dims: int) -> None:
    torch.manual_seed(0)
    network = UNet(dims, in_channels=1, out_channels=3, channels=(4, 8), strides=(2,))
    image = torch.randn(1, *(12, 16, 20)[-dims:])
    region = image[0] > 0.5
    cam = seg_grad_cam(network, image, region, label=2)
    hidden = occlusion_map(network, image, region, label=2)
    assert cam.shape == hidden.shape == region.shape
    assert np.isfinite(hidden).all()
    assert 0.0 <= cam.min() <= cam.max() <= 1.0


def test_occlusion_shows_the_one_place_that_a_network_looks_at() -> None:
    image = torch.zeros(1, 32, 32)
    image[0, 20, 9] = 1.0
    region = torch.zeros(32, 32, dtype=torch.bool)
    region[2:6, 2:6] = True  # far from the place: it is the reason that is shown, not the region
    drop = occlusion_map(Watcher((20, 9)), image, region, size=4)
    assert drop[20, 9] == drop.max() > 0.9
    rows, columns = np.nonzero(drop > 0.01)
    assert abs(rows - 20).max() <= 3
    assert abs(columns - 9).max() <= 3


def test_occlusion_works_in_windows_and_up_to_their_borders() -> None:
    image = torch.zeros(1, 5, 11, 13)
    image[0, 4, 10, 12] = 1.0
    drop = occlusion_map(Watcher((4, 10, 12)), image, torch.ones(5, 11, 13, dtype=torch.bool), size=(8, 4, 4))
    assert peak(drop)[1:] >= (8, 8)
    assert drop[0, 0, 0] == pytest.approx(0.0, abs=1e-6)


def test_what_speaks_against_the_label_is_negative() -> None:
    image, _ = two_spots()
    everywhere = torch.ones(32, 32, dtype=torch.bool)
    drop = occlusion_map(Watcher(BRIGHT), image, everywhere, label=0, size=4)
    assert drop[BRIGHT] < -0.9


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (torch.zeros(32, 32, dtype=torch.bool), "empty"),
        (torch.ones(32, 31, dtype=torch.bool), "on its grid"),
        (torch.ones(32, 32), "bool region"),
    ],
)
def test_a_region_that_does_not_fit_is_refused(region: torch.Tensor, message: str) -> None:
    image, _ = two_spots()
    for explain in (seg_grad_cam, occlusion_map):
        with pytest.raises(RunError, match=message):
            explain(TwoDetectors(), image, region)


def test_a_layer_that_is_not_there_is_refused() -> None:
    image, region = two_spots()
    with pytest.raises(RunError, match="no layer 'nowhere'"):
        seg_grad_cam(TwoDetectors(), image, region, layer="nowhere")
