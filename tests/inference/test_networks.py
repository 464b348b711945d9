"""The project's own networks, and which definitions a bundle may bring without being trusted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from inference.bundle import ENSEMBLE, is_plain
from inference.errors import BundleError
from inference.networks.build import build_network
from inference.networks.deeplab import DeepLabV3Plus
from inference.networks.ensemble import Ensemble
from inference.networks.fcn import FCN

NETS = "monai.networks.nets"
SMALL_FCN = {
    "_target_": "inference.networks.fcn.FCN",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 4, 4],
}
FLEXIBLE = {"_target_": f"{NETS}.FlexibleUNet", "in_channels": 1, "out_channels": 2, "backbone": "resnet10"}


@pytest.fixture(autouse=True)
def one_seed_and_thread() -> Iterator[None]:
    """On maps this small, threads wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(7)
    yield
    torch.set_num_threads(threads)


def ensemble(*members: object) -> dict[str, Any]:
    return {"_target_": ENSEMBLE, "members": list(members)}


@pytest.mark.parametrize(
    "network_def", [SMALL_FCN, FLEXIBLE, FLEXIBLE | {"pretrained": False}, ensemble(SMALL_FCN, FLEXIBLE)]
)
def test_what_only_calls_known_constructors_is_plain(network_def: dict[str, Any]) -> None:
    assert is_plain(network_def)
    assert isinstance(build_network(network_def), torch.nn.Module)


@pytest.mark.parametrize(
    "network_def",
    [
        {},
        {"_target_": ["a", "list"]},
        {"_target_": "os.system", "command": "true"},
        {"_target_": "inference.networks.build.build_network", "network_def": SMALL_FCN},
        {"_target_": f"{NETS}.UNETR"},
        FLEXIBLE | {"pretrained": True},
        FLEXIBLE | {"pretrained": 1},
        SMALL_FCN | {"in_channels": "$1 + 1"},
        SMALL_FCN | {"in_channels": "@channels"},
        SMALL_FCN | {"norm": {"_target_": "os.getcwd"}},
        SMALL_FCN | {"channels": [4, 4, {"_target_": "os.getcwd"}]},
        SMALL_FCN | {"_mode_": "debug"},
        SMALL_FCN | {"channels": (4, 4, 4)},
        {"_target_": ENSEMBLE},
        ensemble(SMALL_FCN) | {"more": 1},
        ensemble(SMALL_FCN, "$open('/tmp/x', 'w')"),
        ensemble(SMALL_FCN, {"_target_": "os.system", "command": "true"}),
        ensemble(SMALL_FCN, FLEXIBLE | {"pretrained": True}),
        ensemble(ensemble(SMALL_FCN)),
    ],
)
def test_what_could_run_code_or_fetch_is_refused(network_def: dict[str, Any]) -> None:
    assert not is_plain(network_def)
    with pytest.raises(BundleError, match="needs a trusted bundle"):
        build_network(network_def)


@torch.inference_mode()
def test_an_ensemble_gives_the_mean_of_its_members_probabilities() -> None:
    members = [build_network(SMALL_FCN).eval() for _ in range(3)]
    together = build_network(ensemble(SMALL_FCN, SMALL_FCN, SMALL_FCN)).eval()
    together.load_state_dict(
        {
            f"members.{number}.{key}": value
            for number, member in enumerate(members)
            for key, value in member.state_dict().items()
        }
    )
    image = 50.0 * torch.randn(2, 1, 19, 33)
    mean = torch.stack([member(image).softmax(dim=1) for member in members]).mean(dim=0)
    assert not torch.allclose(mean, members[0](image).softmax(dim=1), atol=1e-3)
    torch.testing.assert_close(together(image).softmax(dim=1), mean)


@torch.inference_mode()
def test_an_ensemble_of_overlapping_labels_gives_the_mean_of_each_label() -> None:
    members = [build_network(SMALL_FCN).eval() for _ in range(3)]
    together = Ensemble(members, labels_overlap=True).eval()
    image = 50.0 * torch.randn(2, 1, 19, 33)
    mean = torch.stack([member(image).sigmoid() for member in members]).mean(dim=0)
    torch.testing.assert_close(together(image).sigmoid(), mean, atol=1e-5, rtol=1e-4)


def test_an_ensemble_of_none_is_refused() -> None:
    with pytest.raises(BundleError, match="at least one member"):
        build_network(ensemble())
    with pytest.raises(ValueError, match="at least one member"):
        Ensemble([])


def test_an_ensemble_names_the_member_that_does_not_build() -> None:
    with pytest.raises(BundleError, match=r"FCN.*three|FCN.*at least 3"):
        build_network(ensemble(SMALL_FCN, SMALL_FCN | {"channels": [4]}))


@pytest.mark.parametrize("size", [(1, 1), (5, 200), (63, 65)])
@pytest.mark.parametrize("network", [FCN(2, 1, 2), DeepLabV3Plus(2, 1, 2)], ids=["fcn", "deeplab"])
@torch.inference_mode()
def test_our_networks_take_any_size(network: torch.nn.Module, size: tuple[int, int]) -> None:
    assert network.eval()(torch.randn(1, 1, *size)).shape == (1, 2, *size)


@torch.inference_mode()
def test_all_three_depths_of_the_fcn_have_a_say() -> None:
    network = FCN(2, 1, 2).eval()
    image = torch.randn(1, 1, 64, 64)
    before = network(image)
    for score in network.scores:
        assert isinstance(score, torch.nn.Conv2d)
        kept = score.weight.clone()
        score.weight.zero_()
        assert not torch.allclose(network(image), before, atol=1e-5)
        score.weight.copy_(kept)
    assert torch.equal(network(image), before)


@pytest.mark.parametrize("output_stride", [8, 16])
@torch.inference_mode()
def test_the_encoders_map_is_as_coarse_as_its_output_stride(output_stride: int) -> None:
    network = DeepLabV3Plus(2, 1, 2, output_stride=output_stride, rates=(2, 4)).eval()
    seen: list[torch.Size] = []
    network.pyramid.register_forward_hook(lambda _module, given, _out: seen.append(given[0].shape))
    network(torch.randn(1, 1, 96, 64))
    assert seen[0][2:] == (96 // output_stride, 64 // output_stride)


@torch.inference_mode()
def test_rates_change_what_the_pyramid_sees_and_not_its_weights() -> None:
    near, far = DeepLabV3Plus(2, 1, 2, rates=(1, 2, 3)), DeepLabV3Plus(2, 1, 2, rates=(2, 4, 6))
    far.load_state_dict(near.state_dict())
    image = torch.randn(1, 1, 128, 128)
    assert not torch.allclose(near.eval()(image), far.eval()(image), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"), [({"output_stride": 4}, "8, 16"), ({"channels": [8, 8]}, "4 numbers")]
)
def test_a_deeplab_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepLabV3Plus(2, 1, 2, **change)
