"""Presets of an experiment: the published protocol, and what works better today.

A preset gives values that the experiment file may leave out. Under `paper` what the publication fixes
cannot be changed by the file, so that every run under this name is comparable.
"""

from __future__ import annotations

from typing import Any, Literal

Protocol = Literal["paper", "best"]

PROTOCOLS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        "augmentation": {
            "rotate_degrees": 15.0,
            "scale": 0.1,
            "shift": 0.0,
            "noise": 0.0,
            "contrast": 0.0,
            "blur_px": 0.0,
            "thick_slices": 0.0,
            "vanish": 0.0,
            "synthetic_lesions": 0.0,
        },
        "fitting": {
            "batch_size": 16,
            "optimiser": "adam",
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
            "schedule": "constant",
            "lesion_share": 0.0,
            "average_decay": 0.0,
            "keep": "loss",
            "patience": 10,
        },
        "loss": {"cross_entropy": 1.0, "lesion": 1.0, "tversky": 1.0, "missed": 0.5},
        "preprocessing": {"mirrored": []},
        "postprocessing": {"peak_probability": 0.0, "temperature": 1.0, "probability_threshold": 0.5},
    },
    "best": {
        "augmentation": {
            "rotate_degrees": 20.0,
            "scale": 0.2,
            "shift": 0.1,
            "noise": 0.1,
            "contrast": 0.3,
            "blur_px": 1.0,
        },
        "fitting": {
            "optimiser": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 1e-3,
            "schedule": "cosine",
            "lesion_share": 0.5,
            "average_decay": 0.995,
            "keep": "dice",
        },
        "loss": {"cross_entropy": 1.0, "lesion": 2.0, "tversky": 1.0, "missed": 0.5},
    },
}
"""Resizing, normalisation and mirroring depend on the task and stay in its file. Splits (70/15/15 by
patient or group) come with the data."""


def merged(content: dict[str, Any], preset: dict[str, dict[str, Any]], protocol: str) -> dict[str, Any]:
    """The experiment `content` with the values of `preset`; the file wins unless the protocol is `paper`."""
    result = content | {"protocol": protocol}
    for section, values in preset.items():
        own = content.get(section, {})
        if isinstance(own, dict):
            result[section] = own | values if protocol == "paper" else values | own
    return result
