"""A model bundle whose network is a threshold: its lesions are known exactly, and it runs anywhere.

The network is a plain one-level MONAI UNet of 1 x 1 kernels with weights set by hand, so that
logit(lesion) = STEEPNESS * (intensity - threshold), with the intensity already normalised to 0..1.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from dicomnode.selftest.volumes import LESION_LABEL
from inference.bundle import CARD, METADATA, NETWORK
from inference.networks.build import build_network

WINDOW = (0.0, 200.0)
THRESHOLD = 80.0
"""Halfway between tissue (40) and lesion (120) of the phantoms."""
STEEPNESS = 1000.0


def write_bundle(
    folder: Path,
    *,
    name: str = "threshold",
    spatial_dims: int = 2,
    context_slices: int = 0,
    preprocessing: dict[str, Any] | None = None,
    postprocessing: dict[str, Any] | None = None,
    threshold: float = THRESHOLD,
    **card: Any,
) -> Path:
    """Write a bundle that calls everything above `threshold` a lesion.

    `preprocessing` is merged into that of the card; other keyword arguments replace the card's.
    """
    network_def = _network_def(spatial_dims, 2 * context_slices + 1)
    (folder / "models").mkdir(parents=True, exist_ok=True)
    (folder / "configs").mkdir(exist_ok=True)
    weights = folder / "models" / "model.pt"
    how: dict[str, Any] = {
        "spatial_dims": spatial_dims,
        "spacing_mm": [None, None, None],
        "intensity": {"kind": "window", "low": WINDOW[0], "high": WINDOW[1]},
        "context_slices": context_slices,
        "window_size": [64, 64] if spatial_dims == 2 else [16, 64, 64],
    } | (preprocessing or {})
    torch.save(threshold_weights(network_def, _normalised(threshold, how["intensity"])), weights)
    content = {
        "name": name,
        "version": "1.0.0",
        "title": "Threshold phantom model",
        "state": "live",
        "modality": "CT",
        "intensity_unit": "HU",
        "labels": [LESION_LABEL.model_dump()],
        "preprocessing": how,
        "postprocessing": postprocessing or {},
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    write_json(folder / CARD, content | card)
    write_json(folder / NETWORK, {"network_def": network_def})
    write_json(folder / METADATA, {"version": "1.0.0", "task": "phantom lesion segmentation"})
    return folder


def threshold_weights(network_def: dict[str, Any], level: float) -> dict[str, torch.Tensor]:
    """Weights that make the network a threshold at normalised intensity `level` of its middle channel."""
    state = {key: torch.zeros_like(value) for key, value in build_network(network_def).state_dict().items()}
    middle = network_def["in_channels"] // 2
    for channel, sign in enumerate((1.0, -1.0)):  # relu(x - level) and relu(level - x)
        state["model.0.conv.weight"][channel, middle] = sign
        state["model.0.conv.bias"][channel] = -sign * level
        state["model.2.conv.weight"][channel, 1] = sign * STEEPNESS
    return state


def _normalised(threshold: float, intensity: dict[str, Any]) -> float:
    if intensity["kind"] == "z_score":  # the threshold is then in standard deviations already
        return threshold
    low, high = float(intensity["low"]), float(intensity["high"])
    return (threshold - low) / (high - low)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON."""
    path.write_text(json.dumps(content, indent=2))


def _network_def(spatial_dims: int, in_channels: int) -> dict[str, Any]:
    return {
        "_target_": "monai.networks.nets.UNet",
        "spatial_dims": spatial_dims,
        "in_channels": in_channels,
        "out_channels": 2,
        "channels": [2, 2],
        "strides": [1],
        "kernel_size": 1,
        "up_kernel_size": 1,
        "act": "relu",
        "norm": None,
    }
