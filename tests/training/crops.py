"""A synthetic data folder in the format of the real one: bright balls in dark noise."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

AFFINE_RAS = np.diag([-0.7, -0.7, 2.5, 1.0])
SPLITS = ("train", "train", "train", "val", "test")

EXPERIMENT = """
network = { _target_ = "monai.networks.nets.UNet", spatial_dims = 2, in_channels = 3, \
out_channels = 2, channels = [4, 8], strides = [2], norm = "batch" }

[data]
format = "lidc-crops"
folder = "crops"
options = { raters_needed = 2 }
attribution = "Made by a test."

[target]
name = "ball"
version = "0.1.0"
title = "Balls"
description = "Finds balls."
modality = "CT"
intensity_unit = "HU"
limits = ["Knows nothing but balls."]

[[target.labels]]
number = 1
name = "Ball"
kind = "lesion"
category = { value = "49755003", scheme = "SCT", meaning = "Morphologically Altered Structure" }
type = { value = "27925004", scheme = "SCT", meaning = "Nodule" }

[preprocessing]
spatial_dims = 2
spacing_mm = ["native", 0.7, 0.7]
intensity = { kind = "window", low = -1000.0, high = 400.0 }
context_slices = 1
window_size = [48, 48]

[postprocessing]
probability_threshold = 0.5

[fitting]
seed = 1
steps = 4
batch_size = 2
window_size = [32, 32]
learning_rate = 1e-2
validate_every = 2
threads = 1
"""


def write_crops(folder: Path, splits: tuple[str, ...] = SPLITS) -> Path:
    """One case per entry of `splits`, each of its own patient; returns the folder."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["case,split,patient"]
    for number, split in enumerate(splits):
        name = f"CASE_{number}"
        (folder / name).mkdir()
        ball = ball_mask()
        image = np.where(ball, 30, -850) + rng.normal(0, 20, ball.shape)
        save(folder / name / "ct.nii.gz", image.astype(np.int16))
        save(folder / name / "raters.nii.gz", np.where(ball, 4, 0).astype(np.uint8))
        lines.append(f"{name},{split},PATIENT_{number}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def ball_mask() -> np.ndarray:
    """A ball of radius 7 pixels off the centre, axes (column, row, slice) as in NIfTI."""
    column, row, k = np.ogrid[:48, :40, :5]
    mask: np.ndarray = (column - 30) ** 2 + (row - 12) ** 2 + (3 * (k - 2)) ** 2 <= 49
    return mask


def save(path: Path, voxels: np.ndarray) -> None:
    """Write one NIfTI file."""
    nibabel.save(nibabel.Nifti1Image(voxels, AFFINE_RAS), path)


def write_experiment(folder: Path, text: str = EXPERIMENT) -> Path:
    """The experiment file beside a `crops` folder; returns its path."""
    path = folder / "ball.toml"
    path.write_text(text, encoding="utf-8")
    return path
