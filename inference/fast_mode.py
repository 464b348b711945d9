"""The fast mode of a model: how far its answers may be from the exact ones, and what was measured of them."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

LEAST_AGREEMENT = 0.997
LARGEST_DICE_CHANGE = 0.002


class Precision(StrEnum):
    """How a network is computed."""

    EXACT = "exact"
    """The labels that one pass in float32 gives."""
    FAST = "fast"
    """With numbers of 8 bits in its large layers; only with a `FastMode` that passed."""


class FastMode(BaseModel):
    """What `dicomtrain fast` measured of a network in 8 bits, and what the network needs to run so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    """The kind of device that it was measured on, and may run on."""
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """The weights that were measured."""
    n_cases: int = Field(ge=1)
    """Of the test split."""
    agreement: float = Field(ge=0.0, le=1.0)
    """Share of all voxels of the network's grid with the same label as in the exact mode."""
    exact_dice: float = Field(ge=0.0, le=1.0)
    fast_dice: float = Field(ge=0.0, le=1.0)
    """Means over cases and labels."""
    limits: dict[str, tuple[float, float]] = Field(min_length=1)
    """The lowest and highest value that went into each large convolution, by its name."""

    def faults(self, weights_sha256: str) -> list[str]:
        """Why a model with these weights may not run so; empty when it may."""
        found = []
        if self.weights_sha256 != weights_sha256:
            found.append(f"it was measured with other weights ({self.weights_sha256[:12]})")
        if self.agreement < LEAST_AGREEMENT:
            found.append(f"its agreement {self.agreement:.4f} is below {LEAST_AGREEMENT}")
        if abs(self.fast_dice - self.exact_dice) > LARGEST_DICE_CHANGE:
            found.append(
                f"its Dice is {self.fast_dice:.4f} instead of {self.exact_dice:.4f}, "
                f"more than {LARGEST_DICE_CHANGE} away"
            )
        return found
