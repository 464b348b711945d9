"""A bundle is read when everything holds, and refused by name for each way in which it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicomnode.selftest.bundles import write_bundle, write_json
from inference.bundle import CARD, NETWORK, is_plain, read_bundle
from inference.engine import Model
from inference.errors import BundleError
from inference.networks.build import build_network
from inference.registry import find_bundles

UNET = {"_target_": "monai.networks.nets.BasicUNet", "spatial_dims": 2}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def change_card(bundle: Path, **changes: Any) -> None:
    write_json(bundle / CARD, json.loads((bundle / CARD).read_text()) | changes)


def change_network(bundle: Path, network_def: object) -> None:
    write_json(bundle / NETWORK, {"network_def": network_def})


def test_a_whole_bundle_is_read(bundle: Path) -> None:
    found = read_bundle(bundle)
    assert (found.card.name, found.card.version, found.trusted) == ("threshold", "1.0.0", False)
    assert found.weights_path.is_file()
    assert found.card.preprocessing.channels == 1


def test_the_digest_names_card_network_and_weights(bundle: Path, tmp_path: Path) -> None:
    digest = read_bundle(bundle).digest
    shutil.copytree(bundle, tmp_path / "copy")
    assert read_bundle(tmp_path / "copy").digest == digest
    change_card(bundle, title="Another title")
    assert read_bundle(bundle).digest != digest


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no card": (lambda b: (b / CARD).unlink(), "cannot be read"),
    "no network": (lambda b: (b / NETWORK).unlink(), "cannot be read"),
    "no weights": (lambda b: (b / "models/model.pt").unlink(), "cannot be read"),
    "card is no JSON": (lambda b: (b / CARD).write_text("{"), "not a valid model card"),
    "card has a foreign key": (lambda b: change_card(b, colour="red"), "colour"),
    "name with a path": (lambda b: change_card(b, name="../x"), "name"),
    "version of two numbers": (lambda b: change_card(b, version="1.0"), "version"),
    "labels from 2": (
        lambda b: change_card(b, labels=[json.loads((b / CARD).read_text())["labels"][0] | {"number": 2}]),
        "labels must be numbered 1..n",
    ),
    "no labels": (lambda b: change_card(b, labels=[]), "labels"),
    "other weights": (lambda b: (b / "models/model.pt").write_bytes(b"other"), "restore the file or export"),
    "weights by absolute path": (lambda b: change_card(b, weights="/etc/hostname"), "lie outside the bundle"),
    "weights above the bundle": (lambda b: change_card(b, weights="../model.pt"), "lie outside the bundle"),
    "network is a list": (lambda b: change_network(b, []), "must be an object"),
    "no network_def": (lambda b: write_json(b / NETWORK, {}), "no readable 'network_def'"),
    "foreign target": (
        lambda b: change_network(b, {"_target_": "os.system", "command": "id"}),
        "trusted_digests",
    ),
    "no target": (lambda b: change_network(b, {"spatial_dims": 2}), "trusted_digests"),
    "target of MONAI that is no network": (
        lambda b: change_network(b, {"_target_": "monai.bundle.ConfigParser"}),
        "trusted_digests",
    ),
    "expression": (
        lambda b: change_network(b, UNET | {"in_channels": "$__import__('os')"}),
        "trusted_digests",
    ),
    "reference": (lambda b: change_network(b, UNET | {"in_channels": "@channels"}), "trusted_digests"),
    "macro": (lambda b: change_network(b, UNET | {"features": "%other.json"}), "trusted_digests"),
    "expression in a list": (lambda b: change_network(b, UNET | {"features": [32, "$1"]}), "trusted_digests"),
    "nested target": (
        lambda b: change_network(b, UNET | {"act": {"_target_": "os.system"}}),
        "trusted_digests",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_bundle_is_refused_with_its_remedy(bundle: Path, fault: str) -> None:
    damage, message = BROKEN[fault]
    damage(bundle)
    with pytest.raises(BundleError) as caught:
        read_bundle(bundle)
    assert message in str(caught.value)


def test_weights_linked_to_outside_the_bundle_are_refused(bundle: Path, tmp_path: Path) -> None:
    weights = bundle / "models" / "model.pt"
    shutil.move(weights, tmp_path / "outside.pt")
    weights.symlink_to(tmp_path / "outside.pt")
    with pytest.raises(BundleError, match="lie outside the bundle"):
        read_bundle(bundle)


def test_a_bundle_with_code_is_read_once_its_digest_is_trusted(bundle: Path) -> None:
    change_network(bundle, UNET | {"out_channels": "$1 + 1"})
    with pytest.raises(BundleError) as caught:
        read_bundle(bundle)
    digest = next(word for word in str(caught.value).split() if len(word) == 64)
    found = read_bundle(bundle, frozenset({digest}))
    assert found.trusted
    assert found.digest == digest
    network = build_network(found.network_def, trusted=True)
    assert network.get_parameter("final_conv.weight").shape[0] == 2


def test_code_does_not_run_without_trust(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    network_def = UNET | {"in_channels": f"$open({str(trap)!r}, 'w')"}
    assert not is_plain(network_def)
    with pytest.raises(BundleError, match="needs a trusted bundle"):
        build_network(network_def)
    assert not trap.exists()


@pytest.mark.parametrize(
    "network_def", [UNET | {"depth": 3}, UNET | {"spatial_dims": 7}, UNET | {"features": [1]}]
)
def test_a_network_that_does_not_build_is_a_bundle_error(network_def: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="cannot be built"):
        build_network(network_def)


def test_weights_of_another_network_are_a_bundle_error(bundle: Path) -> None:
    change_network(bundle, UNET)
    with pytest.raises(BundleError):
        Model(read_bundle(bundle))


def test_the_registry_keeps_good_bundles_and_the_reasons_for_the_others(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a", name="first")
    write_bundle(tmp_path / "b", name="second")
    write_bundle(tmp_path / "c", name="second")
    (tmp_path / "d" / "configs").mkdir(parents=True)
    (tmp_path / "d" / CARD).write_text("{}")
    registry = find_bundles(tmp_path)
    assert registry.names == ["first", "second"]
    assert sorted(path.name for path in registry.problems) == ["c", "d"]
    assert registry.problems[tmp_path / "c"] == "the same bundle as b; remove one"
    with pytest.raises(BundleError, match="known: first, second"):
        registry.find("third")


def test_versions_of_a_model_lie_side_by_side(tmp_path: Path) -> None:
    write_bundle(tmp_path / "new", version="1.10.0")
    write_bundle(tmp_path / "old", version="1.9.0")
    registry = find_bundles(tmp_path)
    old, new = registry.versions("threshold")
    assert (old.card.version, new.card.version) == ("1.9.0", "1.10.0")
    assert registry.find("threshold@1.9.0") is old
    assert registry.find(new.digest[:8]) is new
    with pytest.raises(BundleError, match=r"may be threshold@1\.\d+\.0 .*write NAME@VERSION"):
        registry.find("threshold")


def test_a_bundle_that_came_later_is_found_by_its_digest(tmp_path: Path) -> None:
    registry = find_bundles(tmp_path)
    late = read_bundle(write_bundle(tmp_path / "late"))
    assert registry.get(late.digest).digest == late.digest
    with pytest.raises(BundleError, match="has the digest ababab"):
        registry.get("ab" * 32)
