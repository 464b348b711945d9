"""A real oblique MR series with an expert's tumour mask, all the way to SEG and reports.

The expert's mask takes the place of a model's output, so the truth is known to the voxel.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK

from dicomnode.read.folder import read_folder
from dicomnode.read.volumes import read_volume
from dicomnode.selftest.bundles import write_bundle
from dicomnode.selftest.volumes import LESION_LABEL
from dicomnode.show.result_folder import write_results
from dicomnode.work.pipeline import Assignment, process_series
from inference.bundle import Postprocessing
from inference.labelmap import LabelMap, LesionMap
from inference.lesions import find_lesions
from inference.volume import Volume
from tests.real_parts import require_program

SHARED = Path(__file__).parents[3] / "shared" / "data"
SERIES = SHARED / "dicom_mr_gbm_PGBM-006_T1post"
MASK = SHARED / "mr_glioblastoma_t1post_3d" / "PGBM-006" / "t2_mask_on_dicom_grid.nii.gz"
EXPERT_VOLUME_MM3 = 16_509

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERIES.exists(), reason="the real MR series is not beside the project"),
]


def test_an_experts_tumour_comes_back_with_its_volume_on_the_right_voxels(tmp_path: Path) -> None:
    from inference.bundle import read_bundle

    bundle = read_bundle(
        write_bundle(tmp_path / "bundle", name="expert", modality="MR", intensity_unit="arbitrary")
    )
    (study,) = read_folder(SERIES).studies
    (series,) = study.series
    expert = _expert_mask(read_volume(series).volume)

    def outline(volume: Volume) -> LesionMap:
        label_map = LabelMap(expert.astype(np.uint8), (LESION_LABEL,))
        return find_lesions(label_map, volume, Postprocessing())

    findings = process_series(
        Assignment(series, outline, bundle.card, bundle.digest, 1, datetime(2026, 1, 1, tzinfo=UTC)),
        lambda stage: nullcontext(),
    )
    record = write_results(findings, tmp_path / "results")
    assert record["total_volume_mm3"] == pytest.approx(EXPERT_VOLUME_MM3, rel=1e-3)
    _compare_with_another_reader(tmp_path / "results" / "seg.dcm", expert, findings.source.volume, tmp_path)


def _expert_mask(volume: Volume) -> npt.NDArray[np.bool_]:
    """The mask (slice, row, column) on the volume's grid: NIfTI keeps RAS, so two signs change."""
    image = nibabel.load(MASK)
    values = np.asarray(image.dataobj) > 0
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    mask = np.zeros(volume.shape, bool)
    places = np.argwhere(values) @ to_lps[:3, :3].T + to_lps[:3, 3]
    inverse = np.linalg.inv(volume.affine)
    indices = places @ inverse[:3, :3].T + inverse[:3, 3]
    nearest = np.rint(indices).astype(int)
    assert np.abs(indices - nearest).max() < 0.05
    mask[tuple(nearest.T)] = True
    return mask


def _compare_with_another_reader(
    seg: Path, expert: npt.NDArray[np.bool_], volume: Volume, folder: Path
) -> None:
    """dcmqi, which 3D Slicer uses, reads our SEG: same volume, same places."""
    out = folder / "dcmqi"
    out.mkdir()
    subprocess.run(
        [require_program("segimage2itkimage"), "--inputDICOM", str(seg), "--outputDirectory", str(out)],
        check=True,
        capture_output=True,
    )
    places, volume_mm3 = [], 0.0
    for path in sorted(out.glob("*.nrrd")):
        image = SimpleITK.ReadImage(str(path))
        voxels = SimpleITK.GetArrayFromImage(image)
        volume_mm3 += float(np.count_nonzero(voxels) * np.prod(image.GetSpacing()))
        direction = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        found = np.argwhere(voxels)[:, ::-1]
        places.append(found @ direction.T + np.array(image.GetOrigin()))
    assert volume_mm3 == pytest.approx(EXPERT_VOLUME_MM3, rel=1e-3)
    read_back = np.zeros(volume.shape, bool)
    inverse = np.linalg.inv(volume.affine)
    indices = np.concatenate(places) @ inverse[:3, :3].T + inverse[:3, 3]
    read_back[tuple(np.rint(indices).astype(int).T)] = True
    assert np.array_equal(read_back, expert)
    meta = json.loads(next(out.glob("*.json")).read_text())
    assert meta["segmentAttributes"]
