"""How near a network comes to what its device can do: the roofline, with both of its ceilings measured.

A layer takes at least as long as its multiplications and additions take at the rate of a large matrix
product, and at least as long as its maps and weights take to be read and written at the rate of a large copy.
The floor of a pass is the sum over its layers of the longer of both. Norms, activations and the joining of
maps count as done on the way, so nothing that works layer by layer from memory is faster.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

META = torch.device("meta")
TRIES = 10


@dataclass(frozen=True)
class Layer:
    """What one layer computes and moves, in one pass."""

    flops: float
    moved_bytes: float


@dataclass(frozen=True)
class Ceilings:
    """What a device can do at most."""

    flops_per_s: float
    bytes_per_s: float

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype) -> Ceilings:
        """The best of many tries, in turns, at a matrix product in `dtype` and at a copy."""
        n, count = (2048, 2**26) if device.type == "cpu" else (8192, 2**29)
        left, right = torch.randn(2, n, n, device=device).to(dtype)
        source = torch.ones(count, dtype=torch.float32, device=device)
        target = torch.zeros_like(source)
        product_s, copy_s = _fastest((lambda: left @ right, lambda: target.copy_(source)), device)
        return cls(2.0 * n**3 / product_s, 2.0 * source.nbytes / copy_s)

    def floor_s(self, layers: Iterable[Layer]) -> float:
        """Seconds that the layers take at least, one after the other."""
        return sum(
            max(layer.flops / self.flops_per_s, layer.moved_bytes / self.bytes_per_s) for layer in layers
        )

    def __str__(self) -> str:
        return f"{self.flops_per_s / 1e12:.3g} TFLOP/s and {self.bytes_per_s / 1e9:.3g} GB/s"


class Roofline:
    """What passes of a network need, by the shapes of what was given to it."""

    def __init__(self, network: torch.nn.Module, dtype: torch.dtype, ceilings: Ceilings) -> None:
        self.ceilings = ceilings
        self._network = copy.deepcopy(network).to(META, dtype)
        self._dtype = dtype
        self._known: dict[torch.Size, tuple[Layer, ...]] = {}

    def figures(self, shapes: Sequence[torch.Size], seconds: float) -> dict[str, float]:
        """What was reached by passes over batches of `shapes` that took so long."""
        layers = [layer for shape in shapes for layer in self._layers(shape)]
        flops, moved = (sum(getattr(each, name) for each in layers) for name in ("flops", "moved_bytes"))
        return {
            "TFLOP": flops / 1e12,
            "TFLOP/s": flops / seconds / 1e12,
            "GB/s": moved / seconds / 1e9,
            "of the roofline (%)": 100.0 * self.ceilings.floor_s(layers) / seconds,
        }

    def _layers(self, shape: torch.Size) -> tuple[Layer, ...]:
        if shape not in self._known:
            self._known[shape] = layers_of(self._network, torch.empty(shape, dtype=self._dtype, device=META))
        return self._known[shape]


@torch.no_grad()
def layers_of(network: torch.nn.Module, batch: torch.Tensor) -> tuple[Layer, ...]:
    """Every convolution and matrix product of one pass; nothing is computed on the device "meta".

    Not for inference mode, which takes layers apart before they are seen.
    """
    with _Layers() as watched:
        network(batch)
    found: list[Layer] = watched.found
    return tuple(found)


class _Layers(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives its base no types
    """Notes every operation for which torch knows how to count its multiplications."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Layer] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            flops = flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
            tensors = [given for given in (*args, result) if isinstance(given, torch.Tensor)]
            self.found.append(Layer(float(flops), float(sum(tensor.nbytes for tensor in tensors))))
        return result


def _fastest(works: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Seconds of the fastest try at each of `works`, which take turns; the first turn is thrown away."""
    turns = [[_seconds(work, device) for work in works] for _ in range(1 + TRIES)]
    return [min(taken) for taken in zip(*turns[1:], strict=True)]


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    _wait_for(device)
    started = time.perf_counter()
    work()
    _wait_for(device)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    """A card works on while the program goes on."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
