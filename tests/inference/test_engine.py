"""The engine on the CPU with a network whose answer is known. Half precision on a GPU is not covered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dicomnode.selftest.bundles import write_bundle
from inference.bundle import read_bundle
from inference.engine import Model, mirrored_axes
from inference.errors import NotFinite, OutOfMemory, UnsuitableVolume
from inference.predict import segment
from inference.preprocess import ModelInput, stack_context
from inference.sweep import SLICES_PER_STEP, look_alike
from inference.volume import Box, Volume
from tests.phantoms import ORIENTATIONS, Orientation, phantom
from tests.phantoms.chest import chest

CPU = torch.device("cpu")
VARIANTS = [(2, 0), (2, 1), (2, 3), (3, 0)]


def model_of(folder: Path, spatial_dims: int = 2, context_slices: int = 0, **changes: object) -> Model:
    bundle = write_bundle(folder, spatial_dims=spatial_dims, context_slices=context_slices, **changes)  # type: ignore[arg-type]
    return Model(read_bundle(bundle), CPU)


def model_input(shape: tuple[int, int, int]) -> ModelInput:
    image = torch.from_numpy(np.random.default_rng(2).uniform(0.0, 1.0, shape)).float()
    return ModelInput(image, (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])), shape)


class LittleMemory(torch.nn.Module):
    """A network on a device that holds at most `limit` windows at a time."""

    def __init__(self, network: torch.nn.Module, limit: int) -> None:
        super().__init__()
        self.network, self.limit = network, limit
        self.batches: list[int] = []

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Raise what CUDA raises when the batch is too large."""
        self.batches.append(batch.shape[0])
        if batch.shape[0] > self.limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (simulated)")
        output: torch.Tensor = self.network(batch)
        return output


@pytest.mark.parametrize(("spatial_dims", "context_slices"), VARIANTS)
@pytest.mark.parametrize("shape", [(3, 20, 30), (SLICES_PER_STEP + 5, 70, 130)])
def test_probabilities_cover_every_voxel_whatever_the_size(
    tmp_path: Path, spatial_dims: int, context_slices: int, shape: tuple[int, int, int]
) -> None:
    image = model_input(shape)
    field = model_of(tmp_path, spatial_dims, context_slices).probabilities(image)
    assert field.shape == (2, *shape)
    assert (field.dtype, field.device) == (torch.float32, CPU)
    torch.testing.assert_close(field.sum(dim=0), torch.ones(shape))
    decided = (image.image - 0.4).abs() > 0.01  # the threshold 80 of the window 0..200
    np.testing.assert_array_equal((field[1] > 0.5)[decided], (image.image > 0.4)[decided])


@pytest.mark.parametrize(("spatial_dims", "context_slices"), [(2, 1), (3, 0)])
@pytest.mark.parametrize("limit", [1, 3])
def test_out_of_memory_cuts_the_work_smaller_and_gives_the_same_answer(
    tmp_path: Path, spatial_dims: int, context_slices: int, limit: int
) -> None:
    model = model_of(tmp_path, spatial_dims, context_slices)
    image = model_input((20, 100, 140))
    expected = model.probabilities(image)
    little = LittleMemory(model.network, limit)
    look_alike(little, model.network, model.bundle.card.preprocessing)
    model.network = little
    torch.testing.assert_close(model.probabilities(image), expected)
    tried_first = SLICES_PER_STEP if spatial_dims == 2 else 1
    little.batches.clear()
    model.probabilities(image)
    assert little.batches[0] == tried_first, "the next volume is tried in full again"


def test_a_device_too_small_for_one_window_is_an_error_that_says_so(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    model.network = LittleMemory(model.network, 0)
    with pytest.raises(OutOfMemory, match=r"cannot hold one window of \(64, 64\)"):
        model.probabilities(model_input((2, 64, 64)))
    assert model.network.batches[-1] == 1


class OneOdd(torch.nn.Module):
    """A network with one answer of its own in the last image, always or under autocast only."""

    def __init__(self, network: torch.nn.Module, odd: float, only_in_half: bool = False) -> None:
        super().__init__()
        self.network, self.odd, self.only_in_half = network, odd, only_in_half

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """The network's answers but one."""
        output: torch.Tensor = self.network(batch).float()
        if torch.is_autocast_enabled("cpu") or not self.only_in_half:
            output[-1, -1, ..., 5, 7] = self.odd
        return output


def odd_model(folder: Path, dims: int, odd: float, only_in_half: bool = False) -> Model:
    model = model_of(folder, dims)
    network = OneOdd(model.network, odd, only_in_half)
    look_alike(network, model.network, model.bundle.card.preprocessing)
    return Model(model.bundle, CPU, network)


@pytest.mark.parametrize("labels_overlap", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_network_without_finite_answers_fails_and_is_not_taken_for_seeing_nothing(
    tmp_path: Path, dims: int, odd: float, labels_overlap: bool
) -> None:
    model = odd_model(tmp_path, dims, odd)
    card = model.bundle.card.model_copy(update={"labels_overlap": labels_overlap})
    model.bundle = replace(model.bundle, card=card)
    with pytest.raises(NotFinite, match=f"model {card.name} {card.version} answers with what is no finite"):
        model.probabilities(model_input((40, 64, 64)))


def test_what_is_finite_in_float32_only_is_computed_in_it_for_that_image(tmp_path: Path) -> None:
    model, image = odd_model(tmp_path, 2, np.nan, only_in_half=True), model_input((3, 64, 64))
    expected = model.probabilities(image)
    model.is_half = True
    assert torch.equal(model.probabilities(image), expected)
    assert model.is_half, "the next image is tried in half precision again"


@pytest.mark.parametrize(("spatial_dims", "context_slices"), VARIANTS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_whole_way_finds_exactly_the_phantoms_lesions(
    tmp_path: Path, spatial_dims: int, context_slices: int, orientation: Orientation
) -> None:
    found = phantom(orientation)
    lesions = segment(found.volume, model_of(tmp_path, spatial_dims, context_slices))
    assert len(lesions.lesions) == 3
    np.testing.assert_array_equal(lesions.values > 0, found.lesion_map.values > 0)


def test_a_lung_model_sees_nodules_of_the_lung_and_no_tissue_beyond(tmp_path: Path) -> None:
    thorax = chest()
    model = model_of(
        tmp_path,
        threshold=-200.0,
        preprocessing={"intensity": {"kind": "window", "low": -1000.0, "high": 200.0}},
        postprocessing={"region": "lungs", "smallest_lesion_mm3": 100.0},
    )
    lesions = segment(thorax.volume, model)
    for number in (2, 3):
        inside = lesions.values[thorax.mask(number)]
        assert (inside > 0).all()
        assert len(set(inside.tolist())) == 1


def test_a_volume_of_another_unit_is_refused(tmp_path: Path) -> None:
    volume = phantom().volume
    with pytest.raises(UnsuitableVolume, match="works on HU, this volume is arbitrary"):
        segment(Volume(volume.voxels, volume.affine, "arbitrary"), model_of(tmp_path))


def changed(model: Model, section: str, **values: object) -> Model:
    """The same network under a card with other values in one section."""
    card = model.bundle.card
    part = getattr(card, section).model_copy(update=values)
    bundle = replace(model.bundle, card=card.model_copy(update={section: part}))
    return Model(bundle, CPU, model.network)


def test_mirroring_takes_every_combination_of_axes() -> None:
    assert list(mirrored_axes(("row", "column"))) == [[], [1], [2], [1, 2]]


@pytest.mark.parametrize("context_slices", [0, 1])
@pytest.mark.parametrize("names", [("column",), ("row", "column"), ("slice", "row", "column")])
def test_a_network_that_looks_at_single_pixels_predicts_the_same_mirrored(
    tmp_path: Path, names: tuple[str, ...], context_slices: int
) -> None:
    model, image = model_of(tmp_path, 2, context_slices), model_input((3, 20, 30))
    mirrored = changed(model, "preprocessing", mirrored=names)
    assert torch.allclose(model.probabilities(image), mirrored.probabilities(image), atol=1e-4)


@pytest.mark.parametrize("within", [None, (slice(3, 9), slice(4, 12), slice(0, 16))])
def test_slices_in_parts_say_what_all_slices_at_once_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: Box | None
) -> None:
    monkeypatch.setattr("inference.engine.SLICES_AT_A_TIME", 4)
    torch.manual_seed(3)
    network = torch.nn.Conv2d(3, 2, 5, padding=2)
    plain = model_of(tmp_path, 2, context_slices=1)
    window = changed(plain, "preprocessing", window_size=(16, 16), mirrored=("slice", "column"))
    model = Model(window.bundle, CPU, network)
    image = model_input((11, 16, 16))
    expected = torch.zeros(2, 11, 16, 16)
    with torch.inference_mode():
        for axes in ([], [0], [2], [0, 2]):
            logits = network(stack_context(image.image.flip(axes), 1)).softmax(dim=1).transpose(0, 1)
            expected += logits.flip([axis + 1 for axis in axes]) / 4
    found = model.probabilities(image, within)
    inside = (slice(None), *(within or (slice(None),) * 3))
    torch.testing.assert_close(found[inside], expected[inside])
    outside = torch.ones(11, 16, 16, dtype=torch.bool)
    outside[inside[1:]] = False
    assert torch.equal(found[0][outside], torch.ones(int(outside.sum())))


def test_a_temperature_makes_probabilities_less_sure_and_changes_no_decision(tmp_path: Path) -> None:
    model, image = model_of(tmp_path), model_input((3, 20, 30))
    sure = model.probabilities(image)
    unsure = changed(model, "postprocessing", temperature=1000.0).probabilities(image)
    assert torch.equal(sure.argmax(dim=0), unsure.argmax(dim=0))
    assert unsure.amax(dim=0).mean() < sure.amax(dim=0).mean()


def test_slices_in_another_plane_than_trained_are_refused(tmp_path: Path) -> None:
    model = changed(model_of(tmp_path), "preprocessing", plane="axial")
    voxels = np.zeros((4, 8, 8), np.int16)
    sagittal = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    with pytest.raises(UnsuitableVolume, match="trained on axial slices, these are sagittal"):
        segment(Volume(voxels, sagittal, model.bundle.card.intensity_unit), model)
