"""Programs of others read our objects: dciodvfy, DCMTK, PixelMed, dcmqi.

OHIF is in tests/viewers. Not covered: the windows of Weasis and 3D Slicer. dcentvfy is left out, its
messages on reports are noise.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from dicomnode.selftest.shapes import Box, Ellipsoid
from dicomnode.show.validators import PIXELMED, PIXELMED_JAR
from inference.measure import Axis, Quantity
from tests.dicomnode.encode.situations import saved, situation, written
from tests.phantoms import Orientation, Shape, phantom
from tests.real_parts import require_program

pytestmark = pytest.mark.real_parts

SITUATIONS = (
    "sagittal-ct",
    "oblique-mr",
    "multi-frame-mr",
    "single-slice",
    "uneven-tilted-ct",
    "organ-and-lesions-ct",
    "straight-line",
    "none-seen",
    "cut-off",
    "still-us",
    "stills-us-in-pixels",
    "loop-us",
    "loop-us-none-seen",
)
PIXELMED_SITUATIONS = (
    "multi-frame-mr",
    "organ-and-lesions-ct",
    "none-seen",
    "stills-us-in-pixels",
    "loop-us-none-seen",
)
"""It takes seconds for each report. test_defects asks it of an oblique CT and MR and of a loop,
test_verify_command of a straight line."""


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", SITUATIONS)
def test_dciodvfy_finds_no_error(tmp_path: Path, name: str) -> None:
    dciodvfy = require_program("dciodvfy")
    for path in saved(situation(name, tmp_path / "source"), tmp_path).values():
        said = run(dciodvfy, "-new", path)
        lines = (said.stdout + said.stderr).splitlines()
        assert [line for line in lines if line.startswith("Error")] == []


@pytest.mark.parametrize("name", SITUATIONS)
def test_dcmtk_reads_every_report_and_shows_its_values(tmp_path: Path, name: str) -> None:
    dsrdump, dsr2xml = require_program("dsrdump"), require_program("dsr2xml")
    made = situation(name, tmp_path / "source")
    for kind, path in saved(made, tmp_path).items():
        if kind == "seg":
            continue
        shown = run(dsrdump, "+Pl", path)
        assert shown.returncode == 0, shown.stderr
        assert run(dsr2xml, path).returncode == 0
        assert "Research use only" in shown.stdout
        for m in made.measurements:
            if kind == "sr_measurements" and isinstance(m.long_axis, Axis):
                assert f'"Long Axis")="{m.long_axis.length.value:.7g}' in shown.stdout
            if kind == "sr_volumes" and isinstance(m.volume, Quantity):
                assert f'"Volume")="{m.volume.value:.7g}' in shown.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", PIXELMED_SITUATIONS)
def test_pixelmed_finds_no_error_in_the_templates(tmp_path: Path, name: str) -> None:
    java = require_program("java")
    if not PIXELMED_JAR.exists():
        assert "CI" not in os.environ, "libpixelmed-java is not installed; CI must install it"
        pytest.skip("libpixelmed-java is not installed")
    for kind, path in saved(situation(name, tmp_path / "source"), tmp_path).items():
        if kind == "seg":
            continue
        said = run(java, *PIXELMED, path)
        lines = (said.stdout + said.stderr).splitlines()
        assert "Root Template Validation Complete" in lines
        assert "IOD validation complete" in lines
        assert [line for line in lines if line.startswith("Error")] == []


@pytest.mark.slow
@pytest.mark.parametrize("orientation", ["axial", "sagittal", "coronal", "oblique"])
def test_dcmqi_finds_the_lesions_at_their_places_in_the_patient(
    tmp_path: Path, orientation: Orientation
) -> None:
    program = require_program("segimage2itkimage")
    made = written(tmp_path / "source", orientation)
    path = saved(made, tmp_path)["seg"]
    said = run(program, "--inputDICOM", path, "--outputDirectory", tmp_path, "-t", "nrrd")
    assert said.returncode == 0, said.stderr
    for number, shape in enumerate(phantom().shapes, start=1):
        image = sitk.ReadImage(str(tmp_path / f"{number}.nrrd"))
        at = np.argwhere(sitk.GetArrayViewFromImage(image))
        places = np.array([image.TransformIndexToPhysicalPoint([int(i) for i in p[::-1]]) for p in at])
        assert len(at) == np.count_nonzero(made.lesion_map.values == number)
        assert within_a_tenth_mm(shape).contains(places).all()


@pytest.mark.slow
def test_dcmqi_reads_the_measurements_of_every_lesion(tmp_path: Path) -> None:
    program = require_program("tid1500reader")
    made = written(tmp_path / "source")
    paths = saved(made, tmp_path)
    uids = {}
    for kind in ("sr_measurements", "sr_volumes"):
        found = tmp_path / f"{kind}.json"
        said = run(program, "--inputDICOM", paths[kind], "--outputMetadata", found)
        assert said.returncode == 0, said.stderr
        groups = json.loads(found.read_text())["Measurements"]
        uids[kind] = {group["TrackingUniqueIdentifier"] for group in groups}
    assert len(uids["sr_volumes"]) == len(made.measurements)
    assert uids["sr_measurements"] <= uids["sr_volumes"]


def within_a_tenth_mm(shape: Shape) -> Shape:
    """dcmqi keeps fewer digits than headers do."""
    if isinstance(shape, Ellipsoid):
        left, posterior, superior = (radius + 0.1 for radius in shape.radii_mm)
        return Ellipsoid(shape.centre_lps_mm, (left, posterior, superior))
    left, posterior, superior = (size + 0.2 for size in shape.size_mm)
    return Box(shape.centre_lps_mm, (left, posterior, superior))
