"""A resident model: weights on a device, sliding windows in, probabilities out."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import torch
from monai.inferers.utils import sliding_window_inference

from inference.bundle import ModelBundle
from inference.errors import BundleError, OutOfMemory
from inference.networks.build import build_network
from inference.preprocess import ModelInput, stack_context

SLICES_PER_STEP = 16
WINDOWS_PER_STEP = 8
AXES = ("slice", "row", "column")

Predictor = Callable[[torch.Tensor], torch.Tensor]


def best_device() -> torch.device:
    """The first GPU, or the CPU when there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Model:
    """A loaded bundle. Build it once per process and keep it."""

    def __init__(
        self,
        bundle: ModelBundle,
        device: torch.device | None = None,
        network: torch.nn.Module | None = None,
    ) -> None:
        """Load the weights onto `device`; raises BundleError when they do not fit the network.

        A `network` that is already in memory is used as it is: training measures with this very
        code before a bundle exists.
        """
        self.bundle = bundle
        self.device = device or best_device()
        if network is None:
            network = build_network(bundle.network_def, trusted=bundle.trusted)
            _load_weights(network, bundle)
        self.network = network.eval().to(self.device)

    def probabilities(self, image: ModelInput) -> torch.Tensor:
        """Class probabilities (class, slice, row, column) on the model's grid.

        Class 0 is background, unless the labels overlap: then there is one class a label. When the device
        runs out of memory the work is cut smaller; raises OutOfMemory when even single windows do not fit.
        """
        step = WINDOWS_PER_STEP
        while True:
            try:
                return self._averaged(image.image, step)
            except torch.cuda.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                if step == 1:
                    raise OutOfMemory(
                        f"{self.device} cannot hold one window of "
                        f"{self.bundle.card.preprocessing.window_size}: {error}"
                    ) from error
                step //= 2

    @torch.inference_mode()
    def _averaged(self, image: torch.Tensor, windows_per_step: int) -> torch.Tensor:
        """The mean over the mirrored versions that the card asks for (test-time augmentation)."""
        versions = list(mirrored_axes(self.bundle.card.preprocessing.mirrored))
        total = self._run(image.flip(versions[0]), windows_per_step)
        for axes in versions[1:]:
            mirrored = self._run(image.flip(axes), windows_per_step)
            total += mirrored.flip([axis + 1 for axis in axes])
        return total / len(versions)

    def _run(self, image: torch.Tensor, windows_per_step: int) -> torch.Tensor:
        how = self.bundle.card.preprocessing
        if how.spatial_dims == 3:
            return self._slide(image[None, None], windows_per_step)[0]
        stacked = stack_context(image, how.context_slices)
        chunks = [self._slide(chunk, windows_per_step) for chunk in torch.split(stacked, SLICES_PER_STEP)]
        return torch.cat(chunks).transpose(0, 1)

    def _slide(self, batch: torch.Tensor, windows_per_step: int) -> torch.Tensor:
        """Probabilities of a batch (n, channel, ...) as float32 on the CPU."""
        how = self.bundle.card.preprocessing
        logits = sliding_window_inference(
            batch.to(self.device),
            how.window_size,
            windows_per_step,
            self._predict,
            overlap=how.overlap,
            mode="gaussian",
            padding_mode="replicate",
        )
        assert isinstance(logits, torch.Tensor)
        card = self.bundle.card
        scaled = logits.float() / card.postprocessing.temperature
        return (scaled.sigmoid() if card.labels_overlap else scaled.softmax(dim=1)).cpu()

    def _predict(self, batch: torch.Tensor) -> torch.Tensor:
        """Half precision where it is fast and safe: on the GPU, under autocast."""
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            output: torch.Tensor = self.network(batch)
        return output


def mirrored_axes(names: Sequence[str]) -> Iterator[list[int]]:
    """Every combination of the named axes of (slice, row, column), the empty one first."""
    axes = [AXES.index(name) for name in names]
    for count in range(len(axes) + 1):
        yield from map(list, combinations(axes, count))


def _load_weights(network: torch.nn.Module, bundle: ModelBundle) -> None:
    try:
        network.load_state_dict(_read_weights(bundle))
    except (RuntimeError, AttributeError, TypeError) as error:
        raise BundleError(
            f"{bundle.weights_path} does not fit the network of the bundle: export the model again ({error})"
        ) from error


def _read_weights(bundle: ModelBundle) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(bundle.weights_path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, OSError) as error:
        raise BundleError(f"{bundle.weights_path} holds no plain weights: {error}") from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
