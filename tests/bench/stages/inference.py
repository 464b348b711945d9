"""Networks over images: our blocks against blended windows and other engines, with the same weights."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.inferers.utils import sliding_window_inference

from inference.bundle import Preprocessing, read_bundle
from inference.compiled import Compiled
from inference.device import device_named
from inference.engine import fitted, in_channels_last, load_network, quickened
from inference.networks.build import build_network
from inference.networks.int8 import WITH_VNNI, Limits, observed
from inference.preprocess import stack_context
from inference.sweep import Sweep, outlook_of
from tests.bench.harness import AtLeast, AtMost, Case, Contender, Reading, Run, Setting, Size, Stage
from tests.bench.needs import Need, module, program, runs_on
from tests.bench.roofline import Ceilings, Roofline

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
OURS, FAST, COMPILED = "ours", "ours, fast mode (8 bits)", "ours, compiled"
QUARTER = "MONAI, overlap 0.25, Gaussian"
HALF = "MONAI, overlap 0.5, Gaussian (nnU-Net's default)"
ONNX, OPENVINO = "ONNX Runtime, whole image", "OpenVINO, whole image"
DISAGREEMENT = "disagreement (%)"
CPUS = ("cpu", WITH_VNNI)

Step = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Subject:
    """A network in eval mode with an image (n, channel, ...) for it, both on `device`."""

    network: torch.nn.Module
    how: Preprocessing
    image: torch.Tensor
    device: torch.device

    @classmethod
    def of(cls, network: torch.nn.Module, how: Preprocessing, image: torch.Tensor, device: str) -> Subject:
        chosen = device_named(device)
        return cls(network.eval().to(chosen), how, image.to(chosen), chosen)

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels along (slice, row, column)."""
        of_batch, _, *of_image = self.image.shape
        return tuple(of_image) if self.how.spatial_dims == 3 else (of_batch, *of_image)

    @property
    def dtype(self) -> torch.dtype:
        """What layers compute in: on a GPU under autocast, as in `inference.engine`."""
        return torch.float32 if self.device.type == "cpu" else torch.float16

    def predict(self, network: Step, batch: torch.Tensor) -> torch.Tensor:
        """Logits by a form of the network, in that precision."""
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            return network(batch)

    def whole(self) -> torch.Tensor:
        """The labels that one float32 pass over the whole image gives: what the others are held against."""
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            logits: torch.Tensor = self.network(self.image)
            return logits.argmax(dim=1)


class Counted:
    """Calls a network and notes the shapes that it was given."""

    def __init__(self, call: Step) -> None:
        self.call = call
        self.shapes: list[torch.Size] = []

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self.shapes.append(batch.shape)
        return self.call(batch)


def in_blocks(subject: Subject, fast: bool) -> tuple[Counted, Step]:
    """What the node does."""
    network = fitted(copy.deepcopy(subject.network), subject.how, subject.device)
    if fast:
        network = quickened(network, _limits(network, subject.image), subject.how)
    return _swept(subject, network, network)


def compiled_windows(subject: Subject) -> tuple[Counted, Step]:
    """What the node does with `worker.compile = "auto"`."""
    network = in_channels_last(copy.deepcopy(subject.network), subject.how.spatial_dims)
    plain = fitted(copy.deepcopy(subject.network), subject.how, subject.device)
    windows = torch.zeros(2, subject.how.channels, *subject.how.window_size, device=subject.device)
    with torch.inference_mode(), torch.autocast(subject.device.type, enabled=subject.device.type == "cuda"):
        compiled = Compiled(network, plain, windows)
    return _swept(subject, compiled, plain)


def _swept(subject: Subject, run: Step, network: torch.nn.Module) -> tuple[Counted, Step]:
    """`run`, which answers as `network` does, over whole images."""
    counted = Counted(partial(subject.predict, run))
    outlook = outlook_of(network, subject.how)
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
    counted = Counted(partial(subject.predict, subject.network))

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


def labels_of(found: torch.Tensor) -> torch.Tensor:
    """The first class with the highest value, as the node finds it: `argmax` takes as long as a network."""
    highest = found[:, 0]
    labels = torch.zeros(highest.shape, dtype=torch.uint8, device=found.device)
    for number, values in enumerate(found[:, 1:].unbind(dim=1), start=1):
        labels.masked_fill_(values > highest, number)
        highest = torch.maximum(highest, values)
    return labels


Engine = Callable[[Subject], tuple[Counted, Step]]
ENGINES: dict[str, Engine] = {
    OURS: partial(in_blocks, fast=False),
    FAST: partial(in_blocks, fast=True),
    COMPILED: compiled_windows,
    QUARTER: partial(in_windows, overlap=0.25),
    HALF: partial(in_windows, overlap=0.5),
    ONNX: by_onnx,
    OPENVINO: by_openvino,
}


def needs_of(name: str, device: torch.device) -> tuple[Need, ...]:
    """What an engine needs to run on `device`."""
    on_cpu = runs_on(CPUS, device)
    return {
        FAST: (runs_on((WITH_VNNI,), device),),
        COMPILED: (program("g++", "g++"),),
        ONNX: (module("onnxruntime"), module("onnx"), on_cpu),
        OPENVINO: (module("openvino"), on_cpu),
    }.get(name, ())


def contender(name: str, subject: Subject, expected: torch.Tensor, roofline: Roofline) -> Contender:
    """One engine: seconds to the labels, how many differ from one pass, and what was computed for them."""

    @contextmanager
    def opened() -> Iterator[Run]:
        counted, work = ENGINES[name](subject)

        def run() -> Reading:
            counted.shapes.clear()
            started, cpu_started = time.perf_counter(), time.process_time()
            with torch.inference_mode():
                labels = labels_of(work(subject.image)).cpu()
            seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
            disagreement = 100.0 * float((labels != expected.cpu()).double().mean())
            figures = {DISAGREEMENT: disagreement, "CPU (s)": cpu_s}
            return Reading(seconds, figures | roofline.figures(counted.shapes, seconds))

        yield run

    return Contender(name, opened, needs_of(name, subject.device))


def case(
    name: str, subject: Subject, engines: Sequence[str], reference: str, goals: Sequence[AtLeast | AtMost]
) -> Case:
    """Engines on one network and image, and the roofline."""
    expected = subject.whole()
    roofline = Roofline(subject.network, subject.dtype, Ceilings.of(subject.device, subject.dtype))
    contenders = tuple(contender(engine, subject, expected, roofline) for engine in engines)
    note = f"The ceilings of {subject.device} were {roofline.ceilings}."
    name = f"{name}, {' x '.join(map(str, subject.size))} voxels"
    return Case(name, contenders, reference, tuple(goals), note=note)


def image_case(name: str, subject: Subject) -> Case:
    """A network that sees images of any size; ours must agree with one pass, and be fast."""
    goals = (
        AtLeast(OURS, 3.0, HALF),
        AtMost(OURS, 0.1, DISAGREEMENT, share=1.0),
        AtLeast(FAST, 10.0, HALF),
        AtMost(FAST, 0.3, DISAGREEMENT, share=1.0),
    )
    return case(name, subject, (OURS, FAST, QUARTER, HALF, ONNX, OPENVINO), HALF, goals)


def window_case(name: str, subject: Subject, size: Size) -> Case:
    """A network that normalises over what it sees, on images of the size of its windows."""
    if size is Size.SMALLEST:  # a compiler takes longer than all the rest
        return case(name, subject, (OURS,), OURS, ())
    goals = (
        AtMost(OURS, 0.1, DISAGREEMENT, share=1.0),
        AtMost(COMPILED, 0.1, DISAGREEMENT, share=1.0),
        AtLeast(OURS, 1.0, ONNX),
        AtLeast(OURS, 1.0, OPENVINO),
        AtLeast(FAST, 1.0, OPENVINO),
    )
    return case(name, subject, (OURS, FAST, COMPILED, ONNX, OPENVINO), OPENVINO, goals)


def cases(setting: Setting) -> Iterator[Case]:
    """A small 3-D U-Net with random weights, and two shipped 2-D bundles, all over noise."""
    torch.manual_seed(0)
    size = setting.choose((16, 32, 32), (96, 160, 160), (128, 224, 224))
    window = setting.choose((16, 16, 16), (96, 96, 96), (96, 96, 96))
    how = Preprocessing.model_validate(
        {"spatial_dims": 3, "spacing_mm": [None] * 3, "intensity": {"kind": "z_score"}, "window_size": window}
    )
    subject = Subject.of(build_network(SMALL_UNET), how, torch.randn(1, 1, *size), setting.device)
    yield image_case("3-D U-Net", subject)
    bundle = read_bundle(MODELS / "ct-lung-nodule")
    how = bundle.card.preprocessing
    size = setting.choose((2, 160, 160), (8, 352, 352), (24, 352, 352))
    slices = stack_context(torch.rand(size), how.context_slices)
    subject = Subject.of(load_network(bundle), how, slices, setting.device)
    yield image_case("ct-lung-nodule", subject)
    bundle = read_bundle(MODELS / "us-breast-lesion")
    how = bundle.card.preprocessing
    images = torch.randn(setting.choose(1, 8, 16), how.channels, *how.window_size)
    yield window_case(
        "us-breast-lesion", Subject.of(load_network(bundle), how, images, setting.device), setting.size
    )


STAGE = Stage(
    "inference",
    "Networks over images",
    "A network over one image, from the image in memory to labels; every contender has the same weights "
    "and threads. *Ours* are exact blocks with a halo, or the whole image where memory holds it; in the fast "
    "mode large layers multiply numbers of 8 bits. Networks with instance norm (us-breast-lesion) see "
    "windows of their training size, which torch can compile. Windows are MONAI's, of the training size; "
    "overlap 0.5 with Gaussian weights and no mirroring is the default of nnU-Net's predictor: its setting, "
    "not its code. Disagreement is the share of voxels with another label than one float32 pass "
    "over the whole image gives. TFLOP and GB are those of convolutions in the network as it was trained, "
    "overlaps and halos included; the roofline is the least time that these layers take one after the other "
    "at the rates of a large matrix product and of a large copy, measured in the same run. Numbers of 8 "
    "bits, or maps that stay in a cache, may get beyond it. On a machine with a GPU "
    '`make bench ARGS="--only inference --device cuda:0 --write"` does all of this there.',
    cases,
    rounds=5,
)
