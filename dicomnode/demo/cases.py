"""The study of the demonstration: a real chest CT with an expert's mask, or a synthetic chest."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inference.volume import Volume

SOURCE = "pyradiomics==3.0.1"
ARCHIVE = "pyradiomics-3.0.1.tar.gz"
IMAGE, MASK = "lung1_image.nrrd", "lung1_label.nrrd"
BUILD_NEEDS = ["setuptools<70", "wheel", "cython", "numpy", "versioneer"]
TIMEOUT_S = 240


@dataclass(frozen=True, eq=False)
class Case:
    """A volume in patient space and the lesion that an expert outlined in it."""

    title: str
    volume: Volume
    expert_mask: npt.NDArray[np.bool_]


def real_case(cache: Path) -> Case:
    """The chest CT `lung1` that the pyradiomics source distribution carries (BSD-3-Clause).

    Downloaded once with pip into `cache`. Raises OSError or subprocess.SubprocessError when it
    cannot be had.
    """
    image, mask = cache / IMAGE, cache / MASK
    if not (image.exists() and mask.exists()):
        _fetch(cache)
    volume = _read_nrrd(image)
    voxels, _ = _read(mask)
    return Case("real chest CT (pyradiomics lung1)", volume, voxels.transpose(2, 1, 0) > 0)


def _fetch(cache: Path) -> None:
    """Download the source distribution; pip must be able to build its metadata to do that."""
    cache.mkdir(parents=True, exist_ok=True)
    python = cache / "fetch" / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", str(cache / "fetch")],
        [str(python), "-m", "pip", "install", "--quiet", *BUILD_NEEDS],
        [str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
         "--no-build-isolation", "--dest", str(cache), SOURCE],
    ):  # fmt: skip
        subprocess.run(command, check=True, timeout=TIMEOUT_S, capture_output=True)
    with tarfile.open(cache / ARCHIVE) as archive:
        for name in (IMAGE, MASK):
            member = archive.extractfile(f"pyradiomics-3.0.1/data/{name}")
            if member is None:
                raise OSError(f"{ARCHIVE} holds no {name}")
            (cache / name).write_bytes(member.read())
    (cache / ARCHIVE).unlink()


def _read(path: Path) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    import nrrd

    voxels, header = nrrd.read(str(path))
    return voxels, header


def _read_nrrd(path: Path) -> Volume:
    """NRRD keeps (column, row, slice) and, here, LPS millimetres."""
    voxels, header = _read(path)
    if header.get("space") != "left-posterior-superior":
        raise OSError(f"{path.name} is not in LPS space: {header.get('space')}")
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(header["space directions"], dtype=np.float64).T[:, ::-1]
    affine[:3, 3] = np.asarray(header["space origin"], dtype=np.float64)
    stored = np.ascontiguousarray(voxels.transpose(2, 1, 0)).astype(np.int16)
    return Volume(stored, affine, "HU")


def synthetic_case() -> Case:
    """A chest of ellipses with two lungs, vessels and one round nodule of 14 mm."""
    slices, rows, columns = 48, 320, 320
    spacing = (2.5, 1.1, 1.1)
    affine = np.diag([1.1, 1.1, 2.5, 1.0])[:, [2, 1, 0, 3]]
    affine[:3, 3] = (-176.0, -176.0, -60.0)
    z, y, x = np.meshgrid(*(np.arange(n) for n in (slices, rows, columns)), indexing="ij", sparse=True)
    rng = np.random.default_rng(7)
    hu = np.full((slices, rows, columns), -1000.0)
    hu[np.broadcast_to(((y - 160) / 100) ** 2 + ((x - 160) / 140) ** 2 < 1, hu.shape)] = 40.0
    for centre in (95, 225):
        lung = ((y - 160) / 70) ** 2 + ((x - centre) / 45) ** 2 + ((z - 24) / 30) ** 2 < 1
        hu[lung] = -850.0
    mm = [
        (axis - centre) * step for axis, centre, step in zip((z, y, x), (22, 150, 95), spacing, strict=True)
    ]
    nodule = mm[0] ** 2 + mm[1] ** 2 + mm[2] ** 2 < 7.0**2
    hu[nodule] = 30.0
    hu += rng.normal(0.0, 15.0, hu.shape)
    return Case("synthetic chest", Volume(hu.astype(np.int16), affine, "HU"), nodule)
