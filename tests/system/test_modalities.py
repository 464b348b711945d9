"""CT, MR and ultrasound through the node with the models and the routes that the project ships.

Synthetic images prove the path, real ones that the lesion is found where the expert saw it. How good
the models are is measured elsewhere, on their test splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import dcmread

from dicomnode.encode.decode import read_frames
from dicomnode.selftest.archive import Archive
from dicomnode.series_writer import SeriesIdentity, write_series
from inference.bundle import read_bundle
from inference.engine import Model
from inference.predict import segment
from inference.volume import Volume
from tests.phantoms.chest import chest
from tests.phantoms.ultrasound import ultrasound_phantom, write_stills
from tests.system.node import Node, forward, received
from training.datasets.busi import Busi
from training.datasets.files import read_nifti

REPOSITORY = Path(__file__).parents[2]
MODELS = REPOSITORY / "config/models"
SHARED = REPOSITORY.parent / "shared/data"
REAL_MR = SHARED / "dicom_mr_gbm_PGBM-006_T1post"
REAL_MR_MASK = SHARED / "mr_glioblastoma_t1post_3d/PGBM-006/t2_mask_on_dicom_grid.nii.gz"
REAL_US = SHARED / "us_breast_busi"

MR = SeriesIdentity(
    modality="MR",
    body_part_examined="BRAIN",
    series_description="T1 axial post contrast",
    attributes={"ContrastBolusAgent": "Gadolinium", "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"]},
)
US = SeriesIdentity(modality="US", body_part_examined="BREAST", series_description="Breast left")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, pacs: Archive) -> Iterator[Node]:
    """A node with the models of `config/models` and the routes of `config/node.toml`, word for word."""
    text = (REPOSITORY / "config/node.toml").read_text(encoding="utf-8")
    routes = text[text.index("[[route]]") :]
    node = Node(tmp_path_factory.mktemp("shipped"), MODELS, pacs.ae_title, pacs.port, {}, routes)
    yield node.start()
    node.stop()


def head() -> Volume:
    """An egg of brain in air with a bright ball in it."""
    slices, rows, columns = np.ogrid[:24, :192, :192]
    brain = ((rows - 96) / 80) ** 2 + ((columns - 96) / 65) ** 2 + ((slices - 12) / 14) ** 2 < 1
    ball = (rows - 80) ** 2 + (columns - 120) ** 2 + (5 * (slices - 12)) ** 2 < 15**2
    noise = np.random.default_rng(0).normal(0, 12, brain.shape)
    voxels = np.where(ball, 900, np.where(brain, 400, 20)) + noise
    affine = np.eye(4)
    affine[:3, :3] = np.fliplr(np.eye(3)) * (5.0, 1.0, 1.0)
    return Volume(voxels.astype(np.int16), affine, "arbitrary")


def study(modality: str, folder: Path) -> tuple[SeriesIdentity, list[Path]]:
    if modality == "CT":
        identity = SeriesIdentity(attributes={"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]})
        write_series(chest().volume, folder, identity)
        return identity, sorted(folder.iterdir())
    if modality == "MR":
        write_series(head(), folder, MR)
        return MR, sorted(folder.iterdir())
    write_stills(folder, list(ultrasound_phantom(2).grey), US)
    return US, sorted(folder.iterdir())


@pytest.mark.parametrize(
    ("modality", "model"), [("CT", "ct-lung-nodule"), ("MR", "mr-brain-tumour"), ("US", "us-breast-lesion")]
)
def test_a_study_of_each_modality_comes_back_with_results_of_its_model(
    shipped: Node, pacs: Archive, tmp_path: Path, modality: str, model: str
) -> None:
    identity, paths = study(modality, tmp_path)
    forward(shipped, pacs, paths)
    jobs = shipped.wait_until_delivered(identity.study_instance_uid)
    assert {job.model for job in jobs} == {model}
    results = received(pacs, identity.study_instance_uid)
    assert {dataset.Modality for dataset in results} <= {"SEG", "SR"}
    assert any(dataset.Modality == "SR" for dataset in results)
    assert {job.model_digest for job in jobs} == {read_bundle(MODELS / model).digest}


@pytest.mark.skipif(not REAL_MR.exists(), reason="the real MR series is not beside the project")
def test_the_glioblastoma_of_a_real_series_is_found(shipped: Node, pacs: Archive) -> None:
    paths = sorted(REAL_MR.glob("*.dcm"))
    study_uid = str(dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID)
    forward(shipped, pacs, paths)
    shipped.wait_until_delivered(study_uid)
    (seg,) = [dataset for dataset in received(pacs, study_uid) if dataset.Modality == "SEG"]
    heights = sorted(
        {round(float(dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]), 1) for path in paths}
    )
    found = np.zeros((len(paths), seg.Rows, seg.Columns), bool)
    for frame in read_frames(seg):
        assert frame.position_mm is not None
        found[heights.index(round(float(frame.position_mm[2]), 1))] |= frame.mask
    assert dice(found, expert_tumour(found.shape)) > 0.4


def expert_tumour(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    voxels, _ = read_nifti(REAL_MR_MASK)
    assert voxels.shape == shape
    return np.asarray(voxels > 0)


@pytest.mark.skipif(not REAL_US.exists(), reason="the real ultrasound images are not beside the project")
def test_the_lesion_of_a_real_ultrasound_image_is_outlined(
    shipped: Node, pacs: Archive, tmp_path: Path
) -> None:
    data = Busi(REAL_US)
    tests = [case for case in data.cases() if case.split == "test" and case.stratum == "benign"]
    model = Model(read_bundle(MODELS / "us-breast-lesion"))
    loaded, expected = next(
        (loaded, found)
        for loaded in map(data.load, tests)
        if dice(found := segment(loaded.volume, model).values[0] > 0, loaded.truth[0] > 0) > 0.85
    )
    identity = SeriesIdentity(modality="US", body_part_examined="BREAST")
    write_stills(tmp_path, [loaded.volume.voxels[0].astype(np.uint8)], identity)
    forward(shipped, pacs, sorted(tmp_path.iterdir()))
    shipped.wait_until_delivered(identity.study_instance_uid)
    segs = [d for d in received(pacs, identity.study_instance_uid) if d.Modality == "SEG"]
    found = np.logical_or.reduce([frame.mask for frame in read_frames(segs[0])])
    assert np.array_equal(found, expected)


def dice(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    return float(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))
