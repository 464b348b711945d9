"""Networks over images: our blocks against blended windows and other engines, with the same weights."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.inferers.utils import sliding_window_inference

from inference.bundle import Preprocessing, read_bundle
from inference.device import best_device
from inference.engine import fitted, load_network, quickened
from inference.networks.build import build_network
from inference.networks.int8 import Limits, observed
from inference.preprocess import stack_context
from inference.sweep import Sweep, outlook_of
from tests.bench.harness import AtLeast, AtMost, Case, Contender, Reading, Run, Setting, Stage
from tests.bench.needs import Need, module, vnni
from training.networks import count_flops

MODELS = Path(__file__).parents[3] / "config" / "models"
SMALL_UNET = {
    "_target_": "monai.networks.nets.UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [16, 32, 64, 128],
    "strides": [2, 2, 2],
    "num_res_units": 2,
    "norm": "batch",
}
OURS, FAST = "ours", "ours, fast mode (8 bits)"
QUARTER = "MONAI, overlap 0.25, Gaussian"
HALF = "MONAI, overlap 0.5, Gaussian (nnU-Net's default)"
ONNX, OPENVINO = "ONNX Runtime, whole image", "OpenVINO, whole image"
DISAGREEMENT = "disagreement (%)"
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense half precision by the makers' data sheets, by a part of the card's name."""

Step = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Subject:
    """A network in eval mode with an image (n, channel, ...) for it, both on `device`."""

    network: torch.nn.Module
    how: Preprocessing
    image: torch.Tensor
    device: torch.device

    @classmethod
    def of(cls, network: torch.nn.Module, how: Preprocessing, image: torch.Tensor) -> Subject:
        device = best_device()
        return cls(network.eval().to(device), how, image.to(device), device)

    def whole(self) -> torch.Tensor:
        """The labels that one float32 pass over the whole image gives: what the others are held against."""
        with torch.inference_mode():
            logits: torch.Tensor = self.network(self.image)
            return logits.argmax(dim=1)

    def flops_per_voxel(self) -> float:
        """Multiplications and additions; of a window, so of any image of whole steps."""
        window = (1, self.image.shape[1], *self.how.window_size)
        return 2.0 * count_flops(self.network, window) * self.image.shape[1] / torch.Size(window).numel()


class Counted:
    """Calls a network and counts the voxels that it was given."""

    def __init__(self, call: Step) -> None:
        self.call = call
        self.voxels = 0

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self.voxels += batch.numel() // batch.shape[1]
        return self.call(batch)


def in_blocks(subject: Subject, fast: bool) -> tuple[Counted, Step]:
    """What the node does. On a GPU always under autocast, as in `inference.engine`."""
    network = fitted(copy.deepcopy(subject.network), subject.how, subject.device)
    if fast:
        network = quickened(network, _limits(network, subject.image), subject.how)
    outlook = outlook_of(network, subject.how)

    def predict(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast(subject.device.type, enabled=subject.device.type == "cuda"):
            logits: torch.Tensor = network(batch)
        return logits

    counted = Counted(predict)
    sweep = Sweep(counted, lambda logits: logits.float().softmax(dim=1), subject.how, outlook)
    return counted, sweep.over


@torch.inference_mode()
def _limits(network: torch.nn.Module, image: torch.Tensor) -> dict[str, Limits]:
    """Observed on another image of the same kind: the same values in another order."""
    with observed(network) as limits:
        network(image.flatten()[torch.randperm(image.numel())].view_as(image))
    return limits


def in_windows(subject: Subject, overlap: float) -> tuple[Counted, Step]:
    """MONAI's blended windows of the training size, one at a time as nnU-Net takes them."""
    counted = Counted(subject.network)

    def slide(image: torch.Tensor) -> torch.Tensor:
        logits = sliding_window_inference(
            image, subject.how.window_size, 1, counted, overlap=overlap, mode="gaussian"
        )
        assert isinstance(logits, torch.Tensor)
        return logits

    return counted, slide


def by_onnx(subject: Subject) -> tuple[Counted, Step]:
    """ONNX Runtime on the CPU, with the threads that torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(subject.network, (subject.image,), path, input_names=["image"], dynamo=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    counted = Counted(lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0]))
    return counted, counted


def by_openvino(subject: Subject) -> tuple[Counted, Step]:
    """OpenVINO on the CPU in float32, with the threads that torch has."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    converted = openvino.convert_model(subject.network, example_input=subject.image)
    compiled: Any = openvino.Core().compile_model(converted, "CPU", settings)
    counted = Counted(lambda image: torch.from_numpy(compiled(image.numpy())[0]))
    return counted, counted


Engine = Callable[[Subject], tuple[Counted, Step]]
ENGINES: dict[str, tuple[Engine, tuple[Need, ...]]] = {
    OURS: (partial(in_blocks, fast=False), ()),
    FAST: (partial(in_blocks, fast=True), (vnni(),)),
    QUARTER: (partial(in_windows, overlap=0.25), ()),
    HALF: (partial(in_windows, overlap=0.5), ()),
    ONNX: (by_onnx, (module("onnxruntime"), module("onnx"))),
    OPENVINO: (by_openvino, (module("openvino"),)),
}


def contender(name: str, subject: Subject, expected: torch.Tensor) -> Contender:
    """One engine: seconds to the labels, how many differ from one pass, and what was computed for them."""
    engine, needs = ENGINES[name]

    @contextmanager
    def opened() -> Iterator[Run]:
        counted, work = engine(subject)
        flops_per_voxel = subject.flops_per_voxel()

        @torch.inference_mode()
        def run() -> Reading:
            counted.voxels = 0
            started, cpu_started = time.perf_counter(), time.process_time()
            labels = work(subject.image).max(dim=1).indices.cpu()  # argmax takes as long as a network
            seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
            tflop = counted.voxels * flops_per_voxel / 1e12
            disagreement = 100.0 * float((labels != expected.cpu()).double().mean())
            figures = {DISAGREEMENT: disagreement, "TFLOP": tflop, "CPU (s)": cpu_s}
            return Reading(seconds, figures | _roofline(subject, tflop / seconds))

        yield run

    return Contender(name, opened, needs)


def _roofline(subject: Subject, tflops: float) -> dict[str, float]:
    """On a GPU whose peak is known, the share of it that was reached."""
    if subject.device.type != "cuda":
        return {}
    name = torch.cuda.get_device_name(subject.device)
    peaks = [peak for card, peak in PEAK_TFLOPS.items() if card in name]
    return {"share of peak (%)": 100.0 * tflops / peaks[0]} if peaks else {}


def case(name: str, subject: Subject) -> Case:
    """All engines on one network and image; ours must agree with one pass, and be fast."""
    expected = subject.whole()
    goals = (
        AtLeast(OURS, 3.0, HALF),
        AtMost(OURS, 0.1, DISAGREEMENT, share=1.0),
        AtLeast(FAST, 10.0, HALF),
        AtMost(FAST, 0.3, DISAGREEMENT, share=1.0),
    )
    return Case(name, tuple(contender(engine, subject, expected) for engine in ENGINES), HALF, goals)


def cases(setting: Setting) -> Iterator[Case]:
    """A small 3-D U-Net with random weights, and a shipped 2-D bundle, both over noise."""
    torch.manual_seed(0)
    size = setting.choose((16, 32, 32), (96, 160, 160), (128, 224, 224))
    window = setting.choose((16, 16, 16), (96, 96, 96), (96, 96, 96))
    how = Preprocessing.model_validate(
        {"spatial_dims": 3, "spacing_mm": [None] * 3, "intensity": {"kind": "z_score"}, "window_size": window}
    )
    image = torch.randn(1, 1, *size)
    yield case(f"3-D U-Net, {_times(size)} voxels", Subject.of(build_network(SMALL_UNET), how, image))
    bundle = read_bundle(MODELS / "ct-lung-nodule")
    how = bundle.card.preprocessing
    size = setting.choose((2, 160, 160), (8, 352, 352), (24, 352, 352))
    slices = stack_context(torch.rand(size), how.context_slices)
    yield case(f"ct-lung-nodule, {_times(size)} voxels", Subject.of(load_network(bundle), how, slices))


def _times(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


STAGE = Stage(
    "inference",
    "Networks over images",
    "A network with batch norm over one image, from the image in memory to labels; every contender has the "
    "same weights and threads. *Ours* are exact blocks with a halo, or the whole image where memory holds "
    "it; in the fast mode large layers multiply numbers of 8 bits. Windows are MONAI's, of the training "
    "size; overlap 0.5 with Gaussian weights and no mirroring is the default of nnU-Net's predictor: its "
    "setting, not its code. Disagreement is the share of voxels with another label than one float32 pass "
    "over the whole image gives; TFLOP are those of convolutions, overlaps and halos included.",
    cases,
    rounds=5,
)
