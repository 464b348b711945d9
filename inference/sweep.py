"""An image through a network: in blocks that change nothing or, where blocks would, in blended windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from monai.inferers.utils import sliding_window_inference

from inference.blocks import Block, Part, padded, plan_blocks
from inference.bundle import Preprocessing
from inference.memory import bytes_per_voxel, free_bytes
from inference.view import View, view_of

WINDOWS_PER_STEP = 8
SLICES_PER_STEP = 16
BYTES_PER_STEP_ON_CPU = 128 * 2**20
"""Of several images on a CPU. With more at a time glibc fetches each map anew from the system and gives it
back, which takes a fifth of the time of a small network."""
VALUES_AT_A_TIME_ON_CPU = 2**18
"""Of logits that become probabilities, which takes some passes."""

Step = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Outlook:
    """What was found out about a network by trying it once."""

    view: View | None
    """None: it depends on the whole image, so only windows as in training say what it learned to say."""
    bytes_per_voxel: float


_FOUND: WeakKeyDictionary[torch.nn.Module, Outlook] = WeakKeyDictionary()


def outlook_of(network: torch.nn.Module, how: Preprocessing) -> Outlook:
    """What `network` (in eval mode) looks at and needs; found out at the first call."""
    if network not in _FOUND:
        _FOUND[network] = Outlook(
            view_of(network, how.channels, how.window_size),
            bytes_per_voxel(network, how.channels, how.window_size),
        )
    return _FOUND[network]


def look_alike(network: torch.nn.Module, of: torch.nn.Module, how: Preprocessing) -> None:
    """Let `network` look as far as another with the same layers, where trying it would not show it.

    What is not a number cannot go through numbers of 8 bits.
    """
    _FOUND[network] = outlook_of(of, how)


@dataclass(frozen=True)
class Sweep:
    """How a batch goes through a network. `share` is that of the work which is usually done at a time."""

    predict: Step
    """Logits of a batch of any size."""
    decide: Step
    """Probabilities of logits, voxel by voxel."""
    how: Preprocessing
    outlook: Outlook
    share: float = 1.0

    def over(self, batch: torch.Tensor, within: Part | None = None) -> torch.Tensor:
        """Probabilities (n, class, ...) float32 of a batch (n, channel, ...), on its device.

        Where it needs no windows only the spatial part `within` is answered for; all others are 0.
        """
        if self.outlook.view is None:
            chunks = torch.split(batch, SLICES_PER_STEP)
            return torch.cat([self.decide(self._blended(chunk)) for chunk in chunks])
        return self._in_blocks(batch, self.outlook.view, within)

    def _blended(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits from overlapping windows of the size of training."""
        logits = sliding_window_inference(
            batch,
            self.how.window_size,
            self._at_a_time(WINDOWS_PER_STEP, math.prod(self.how.window_size), batch.device),
            self.predict,
            overlap=self.how.overlap,
            mode="gaussian",
            padding_mode="replicate",
        )
        assert isinstance(logits, torch.Tensor)
        return logits

    def _in_blocks(self, batch: torch.Tensor, view: View, within: Part | None) -> torch.Tensor:
        """The same as `decide(predict(batch))`, in parts that fit into memory."""
        image, place = padded(batch, view, self.how.window_size)
        most = int(free_bytes(batch.device) * self.share / self.outlook.bytes_per_voxel)
        if within is not None:
            within = tuple(
                slice(start.start + part.start, start.start + part.stop)
                for start, part in zip(place, within, strict=True)
            )
        result: torch.Tensor | None = None
        for block in plan_blocks(image.shape[2:], view, most, within):
            for first, logits in self._answers(image, block):
                if result is None:
                    size = len(image), logits.shape[1], *image.shape[2:]
                    result = logits.new_zeros(size, dtype=torch.float32)
                part = slice(first, first + len(logits)), slice(None), *block.answers
                self._decide_into(result[part], logits)
        assert result is not None
        return result[(slice(None), slice(None), *place)]

    def _answers(self, image: torch.Tensor, block: Block) -> Iterator[tuple[int, torch.Tensor]]:
        """Logits of what a block answers for, a few images of the batch at a time."""
        size = math.prod(read.stop - read.start for read in block.reads)
        at_a_time = self._at_a_time(SLICES_PER_STEP, size, image.device)
        read, answered = ((slice(None), slice(None), *part) for part in (block.reads, block.answers_of_read))
        for first in range(0, len(image), at_a_time):
            yield first, self.predict(image[read][first : first + at_a_time])[answered]

    def _decide_into(self, result: torch.Tensor, logits: torch.Tensor) -> None:
        """Put probabilities into a part of the result; on a CPU by a few planes, which a cache holds."""
        planes = logits.shape[2]
        if logits.device.type == "cpu":
            planes = max(1, VALUES_AT_A_TIME_ON_CPU * planes // logits.numel())
        for place, values in zip(*(torch.split(of, planes, 2) for of in (result, logits)), strict=True):
            place.copy_(self.decide(values))

    def _at_a_time(self, usual: int, voxels: int, device: torch.device) -> int:
        """How many images of so many `voxels` go through the network at a time, at least one."""
        most = free_bytes(device) * self.share
        if device.type == "cpu":
            most = min(most, BYTES_PER_STEP_ON_CPU)
        return max(1, min(int(usual * self.share), int(most / self.outlook.bytes_per_voxel / voxels)))
