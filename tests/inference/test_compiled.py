"""Networks that see windows, compiled: the same answers, nothing compiled later, and a way back from failure.

A compiler that only counts takes the place of torch's, which one test runs where there is a C++ compiler.
That a GPU compiles the same way is not covered.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from dicomnode.selftest.bundles import write_bundle, write_json
from dicomnode.work.engine import LocalEngine
from inference.agreement import LEAST_AGREEMENT, agreement
from inference.bundle import CARD, NETWORK, ModelBundle, read_bundle
from inference.compiled import Compiled
from inference.engine import Model
from inference.errors import NotCompiled
from inference.networks.build import build_network
from inference.preprocess import ModelInput
from tests.phantoms import phantom

CPU = torch.device("cpu")
NETWORK_DEF = {
    "_target_": "monai.networks.nets.UNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 6],
    "strides": [2],
    "norm": "instance",
}


@pytest.fixture
def bundle(tmp_path: Path) -> ModelBundle:
    """A network that normalises over what it sees, so it sees windows of 32 x 32; with random weights."""
    torch.manual_seed(0)
    folder = write_bundle(tmp_path / "windows", preprocessing={"window_size": [32, 32]})
    weights = folder / "models" / "model.pt"
    torch.save(build_network(NETWORK_DEF).state_dict(), weights)
    write_json(folder / NETWORK, {"network_def": NETWORK_DEF})
    card = json.loads((folder / CARD).read_bytes())
    write_json(folder / CARD, card | {"weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()})
    return read_bundle(folder)


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """Every log event while the test runs."""
    with capture_logs() as captured:
        found: list[Any] = captured
        yield found


class Counting:
    """A compiler that leaves a network as it is, and counts its networks and their calls."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits) -> None:
        self.compiled = self.called = 0
        self.change = change

    def __call__(self, module: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        """As torch asks a backend."""
        self.compiled += 1

        def run(*given: torch.Tensor) -> list[torch.Tensor]:
            self.called += 1
            return [self.change(found) for found in module(*given)]

        return run


def image_of(slices: int, rows: int, columns: int) -> ModelInput:
    shape = slices, rows, columns
    image = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    return ModelInput(image, (slice(0, slices), slice(0, rows), slice(0, columns)), shape)


@pytest.mark.parametrize("shape", [(1, 20, 30), (5, 41, 75)], ids=str)
def test_all_windows_run_compiled_and_none_compiles_again(
    bundle: ModelBundle, shape: tuple[int, int, int]
) -> None:
    model, compiler, plain = Model(bundle, CPU), Counting(), list[None]()
    expected = model.probabilities(image_of(*shape))
    model.compile(compiler)
    assert (model.is_compiled, compiler.compiled) == (True, 2), "for one window, and for several"
    model.network.register_forward_hook(lambda *_: plain.append(None))
    called = compiler.called
    torch.testing.assert_close(model.probabilities(image_of(*shape)), expected)
    assert compiler.called > called
    assert (compiler.compiled, plain) == (2, []), "compiled in the time of a study, or not used"


@torch.inference_mode()
def test_many_networks_of_one_class_stay_compiled() -> None:
    class Small(torch.nn.Conv2d):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image).relu()

    compiler, networks = Counting(), [Small(1, 2, kernel_size=1).eval() for _ in range(10)]
    windows = torch.zeros(2, 1, 8, 8)
    compiled = [Compiled(network, network, windows, compiler) for network in networks]
    assert compiler.compiled == 2 * len(networks), "more than torch keeps of one function by itself"
    called = compiler.called
    for network in compiled:
        network(windows)
    assert (compiler.called, compiler.compiled) == (called + len(networks), 2 * len(networks))


def test_windows_of_another_size_go_through_the_network_as_it_is() -> None:
    network, compiler = build_network(NETWORK_DEF).eval(), Counting()
    with torch.inference_mode():
        compiled = Compiled(network, network, torch.zeros(2, 1, 32, 32), compiler)
        called = compiler.called
        assert compiled(torch.zeros(3, 1, 48, 32)).shape == (3, 2, 48, 32)
    assert (compiler.called, compiler.compiled) == (called, 2)


def test_a_network_that_sees_the_whole_image_is_left_alone(tmp_path: Path) -> None:
    model, compiler = Model(read_bundle(write_bundle(tmp_path)), CPU), Counting()
    model.compile(compiler)
    assert (model.is_compiled, compiler.compiled) == (False, 0)


def refuse(*_: object) -> None:
    raise FileNotFoundError("no compiler here")


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [(refuse, "no compiler here"), (Counting(lambda logits: -logits), "agrees with the network in 0.00 %")],
    ids=["it fails", "it answers otherwise"],
)
def test_what_cannot_be_compiled_well_runs_as_it_is(
    bundle: ModelBundle, compiler: Callable[..., Any], reason: str
) -> None:
    model = Model(bundle, CPU)
    expected = model.probabilities(image_of(2, 32, 32))
    with pytest.raises(NotCompiled, match=reason):
        model.compile(compiler)
    assert not model.is_compiled
    assert torch.equal(model.probabilities(image_of(2, 32, 32)), expected)


def test_agreement_is_the_share_of_the_same_labels_and_what_is_no_number_agrees_with_nothing() -> None:
    expected = torch.zeros(1, 2, 1000)
    expected[:, 0] = 1.0
    found = expected.clone()
    found[:, 1, :2] = 2.0
    assert agreement(found, expected, overlap=False) == 0.998 < LEAST_AGREEMENT
    assert agreement(found, expected, overlap=True) == 0.999
    assert agreement(expected - 2.0, expected, overlap=True) == 0.5
    found[0, 0, 0] = torch.nan
    assert agreement(found, expected, overlap=False) == 0.0


@pytest.mark.parametrize(("factor", "half"), [(1.0, True), (1e-4, False)])
def test_half_precision_is_left_where_it_changes_labels(
    bundle: ModelBundle, factor: float, half: bool
) -> None:
    """On a CPU, whose half precision is bfloat16. Labels that lie close together are told apart by little."""

    class Close(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(1, 2, kernel_size=1, bias=False)
            self.layer.weight.data = torch.tensor([1.0, 1.0 + factor]).reshape(2, 1, 1, 1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.layer(image)
            return logits

    model = Model(bundle, CPU, Close())
    model.check_precision()
    assert not model.is_half, "a CPU computes in float32"
    model.is_half = True
    model.check_precision()
    assert model.is_half is half
    logits = model.network(torch.tensor([[[[1.5]]]]))
    assert logits.argmax(dim=1).item() == 1


def test_a_worker_compiles_before_its_first_study_only_and_goes_on_where_it_cannot(
    bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "of another test")
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "2")
    monkeypatch.setattr(Model, "compile", lambda _: refuse_by_name())
    engine = LocalEngine("cpu", tmp_path / "compiled")
    assert (tmp_path / "compiled").stat().st_mode & 0o777 == 0o700
    segmenter = engine.segmenter(bundle, {bundle.digest})
    assert [log["event"] for log in logs] == ["model_loaded"]
    engine.load(bundle, {bundle.digest})
    assert (logs[-1]["event"], logs[-1]["log_level"]) == ("model_not_compiled", "warning")
    assert logs[-1]["reason"] == "no compiler"
    assert not engine.is_compiled(bundle)
    assert segmenter(phantom(spacing_mm=(8.0, 4.0, 4.0)).volume).layers


def refuse_by_name() -> None:
    raise NotCompiled("no compiler")


@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_torch_compiles_into_the_folder_of_the_node_and_answers_the_same(
    bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "of another test")
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "2")
    volume = phantom(spacing_mm=(8.0, 4.0, 4.0)).volume
    plain = LocalEngine("cpu").segmenter(bundle, {bundle.digest})(volume)
    engine = LocalEngine("cpu", tmp_path / "compiled")
    engine.load(bundle, {bundle.digest})
    assert engine.is_compiled(bundle), logs[-1]
    assert any(path.suffix == ".so" for path in (tmp_path / "compiled").rglob("*"))
    compiled = engine.segmenter(bundle, {bundle.digest})(volume)
    there, here = (found.values > 0 for found in (compiled, plain))
    assert (there == here).mean() >= 0.999
    assert os.environ["TORCHINDUCTOR_COMPILE_THREADS"] == "1"
