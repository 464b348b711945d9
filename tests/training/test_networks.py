"""Every network of the catalogue keeps the same promises, in 2-D and in 3-D."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from monai.inferers.utils import sliding_window_inference

from inference.bundle import is_plain
from inference.networks.build import build_network
from training.errors import ExperimentError
from training.networks import CATALOGUE, count_flops, count_parameters, network_def, plan_stages

WINDOWS = {2: (48, 64), 3: (16, 32, 32)}
ODD = {2: (37, 53), 3: (21, 19, 23)}
CLASSES = 3
KINDS = [
    pytest.param(name, dims, id=f"{name}-{dims}d")
    for name, family in CATALOGUE.items()
    if not family.traditional
    for dims in family.dims
]


@pytest.fixture(autouse=True)
def one_seed_and_thread() -> Iterator[None]:
    """On maps this small, threads wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(7)
    yield
    torch.set_num_threads(threads)


def definition(name: str, dims: int) -> dict[str, Any]:
    return network_def(name, dims, 2, CLASSES, WINDOWS[dims])


def built(name: str, dims: int) -> torch.nn.Module:
    return build_network(definition(name, dims))


def window(dims: int, images: int = 1) -> torch.Tensor:
    return torch.randn(images, 2, *WINDOWS[dims])


def trained_output(network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = network.train()(image)
    return output


@pytest.mark.parametrize(("name", "dims"), KINDS)
class TestEveryNetwork:
    @torch.inference_mode()
    def test_an_image_of_any_size_goes_through_in_windows(self, name: str, dims: int) -> None:
        image = torch.randn(1, 2, *ODD[dims])
        output = sliding_window_inference(image, WINDOWS[dims], 4, built(name, dims).eval())
        assert isinstance(output, torch.Tensor)
        assert output.shape == (1, CLASSES, *ODD[dims])
        assert output.isfinite().all()

    @torch.inference_mode()
    def test_a_size_that_the_window_check_lets_pass_goes_through_at_once(self, name: str, dims: int) -> None:
        multiple = CATALOGUE[name].window_multiple
        size = ODD[dims] if multiple == 1 else tuple(multiple * n for n in (3, 5, 2)[:dims])
        if name == "resenc-unet":
            size = WINDOWS[dims]  # its stages follow from the window
        network = build_network(network_def(name, dims, 2, CLASSES, size)).eval()
        assert network(torch.randn(1, 2, *size)).shape == (1, CLASSES, *size)

    def test_one_image_a_batch_trains_every_parameter(self, name: str, dims: int) -> None:
        network = built(name, dims)
        output = trained_output(network, window(dims))
        (output * torch.randn_like(output)).sum().backward()  # type: ignore[no-untyped-call]
        for key, weight in network.named_parameters():
            assert weight.grad is not None, key
            assert weight.grad.isfinite().all(), key
            # A bias before a norm has no effect, so its gradient is noise about 0.
            assert weight.ndim == 1 or weight.grad.any(), key

    @torch.inference_mode()
    def test_saved_weights_give_the_same_output(self, name: str, dims: int) -> None:
        first, second = built(name, dims), built(name, dims)
        image = window(dims)
        trained_output(first, image)  # moves the running means away from where they start
        before = second.eval()(image)
        second.load_state_dict(first.state_dict())
        assert not torch.equal(before, first.eval()(image))
        assert torch.equal(second(image), first(image))

    @torch.inference_mode()
    def test_a_seed_gives_one_network(self, name: str, dims: int) -> None:
        image = window(dims)
        outputs = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            outputs.append(built(name, dims).eval()(image))
        assert torch.equal(outputs[0], outputs[1])
        assert not torch.equal(outputs[0], outputs[2])

    @torch.inference_mode()
    def test_an_image_is_judged_alone_as_in_company(self, name: str, dims: int) -> None:
        network = built(name, dims).eval()
        images = window(dims, images=2)
        torch.testing.assert_close(network(images)[1:], network(images[1:]), rtol=1e-3, atol=1e-4)

    def test_a_bundle_may_name_it_untrusted(self, name: str, dims: int) -> None:
        named = json.loads(json.dumps(definition(name, dims)))
        assert is_plain(named)
        assert named == definition(name, dims)

    def test_its_size_is_that_of_the_others(self, name: str, dims: int) -> None:
        window = (160, 160) if dims == 2 else (48, 48, 48)
        assert 1e6 < count_parameters(build_network(network_def(name, dims, 1, 2, window))) < 1.4e7


def test_deep_supervision_stacks_the_heads_while_training_only() -> None:
    network = built("resenc-unet", 2)
    assert trained_output(network, window(2)).shape == (1, 4, CLASSES, *WINDOWS[2])
    assert network.eval()(window(2)).shape == (1, CLASSES, *WINDOWS[2])


@pytest.mark.parametrize(
    ("name", "dims", "size", "message"),
    [
        ("vnet", 2, (64, 64), "unet, fcn, attention-unet"),
        ("handcrafted", 2, (64, 64), "unet, fcn, attention-unet"),
        ("unet", 2, (64, 40), "multiples of 16"),
        ("unet", 3, (64, 64), "window_size"),
        ("resenc-unet", 2, (37, 53), "halved twice"),
    ],
)
def test_a_network_that_cannot_be_is_refused(
    name: str, dims: int, size: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ExperimentError, match=message):
        network_def(name, dims, 1, 2, size)


def test_stages_halve_each_axis_down_to_four_pixels_or_an_odd_number() -> None:
    _, strides = plan_stages((160, 96))
    assert strides == [[1, 1], [2, 2], [2, 2], [2, 2], [2, 2], [2, 1]]


def test_a_thin_axis_waits_until_the_others_are_as_coarse() -> None:
    kernels, strides = plan_stages((16, 128, 128))
    assert kernels[:4] == [[1, 3, 3], [1, 3, 3], [1, 3, 3], [3, 3, 3]]
    assert strides == [[1, 1, 1], [1, 2, 2], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2]]


def test_multiply_adds_are_those_of_the_formula() -> None:
    layers = torch.nn.Sequential(torch.nn.Conv2d(2, 5, 3, padding=1), torch.nn.Conv2d(5, 1, 1)).train()
    assert count_flops(layers, (1, 2, 10, 20)) == 200 * (2 * 5 * 9 + 5)
    assert layers.training
    assert count_parameters(layers) == (2 * 9 + 1) * 5 + 6
