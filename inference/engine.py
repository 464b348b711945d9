"""A resident model: weights on a device, an image in, probabilities out."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import combinations

import torch
from torch.nn.utils.memory_format import (
    convert_conv2d_weight_memory_format,
    convert_conv3d_weight_memory_format,
)

from inference.agreement import LEAST_AGREEMENT, agreement, noise
from inference.bundle import ModelBundle, Preprocessing
from inference.compiled import Backend, Compiled
from inference.device import best_device
from inference.errors import BundleError, NotCompiled, NotFinite, OutOfMemory
from inference.fast_mode import Precision
from inference.networks.build import build_network
from inference.networks.int8 import Limits, kind_of, rounded
from inference.networks.joined import join_in_place
from inference.networks.narrow import widen_narrow
from inference.networks.onednn import merged
from inference.preprocess import ModelInput, stack_context
from inference.sweep import Outlook, Sweep, look_alike, outlook_of
from inference.volume import Box

AXES = ("slice", "row", "column")
SLICES_AT_A_TIME = 32
"""Of 2-D networks: more would only need more memory. Whole batches, so that results stay what they are."""
SMALLEST_SHARE = 1 / 64
"""Of the usual work at a time; what needs less memory than that is hopeless."""


class Model:
    """A loaded bundle. Build it once per process and keep it."""

    def __init__(
        self,
        bundle: ModelBundle,
        device: torch.device | None = None,
        network: torch.nn.Module | None = None,
    ) -> None:
        """Load the weights onto `device`; raises BundleError when they do not fit the network, or for a
        fast mode that was not measured on this kind of device.

        A `network` that is already in memory is used as it is: training measures with this very
        code before a bundle exists.
        """
        self.bundle = bundle
        self.device = device or best_device()
        if network is None:
            network = network_for(bundle, self.device)
        self.network = network.eval().to(self.device)
        self.is_half = self.device.type == "cuda"
        """Whether layers that gain from it compute in half precision."""
        self._compiled: Compiled | None = None

    def look(self) -> Outlook:
        """What the network looks at and needs. The first call tries it, which takes up to some seconds."""
        return outlook_of(self.network, self.bundle.card.preprocessing)

    @torch.inference_mode()
    def compile(self, backend: Backend = "inductor") -> None:
        """Run a network that sees windows of one size compiled from now on; nothing happens to any other.

        Raises NotCompiled when that fails, and all stays as it was.
        """
        how = self.bundle.card.preprocessing
        if self.look().view is not None or self.bundle.card.precision is Precision.FAST:
            return
        network = self.network
        if self.device.type == "cpu":  # merged layers cannot be compiled
            network = in_channels_last(load_network(self.bundle).eval(), how.spatial_dims)
        windows = noise((2, how.channels, *how.window_size), self.device)
        try:
            with self._precision():
                compiled = Compiled(network, self.network, windows, backend)
                share = agreement(compiled(windows), self.network(windows), self.bundle.card.labels_overlap)
        except torch.cuda.OutOfMemoryError as error:
            raise NotCompiled(f"{self.device} cannot hold what comparing needs: {error}") from error
        if share < LEAST_AGREEMENT:
            raise NotCompiled(
                f"the compiled network agrees with the network in {100 * share:.2f} % of the labels, "
                f"less than {100 * LEAST_AGREEMENT:g} %"
            )
        self._compiled = compiled

    @torch.inference_mode()
    def check_precision(self) -> None:
        """Leave half precision where it does not give the labels of float32 nearly everywhere."""
        if not self.is_half:
            return
        how = self.bundle.card.preprocessing
        window = noise((1, how.channels, *how.window_size), self.device)
        found = self._predict(window)
        self.is_half = False
        share = agreement(found, self._predict(window), self.bundle.card.labels_overlap)
        self.is_half = share >= LEAST_AGREEMENT

    @property
    def is_compiled(self) -> bool:
        """Whether `compile` did."""
        return self._compiled is not None

    def probabilities(self, image: ModelInput, within: Box | None = None) -> torch.Tensor:
        """`answers` on the CPU."""
        return self.answers(image, within).cpu()

    def answers(self, image: ModelInput, within: Box | None = None) -> torch.Tensor:
        """Class probabilities (class, slice, row, column) on the model's grid, float32 on the model's device.

        Class 0 is background, unless the labels overlap: then there is one class a label. What lies outside
        `within` on that grid is background, and not computed where that changes nothing else. When the device
        runs out of memory the work is cut smaller; raises OutOfMemory when even the smallest piece does not
        fit, and NotFinite when the network gives no finite numbers, in float32 either.
        """
        try:
            return self._answers(image, within)
        except NotFinite:
            if not self.is_half:
                raise
        self.is_half = False  # half precision ends at 65504, which few images come to
        try:
            return self._answers(image, within)
        finally:
            self.is_half = True

    def _answers(self, image: ModelInput, within: Box | None) -> torch.Tensor:
        how = self.bundle.card.preprocessing
        share = 1.0
        while True:
            try:
                found = self._averaged(image.image, within, share)
                return found if within is None else self._nothing_outside(found, within)
            except torch.cuda.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                share /= 2
                if share < SMALLEST_SHARE:
                    raise OutOfMemory(
                        f"{self.device} cannot hold one window of {how.window_size}: {error}"
                    ) from error

    @torch.inference_mode()
    def _averaged(self, image: torch.Tensor, within: Box | None, share: float) -> torch.Tensor:
        """The mean over the mirrored versions that the card asks for (test-time augmentation)."""
        image = image.to(self.device)
        versions = list(mirrored_axes(self.bundle.card.preprocessing.mirrored))
        total: torch.Tensor | None = None
        for axes in versions:
            mirrored = image.flip(axes) if axes else image
            box = within and flipped(within, axes, image.shape)
            for slices, found in self._pieces(mirrored, box, share):
                if len(versions) == 1 and found.shape[1:] == image.shape:  # nothing to add up
                    return found
                if total is None:
                    total = found.new_zeros(len(found), *image.shape)
                place = slice(len(image) - slices.stop, len(image) - slices.start) if 0 in axes else slices
                total[:, place] += found.flip([axis + 1 for axis in axes]) if axes else found
        assert total is not None
        return total.div_(len(versions))

    def _pieces(
        self, image: torch.Tensor, within: Box | None, share: float
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Ranges of slices and their probabilities (class, slice, row, column): all at once in 3-D.

        `share` is that of the work which is usually done at a time. Slices in no range are background.
        """
        how = self.bundle.card.preprocessing
        sweep = Sweep(self._predict, self._decide, how, self.look(), share)
        if how.spatial_dims == 3:
            yield slice(0, len(image)), sweep.over(image[None, None], within)[0]
            return
        asked = slice(0, len(image)) if within is None else within[0]
        for start in range(asked.start, asked.stop, SLICES_AT_A_TIME):
            part = slice(start, min(start + SLICES_AT_A_TIME, asked.stop))
            batch = stack_context(image, how.context_slices, part)
            yield part, sweep.over(batch, within and within[1:]).transpose(0, 1)

    def _nothing_outside(self, probabilities: torch.Tensor, within: Box) -> torch.Tensor:
        """Certainly background there, which is no class of its own where labels overlap."""
        result = torch.zeros_like(probabilities)
        if not self.bundle.card.labels_overlap:
            result[0] = 1.0
        result[(slice(None), *within)] = probabilities[(slice(None), *within)]
        return result

    def _predict(self, batch: torch.Tensor) -> torch.Tensor:
        run = self._compiled or self.network
        with self._precision():
            logits: torch.Tensor = run(batch)
        return logits

    def _precision(self) -> AbstractContextManager[object]:
        """Half precision, or float32 without the shortcut of GPUs that rounds it to 10 bits (TF32)."""
        if self.is_half:
            return torch.autocast(self.device.type)
        if self.device.type == "cuda":
            return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        return nullcontext()

    def _decide(self, logits: torch.Tensor) -> torch.Tensor:
        card = self.bundle.card
        scaled = logits.float() / card.postprocessing.temperature
        if not scaled.sum().isfinite():  # else no threshold is reached, and nothing would seem to be there
            raise NotFinite(
                f"the network of model {card.name} {card.version} answers with what is no finite number: "
                "look for extreme values in the image, and export the model again if there are none"
            )
        return scaled.sigmoid() if card.labels_overlap else scaled.softmax(dim=1)


def network_for(bundle: ModelBundle, device: torch.device) -> torch.nn.Module:
    """The network of a bundle as its card wants it on `device`. Raises BundleError as `Model` does."""
    network = fitted(load_network(bundle), bundle.card.preprocessing, device)
    fast = bundle.card.fast
    if bundle.card.precision is Precision.EXACT or fast is None:  # a card asks for fast with its figures only
        return network
    if fast.device != kind_of(device):
        raise BundleError(
            f"the fast mode of {bundle.card.name} {bundle.card.version} was measured on {fast.device}, this "
            f"is {kind_of(device)}: use its exact version here, or measure it on such a device"
        )
    return quickened(network, fast.limits, bundle.card.preprocessing)


def quickened(network: torch.nn.Module, limits: Mapping[str, Limits], how: Preprocessing) -> torch.nn.Module:
    """A `fitted` network with its large layers in 8 bits. Raises BundleError when `limits` do not fit it."""
    fast = rounded(network, limits)
    look_alike(fast, network, how)
    return fast


def fitted(network: torch.nn.Module, how: Preprocessing, device: torch.device) -> torch.nn.Module:
    """`network` in its fastest form on `device`, in eval mode: the same answers but for rounding."""
    network = in_channels_last(network.eval().to(device), how.spatial_dims)
    if device.type != "cpu":
        return network
    fast = merged(network, noise((1, how.channels, *how.window_size), device))
    if fast is not network:
        outlook_of(fast, how)  # now: what follows keeps room, and spreads what is not a number
        widen_narrow(fast)
        join_in_place(fast)
    return fast


def in_channels_last(network: torch.nn.Module, spatial_dims: int) -> torch.nn.Module:
    """`network` with the channels of a voxel side by side, in weights and maps."""
    if spatial_dims == 2:
        return convert_conv2d_weight_memory_format(network, torch.channels_last)
    return convert_conv3d_weight_memory_format(network, torch.channels_last_3d)


def flipped(box: Box, axes: Sequence[int], shape: Sequence[int]) -> Box:
    """Where `box` lies once an array of `shape` is reversed along `axes`."""
    slices, rows, columns = (
        slice(n - part.stop, n - part.start) if axis in axes else part
        for axis, (part, n) in enumerate(zip(box, shape, strict=True))
    )
    return slices, rows, columns


def mirrored_axes(names: Sequence[str]) -> Iterator[list[int]]:
    """Every combination of the named axes of (slice, row, column), the empty one first."""
    axes = [AXES.index(name) for name in names]
    for count in range(len(axes) + 1):
        yield from map(list, combinations(axes, count))


def load_network(bundle: ModelBundle) -> torch.nn.Module:
    """The network of a bundle with its weights; raises BundleError when they do not fit."""
    network = build_network(bundle.network_def, trusted=bundle.trusted)
    try:
        network.load_state_dict(_read_weights(bundle))
    except (RuntimeError, AttributeError, TypeError) as error:
        raise BundleError(
            f"{bundle.weights_path} does not fit the network of the bundle: export the model again ({error})"
        ) from error
    return network


def _read_weights(bundle: ModelBundle) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(bundle.weights_path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, OSError) as error:
        raise BundleError(f"{bundle.weights_path} holds no plain weights: {error}") from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
