"""What goes before and after the network, on the device where it is.

Tensors of the device "meta" have a shape and no values, and torch refuses to mix them with tensors of the
CPU, as it refuses to mix those of a GPU. So these tests show that nothing on the way needs the CPU; that a
GPU gives the same values is not covered.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import inference.predict
from dicomnode.selftest.bundles import write_bundle
from dicomnode.selftest.volumes import LESION_LABEL
from inference.bundle import Preprocessing, Window, read_bundle
from inference.engine import Model
from inference.lesions import decide, joint_and_likeliest
from inference.predict import segment
from inference.preprocess import ModelInput, prepare, stack_context
from tests.phantoms import phantom

META = torch.device("meta")


@pytest.mark.parametrize("tilt_degrees", [0.0, 15.0])
@pytest.mark.parametrize("context_slices", [0, 2])
def test_an_image_is_made_ready_where_the_network_is(tilt_degrees: float, context_slices: int) -> None:
    volume = phantom("oblique", (3.0, 1.0, 1.5), tilt_degrees=tilt_degrees).volume
    how = Preprocessing(
        spatial_dims=2,
        context_slices=context_slices,
        spacing_mm=(None, 0.7, 2.0),
        intensity=Window(low=0.0, high=200.0),
        window_size=(8, 8),
        canonical=True,
    )
    expected, found = prepare(volume, how), prepare(volume, how, device=META)
    assert (found.image.device, found.image.dtype) == (META, torch.float32)
    assert found.image.shape == expected.image.shape
    there, here = (stack_context(image.image, context_slices) for image in (found, expected))
    assert (there.device, there.shape) == (META, here.shape)


def test_a_device_too_small_for_the_source_grid_leaves_making_ready_to_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[object, ...]] = []

    def first_fails(*given: object) -> ModelInput:
        tried.append(given[3:])
        if len(tried) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (simulated)")
        return prepare(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(inference.predict, "prepare", first_fails)
    found, cpu = phantom(), torch.device("cpu")
    lesions = segment(found.volume, Model(read_bundle(write_bundle(tmp_path, spatial_dims=3)), cpu))
    assert tried == [(cpu,), ()]
    np.testing.assert_array_equal(lesions.values > 0, found.lesion_map.values > 0)


@pytest.mark.parametrize("tilt_degrees", [0.0, 15.0])
def test_answers_are_brought_back_and_decided_where_they_are(tilt_degrees: float) -> None:
    volume = phantom("oblique", (3.0, 1.0, 1.5), tilt_degrees=tilt_degrees).volume
    how = Preprocessing(
        spatial_dims=3,
        spacing_mm=(4.0, 0.7, 2.0),
        intensity=Window(low=0.0, high=200.0),
        window_size=(8, 8, 8),
        canonical=True,
    )
    image = prepare(volume, how)
    assert (image.straightening is not None) == (tilt_degrees > 0)
    two = LESION_LABEL.model_copy(update={"number": 2})
    answers = torch.rand(2, *image.image.shape)
    expected = joint_and_likeliest(answers, image, (LESION_LABEL, two))
    found = joint_and_likeliest(answers.to(META), image, (LESION_LABEL, two))
    for there, here in zip(found, expected, strict=True):
        assert (there.device, there.dtype, there.shape) == (META, here.dtype, volume.voxels.shape)


def test_a_device_too_small_for_the_source_grid_leaves_the_decision_to_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def first_fails(*given: object) -> object:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (simulated)")
        return decide(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(inference.predict, "decide", first_fails)
    found = phantom()
    bundle = read_bundle(write_bundle(tmp_path, spatial_dims=3))
    lesions = segment(found.volume, Model(bundle, torch.device("cpu")))
    assert tries == 2
    np.testing.assert_array_equal(lesions.values > 0, found.lesion_map.values > 0)
