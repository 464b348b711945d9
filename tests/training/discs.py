"""A small data folder in the format `pairs`: bright discs in dark noise, each image a group of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from training.config import Experiment, read_experiment

SIDE = 32

EXPERIMENT = """
network = { _target_ = "monai.networks.nets.UNet", spatial_dims = 2, in_channels = 1, \
out_channels = 2, channels = [8, 16], strides = [2], num_res_units = 1, norm = "batch" }

[data]
format = "pairs"
folder = "discs"
options = { intensity_unit = "arbitrary" }
attribution = "Made by a test."

[target]
name = "disc"
version = "0.1.0"
title = "Discs"
description = "Finds discs."
modality = "MR"
intensity_unit = "arbitrary"

[[target.labels]]
number = 1
name = "Disc"
kind = "lesion"
category = { value = "49755003", scheme = "SCT", meaning = "Morphologically Altered Structure" }
type = { value = "27925004", scheme = "SCT", meaning = "Nodule" }

[preprocessing]
spatial_dims = 2
spacing_mm = ["native", "native", "native"]
intensity = { kind = "z_score" }
window_size = [32, 32]

[postprocessing]
probability_threshold = 0.5

[fitting]
seed = 3
steps = 4
batch_size = 4
window_size = [32, 32]
learning_rate = 1e-2
average_decay = 0.0
validate_every = 2
precision = "float32"
"""


def write_discs(folder: Path, n_train: int = 8, n_val: int = 2, n_test: int = 3) -> Experiment:
    """Write data and experiment file into `folder`; returns the experiment."""
    data = folder / "discs"
    data.mkdir(parents=True)
    rng = np.random.default_rng(5)
    lines = ["case,group,image,mask,split"]
    splits = ["train"] * n_train + ["val"] * n_val + ["test"] * n_test
    for number, split in enumerate(splits):
        row, column = np.ogrid[:SIDE, :SIDE]
        centre = rng.integers(10, 22, 2)
        disc = (row - centre[0]) ** 2 + (column - centre[1]) ** 2 <= 36
        image = np.where(disc, 180, 60) + rng.normal(0, 8, disc.shape)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(data / f"i{number}.png")
        Image.fromarray(disc.astype(np.uint8) * 255).save(data / f"m{number}.png")
        lines.append(f"c{number},g{number},i{number}.png,m{number}.png,{split}")
    (data / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "disc.toml").write_text(EXPERIMENT, encoding="utf-8")
    return read_experiment(folder / "disc.toml")
