"""Several networks that vote as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from inference.networks.build import build_network


class Ensemble(nn.Module):
    """The logarithm of the members' mean probability: a softmax over it gives that mean.

    With `labels_overlap`, where each label has a probability of its own, it is the logit of the mean: a
    sigmoid gives that mean.

    `members` are network definitions, as in a bundle, or the networks that MONAI's reader of bundles
    makes of them; the state dict holds their weights under
    `members.0.`, `members.1.` and so on. It is for inference: members are trained one by one.

    Raises ValueError when there are no members, BundleError when one cannot be built.
    """

    def __init__(self, members: Sequence[dict[str, Any] | nn.Module], labels_overlap: bool = False) -> None:
        super().__init__()
        self.labels_overlap = labels_overlap
        if not members:
            raise ValueError("an ensemble needs at least one member")
        self.members = nn.ModuleList(
            member if isinstance(member, nn.Module) else build_network(member) for member in members
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (n, class, ...) of the size of `image`."""
        votes = [member(image).float() for member in self.members]
        if self.labels_overlap:
            # The number of members cancels out: it divides the mean of "yes" and that of "no" alike.
            yes, no = (torch.stack([functional.logsigmoid(s * v) for v in votes]) for s in (1, -1))
            return yes.logsumexp(dim=0) - no.logsumexp(dim=0)
        chances = torch.stack([vote.log_softmax(dim=1) for vote in votes])
        return chances.logsumexp(dim=0) - math.log(len(votes))
