"""What a card found is brought to the host in its box, and gives the same lesions.

The card's way runs on tensors of the CPU here; that a GPU gives the same values is not covered.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import inference.lesions
from dicomnode.selftest.volumes import LESION_LABEL
from inference.bundle import ModelCard
from inference.foreground import foreground_box, on_host
from inference.labelmap import LesionMap
from inference.lesions import decide, smallest_box
from inference.preprocess import ModelInput
from inference.volume import Volume

Values = npt.NDArray[np.uint8]
FEW = arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3), elements=st.sampled_from([0, 0, 0, 0, 1, 2]))


@settings(max_examples=200, deadline=None)
@given(FEW)
def test_the_box_is_the_smallest_and_what_lies_in_it_is_all_there_is(values: Values) -> None:
    found = torch.from_numpy(values)
    box = foreground_box(found)
    assert box == (smallest_box(values) or (slice(0, 0),) * 3)
    brought = on_host(found, box)
    assert brought.dtype == values.dtype
    np.testing.assert_array_equal(brought, values)


def test_what_lies_around_the_box_does_not_leave_the_device() -> None:
    certainty = torch.full((4, 5, 6), 0.25)
    box = (slice(1, 3), slice(2, 3), slice(0, 6))
    brought = on_host(certainty, box)
    assert brought.dtype == np.float32
    assert brought.sum() == 0.25 * 12
    assert (brought[box] == 0.25).all()


def card_of(overlap: bool, peak: float) -> ModelCard:
    two = LESION_LABEL.model_copy(update={"number": 2, "name": "Other"})
    return ModelCard.model_validate(
        {
            "name": "two",
            "version": "1.0.0",
            "title": "Two labels",
            "modality": "CT",
            "intensity_unit": "HU",
            "labels": [LESION_LABEL, two],
            "labels_overlap": overlap,
            "preprocessing": {
                "spatial_dims": 3,
                "spacing_mm": [None] * 3,
                "intensity": {"kind": "z_score"},
                "window_size": [8, 8, 8],
            },
            "postprocessing": {"peak_probability": peak},
            "weights_sha256": "0" * 64,
        }
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sparse=st.floats(0.0, 6.0),
    overlap=st.booleans(),
    peak=st.sampled_from([0.0, 0.8]),
    cropped=st.booleans(),
)
def test_the_way_of_a_card_and_that_of_the_host_find_the_same_lesions(
    seed: int, sparse: float, overlap: bool, peak: float, cropped: bool
) -> None:
    shape = (5, 12, 14)
    source = (7, 16, 18) if cropped else shape
    box = (slice(1, 6), slice(2, 14), slice(3, 17)) if cropped else tuple(slice(0, n) for n in shape)
    image = ModelInput(torch.zeros(shape), box, source)  # type: ignore[arg-type]
    logits = torch.randn((2 if overlap else 3, *shape), generator=torch.Generator().manual_seed(seed)) * 2
    if overlap:
        answers = (logits - sparse).sigmoid()
    else:
        logits[0] += sparse
        answers = logits.softmax(dim=0)
    volume = Volume(np.zeros(source, np.int16), np.eye(4), "HU")

    def lesions(on_host: bool) -> LesionMap:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inference.lesions, "is_on_host", lambda _: on_host)
            return decide(answers.clone(), image, volume, card_of(overlap, peak))

    card, host = lesions(False), lesions(True)
    assert card.lesions == host.lesions
    for there, here in zip(card.layers, host.layers, strict=True):
        np.testing.assert_array_equal(there, here)
