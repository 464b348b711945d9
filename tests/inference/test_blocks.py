"""Blocks with a halo against one pass over the whole image, and how far networks look.

Weights are random: no network was trained for this. Blocks on a GPU are not covered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.blocks import plan_blocks
from inference.bundle import Preprocessing
from inference.memory import WORKSPACE, bytes_per_voxel
from inference.networks.build import build_network
from inference.sweep import Outlook, Sweep
from inference.view import View, view_of

NETS = "monai.networks.nets"
UNET: dict[str, Any] = {
    "_target_": f"{NETS}.UNet",
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 6, 8],
    "strides": [2, 2],
    "num_res_units": 1,
    "norm": "batch",
}
FCN = {"_target_": "inference.networks.fcn.FCN", "in_channels": 1, "out_channels": 3, "channels": [4, 4, 4]}
DEEPLAB = {
    "_target_": "inference.networks.deeplab.DeepLabV3Plus",
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 4, 4, 4],
    "rates": [1, 2, 3],
    "pyramid_channels": 4,
    "low_level_channels": 4,
}
FLEXIBLE = {"_target_": f"{NETS}.FlexibleUNet", "in_channels": 1, "out_channels": 3, "backbone": "resnet10"}
ATTENTION = {
    "_target_": f"{NETS}.AttentionUnet",
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8],
    "strides": [2],
}
SEGRESNET = {"_target_": f"{NETS}.SegResNet", "in_channels": 1, "out_channels": 3, "init_filters": 8}
SHALLOW: dict[str, Any] = UNET | {"channels": [4, 6], "strides": [2]}
EXACT: dict[str, dict[str, Any]] = {
    "shallow unet": SHALLOW,
    "unet": UNET,
    "unet of two votes": {"_target_": "inference.networks.ensemble.Ensemble", "members": [UNET, UNET]},
    "fcn": FCN,
    "flexible": FLEXIBLE,
}
LOOKS_EVERYWHERE: dict[str, dict[str, Any]] = {
    "instance norm": UNET | {"norm": "instance"},
    "instance norm in one place": ATTENTION,
    "group norm": SEGRESNET,
    "pooling over the image": DEEPLAB,
}
WINDOW = {2: (32, 32), 3: (16, 16, 16)}
MEMBERS = "members"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On maps this small, threads wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def built(network_def: dict[str, Any], spatial_dims: int) -> torch.nn.Module:
    """A network with random weights, and norms that are not the identity."""
    torch.manual_seed(spatial_dims)
    if MEMBERS in network_def:
        members = [member | {"spatial_dims": spatial_dims} for member in network_def[MEMBERS]]
        network = build_network(network_def | {MEMBERS: members})
    else:
        network = build_network(network_def | {"spatial_dims": spatial_dims})
    for name, kept in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            kept.uniform_(0.5, 1.5)
    return network.eval()


def how(spatial_dims: int) -> Preprocessing:
    return Preprocessing.model_validate(
        {
            "spatial_dims": spatial_dims,
            "spacing_mm": [None, None, None],
            "intensity": {"kind": "z_score"},
            "window_size": WINDOW[spatial_dims],
        }
    )


def swept(
    network: torch.nn.Module, image: torch.Tensor, view: View | None, bytes_per_voxel: float
) -> torch.Tensor:
    preprocessing = how(image.ndim - 2)
    sweep = Sweep(network, lambda logits: logits, preprocessing, Outlook(view, bytes_per_voxel))
    return sweep.over(image)


AT_ONCE, IN_PARTS = 1e-6, 1e30
"""Bytes a voxel: everything fits at once, or only the smallest blocks do."""
CASES = [*product(EXACT, (2,)), ("shallow unet", 3), ("fcn", 3)]
SIZES = {2: st.tuples(*[st.integers(1, 200)] * 2), 3: st.tuples(*[st.integers(1, 40)] * 3)}


@pytest.mark.parametrize(("name", "spatial_dims"), CASES)
def test_blocks_say_what_one_pass_over_the_whole_image_says(name: str, spatial_dims: int) -> None:
    network = built(EXACT[name], spatial_dims)
    view = view_of(network, 1, WINDOW[spatial_dims])
    assert view is not None

    @settings(max_examples=3, deadline=None, derandomize=True)
    @given(size=SIZES[spatial_dims])
    @torch.inference_mode()
    def check(size: tuple[int, ...]) -> None:
        image = torch.randn(1, 1, *size)
        whole, blocks = (swept(network, image, view, cost) for cost in (AT_ONCE, IN_PARTS))
        assert whole.shape == (1, 3, *size)
        torch.testing.assert_close(blocks, whole, atol=1e-4, rtol=1e-4)

    check()


@pytest.mark.parametrize("name", ["unet", "fcn"])
@torch.inference_mode()
def test_whole_steps_need_no_padding_so_one_pass_is_the_network_itself(name: str) -> None:
    network = built(EXACT[name], 2)
    view = view_of(network, 1, WINDOW[2])
    image = torch.randn(3, 1, 96, 160)
    torch.testing.assert_close(swept(network, image, view, IN_PARTS), network(image), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_halo_that_is_too_small_shows() -> None:
    network = built(UNET, 2)
    view = view_of(network, 1, WINDOW[2])
    assert view is not None
    image = torch.randn(1, 1, 256, 256)
    short = replace(view, reach=(view.step[0], view.step[0]))
    assert not torch.allclose(swept(network, image, short, IN_PARTS), network(image), atol=1e-4)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@torch.inference_mode()
def test_pieces_for_the_cache_change_nothing(spatial_dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = built(UNET, spatial_dims)
    view = view_of(network, 1, WINDOW[spatial_dims])
    image = torch.randn(7, 1, *WINDOW[spatial_dims])
    batches: list[int] = []
    network.register_forward_pre_hook(lambda _module, given: batches.append(len(given[0])))
    sweep = Sweep(network, lambda logits: logits.softmax(dim=1), how(spatial_dims), Outlook(view, 100.0))
    usual = sweep.over(image)
    monkeypatch.setattr("inference.sweep.BYTES_PER_STEP_ON_CPU", 350 * math.prod(WINDOW[spatial_dims]))
    monkeypatch.setattr("inference.sweep.VALUES_AT_A_TIME_ON_CPU", 500)
    torch.testing.assert_close(sweep.over(image), usual, atol=1e-5, rtol=1e-5)
    assert batches == [7, 3, 3, 1]


@pytest.mark.parametrize("name", LOOKS_EVERYWHERE)
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_network_that_depends_on_the_whole_image_has_no_view(name: str, spatial_dims: int) -> None:
    assert view_of(built(LOOKS_EVERYWHERE[name], spatial_dims), 1, WINDOW[spatial_dims]) is None


@torch.inference_mode()
def test_without_a_view_windows_of_the_training_size_are_blended() -> None:
    network = built(UNET | {"norm": "instance"}, 2)
    seen = []
    network.register_forward_pre_hook(lambda _module, given: seen.append(tuple(given[0].shape[2:])))
    swept(network, torch.randn(2, 1, 70, 40), None, AT_ONCE)
    assert set(seen) == {WINDOW[2]}


@pytest.mark.parametrize(("kernel", "dilation", "reach"), [(1, 1, 0), (3, 1, 1), (5, 1, 2), (3, 4, 4)])
def test_the_reach_of_a_convolution_is_known(kernel: int, dilation: int, reach: int) -> None:
    layer = torch.nn.Conv2d(2, 3, kernel, dilation=dilation, padding=dilation * (kernel // 2))
    assert view_of(layer, 2, (16, 16)) == View((reach, reach), (1, 1))


def test_axes_are_looked_at_apart() -> None:
    flat = torch.nn.Sequential(
        torch.nn.Conv3d(1, 1, (1, 3, 5), padding=(0, 1, 2)),
        torch.nn.Conv3d(1, 1, (1, 2, 2), stride=(1, 2, 2)),
        torch.nn.Upsample(scale_factor=(1, 2, 2)),
    )
    view = view_of(flat.eval(), 1, (4, 16, 16))
    assert view is not None
    assert (view.reach[0], view.step) == (0, (1, 2, 2))
    assert 0 < view.reach[1] < view.reach[2] < 7


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.sampled_from([1, 2, 8]), st.integers(0, 20)), min_size=2, max_size=3
    ),
    st.integers(1, 10**6),
)
def test_every_voxel_is_answered_once_and_its_view_is_read(
    axes: list[tuple[int, int, int]], most: int
) -> None:
    view = View(tuple(reach for _, _, reach in axes), tuple(step for _, step, _ in axes))
    shape = tuple(count * step for count, step, _ in axes)
    answered = np.zeros(shape, np.int32)
    for block in plan_blocks(shape, view, most):
        answered[block.answers] += 1
        for read, answer, n, step, (_, _, reach) in zip(
            block.reads, block.answers, shape, view.step, axes, strict=True
        ):
            assert read.start <= max(0, answer.start - reach)
            assert read.stop >= min(n, answer.stop + reach)
            assert read.start % step == read.stop % step == 0
    assert (answered == 1).all()


def test_blocks_fit_and_are_few() -> None:
    view = View((50, 50, 50), (8, 8, 8))
    shape = (400, 512, 512)
    for most in (2 * 10**7, 5 * 10**7, 2 * 10**8):
        blocks = plan_blocks(shape, view, most)
        sizes = [math.prod(read.stop - read.start for read in block.reads) for block in blocks]
        assert max(sizes) <= most
        assert sum(sizes) < (4 if most < 5 * 10**7 else 2) * math.prod(shape)
    assert len(blocks) == 1


def test_what_a_pass_holds_in_memory_is_counted() -> None:
    """Two maps of 8 channels at a time, and the image of one: 4 bytes each."""
    layers = torch.nn.Sequential(*(torch.nn.Conv2d(n, 8, 3, padding=1) for n in (1, 8, 8, 8)))
    found = bytes_per_voxel(layers, 1, (32, 32)) / WORKSPACE
    assert 2 * 8 * 4 <= found <= 2 * 8 * 4 + 8
