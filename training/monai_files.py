"""The files of a bundle that MONAI's own tools read."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from training.config import Experiment


def inference_config(experiment: Experiment) -> dict[str, Any]:
    """`network_def` and a sliding-window inferer."""
    how = experiment.preprocessing
    return {
        "network_def": experiment.network,
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(how.window_size),
            "sw_batch_size": 8,
            "overlap": how.overlap,
            "mode": "gaussian",
            "padding_mode": "replicate",
        },
    }


def metadata(experiment: Experiment) -> dict[str, Any]:
    """`metadata.json` with the fields of the MONAI Bundle Specification."""
    target, how = experiment.target, experiment.preprocessing
    names = {"0": "background"} | {str(label.number): label.name for label in target.labels}
    image = _tensor(experiment, "image", "intensity", how.channels, _channels(how.context_slices))
    found = _tensor(experiment, "segmentation", "probabilities", len(names), names)
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": target.version,
        "changelog": {target.version: f"exported {datetime.now(UTC):%Y-%m-%d}"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {},
        "name": target.title,
        "task": f"Segmentation: {', '.join(label.name.lower() for label in target.labels)}",
        "description": target.description,
        "authors": target.authors,
        "copyright": target.copyright,
        "intended_use": "Research use only; not for clinical decisions",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": found}},
    }


def _tensor(
    experiment: Experiment, kind: str, content: str, channels: int, names: dict[str, str]
) -> dict[str, Any]:
    return {
        "type": kind,
        "format": content,
        "modality": experiment.target.modality,
        "num_channels": channels,
        "spatial_shape": list(experiment.preprocessing.window_size),
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": True,
        "channel_def": names,
    }


def _channels(context_slices: int) -> dict[str, str]:
    offsets = range(-context_slices, context_slices + 1)
    return {str(i): f"slice {offset:+d}" if offset else "the slice" for i, offset in enumerate(offsets)}
