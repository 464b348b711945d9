"""A tiny comparison on synthetic images: bright squares in noise, as PNG pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

EXPERIMENT = """
network = "unet"

[data]
format = "pairs"
folder = "squares"
options = { intensity_unit = "grey" }

[target]
name = "square"
version = "0.1.0"
title = "Squares"
description = "Finds squares."
modality = "US"
intensity_unit = "grey"

[[target.labels]]
number = 1
name = "Bright square"
kind = "lesion"
category = { value = "49755003", scheme = "SCT", meaning = "Morphologically Altered Structure" }
type = { value = "52988006", scheme = "SCT", meaning = "Lesion" }

[[target.labels]]
number = 2
name = "Dark square"
kind = "lesion"
category = { value = "49755003", scheme = "SCT", meaning = "Morphologically Altered Structure" }
type = { value = "52988006", scheme = "SCT", meaning = "Lesion" }

[preprocessing]
spatial_dims = 2
spacing_mm = ["native", "native", "native"]
intensity = { kind = "z_score" }
window_size = [32, 32]

[postprocessing]
probability_threshold = 0.5

[fitting]
seed = 1
steps = 50
batch_size = 2
window_size = [32, 32]
validate_every = 25
"""

PLAN = """
tasks = ["square.toml"]
networks = ["unet", "fcn", "handcrafted"]
protocols = ["paper", "best"]

[budget]
steps = 4
validate_every = 2

[task.square]
fitting = { precision = "float32" }
"""

EMPTY = "test_0"
"""The case without a square."""


def write_comparison(folder: Path, plan: str = PLAN) -> Path:
    """The data, the experiment `square.toml` and the plan; returns the plan's path."""
    write_squares(folder / "squares")
    (folder / "square.toml").write_text(EXPERIMENT, encoding="utf-8")
    path = folder / "compare.toml"
    path.write_text(plan, encoding="utf-8")
    return path


def write_squares(folder: Path) -> None:
    """Images of 32 x 32: 4 to train, 2 to validate, 8 to test; all but one with both squares."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    lines = ["case,group,image,mask,split,stratum"]
    for split, count in (("train", 4), ("val", 2), ("test", 8)):
        for number in range(count):
            name = f"{split}_{number}"
            image, mask = rng.normal(100, 10, (32, 32)), np.zeros((32, 32), np.uint8)
            if name != EMPTY:
                for label, grey in ((1, 220), (2, 20)):
                    row, column = rng.integers(2, 22), rng.integers(2, 7) + 14 * (label - 1)
                    mask[row : row + 8, column : column + 8] = label
                    image[mask == label] = grey
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
            Image.fromarray(mask).save(folder / f"{name}_mask.png")
            stratum = "empty" if name == EMPTY else "full"
            lines.append(f"{name},{name},{name}.png,{name}_mask.png,{split},{stratum}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
