"""Several networks that vote as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from inference.networks.build import build_network


class Ensemble(nn.Module):
    """The logarithm of the members' mean probability: a softmax over it gives that mean.

    `members` are network definitions, as in a bundle, or the networks that MONAI's reader of bundles
    makes of them; the state dict holds their weights under
    `members.0.`, `members.1.` and so on. It is for inference: members are trained one by one.

    Raises ValueError when there are no members, BundleError when one cannot be built.
    """

    def __init__(self, members: Sequence[dict[str, Any] | nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs at least one member")
        self.members = nn.ModuleList(
            member if isinstance(member, nn.Module) else build_network(member) for member in members
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (n, class, ...) of the size of `image`."""
        votes = torch.stack([member(image).float().log_softmax(dim=1) for member in self.members])
        return votes.logsumexp(dim=0) - math.log(len(self.members))
