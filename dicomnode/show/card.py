"""The test figures of a model card that people ask for first. Cards made elsewhere may have none."""

from __future__ import annotations

from typing import Any

FIGURES = {"dice": "Dice", "iou": "IoU", "surface_dice": "surface Dice", "hd95": "Hausdorff distance, 95 %"}


def card_figures(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value in words of each figure that the card has of its test cases."""
    test = metrics.get("test")
    if not isinstance(test, dict) or not isinstance(test.get("mean"), dict):
        return []
    figures = [("test cases", str(test["n_cases"]))] if "n_cases" in test else []
    for key, name in FIGURES.items():
        value = test["mean"].get(key)
        if isinstance(value, dict) and "mean" in value:
            figures.append((name, _told(value)))
    return figures


def _told(value: dict[str, Any]) -> str:
    words = f"mean {value['mean']:.2f}"
    interval = value.get("mean_interval")
    if isinstance(interval, list) and len(interval) == 2:
        words += f" (95 %: {interval[0]:.2f} to {interval[1]:.2f})"
    return words + (f", median {value['median']:.2f}" if "median" in value else "")
