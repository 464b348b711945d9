"""A bundle sent as bytes is the same bundle on the other side, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicomnode.selftest.bundles import write_bundle
from inference.actor import ModelNotResident, SegmentationActor
from inference.bundle import CARD, NETWORK, ModelBundle, read_bundle
from inference.engine import Model
from inference.errors import BundleError
from inference.packed import pack, unpack
from inference.predict import segment
from tests.phantoms import phantom


@pytest.fixture
def bundle(tmp_path: Path) -> ModelBundle:
    return read_bundle(write_bundle(tmp_path / "here"))


def test_a_bundle_arrives_as_it_was(bundle: ModelBundle, tmp_path: Path) -> None:
    arrived = unpack(pack(bundle), tmp_path / "there")
    assert (arrived.digest, arrived.card, arrived.trusted) == (bundle.digest, bundle.card, bundle.trusted)
    for name in (CARD, NETWORK, bundle.card.weights):
        assert (arrived.folder / name).read_bytes() == (bundle.folder / name).read_bytes()


def test_one_changed_bit_is_noticed(bundle: ModelBundle, tmp_path: Path) -> None:
    packed = pack(bundle)
    packed.files[bundle.card.weights][-1] ^= 1
    with pytest.raises(BundleError, match="the card says"):
        unpack(packed, tmp_path / "there")


def test_another_bundle_under_its_digest_is_noticed(bundle: ModelBundle, tmp_path: Path) -> None:
    other = read_bundle(write_bundle(tmp_path / "other", threshold=90.0))
    with pytest.raises(BundleError, match="arrived as"):
        unpack(replace(pack(other), digest=bundle.digest), tmp_path / "there")


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside"])
def test_a_file_outside_of_the_folder_is_not_written(bundle: ModelBundle, tmp_path: Path, name: str) -> None:
    packed = replace(pack(bundle), files={name: np.zeros(3, np.uint8)})
    with pytest.raises(BundleError, match="outside"):
        unpack(packed, tmp_path / "there")
    assert not (tmp_path / "outside").exists()


def test_an_actor_asks_for_a_model_that_it_has_not_got_and_answers_as_the_model_itself(
    bundle: ModelBundle,
) -> None:
    volume = phantom(spacing_mm=(8.0, 2.0, 2.0)).volume
    volume.voxels.flags.writeable = False  # as it lies in the memory that the processes share
    actor = SegmentationActor("cpu")
    with pytest.raises(ModelNotResident):
        actor.segment(volume, bundle.digest)
    actor.load(pack(bundle), {bundle.digest})
    found, expected = actor.segment(volume, bundle.digest), segment(volume, Model(bundle))
    np.testing.assert_array_equal(found.values, expected.values)
    assert found.lesions == expected.lesions and found.lesions
