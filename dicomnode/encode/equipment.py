"""What the node calls itself in every object it makes. Imports neither highdicom nor torch."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

MANUFACTURER = "Pacs Lesion Node project"
"""Manufacturer (0008,0070) of the node and, in Contributing Equipment, of its algorithms."""

PRODUCT = "Pacs Lesion Node"
"""Manufacturer's Model Name (0008,1090) of every object that the node makes."""

DISTRIBUTION = "pacs-lesion-node"

RESEARCH_ONLY = "Research use only"

PROCESSING_EQUIPMENT = ("109102", "DCM", "Processing Equipment")
"""Purpose of Reference of an algorithm in Contributing Equipment (IHE AI Results)."""


@cache
def software_version() -> str:
    """Version of the installed node."""
    return version(DISTRIBUTION)


def serial_number(model_digest: str) -> str:
    """Device serial number: the part of the model digest that people compare by eye."""
    return model_digest[:16]
