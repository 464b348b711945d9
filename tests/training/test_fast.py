"""The fast mode: 8 bits beside float32, the gate between them, and what a node makes of a card.

Nothing here judges a time (`tests/bench/stages/inference.py` does). CUDA is not covered: 8 bits are for CPUs.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from inference.bundle import CARD, METADATA, ModelBundle, Preprocessing, read_bundle
from inference.engine import Model, fitted, network_for, quickened
from inference.errors import BundleError
from inference.fast_mode import FastMode, Precision
from inference.networks import int8
from inference.networks.int8 import WITH_VNNI, Levels, Rounded, kind_of, observed
from inference.networks.onednn import Merged
from inference.preprocess import prepare
from inference.sweep import outlook_of
from tests.inference.test_blocks import UNET, built
from tests.training.discs import write_discs
from training.__main__ import app
from training.cases import of_split
from training.config import Experiment
from training.errors import RunError
from training.export import Wishes, export
from training.fast import measure, write_fast
from training.train import fit, load, used_cases

CPU = torch.device("cpu")
FINE: dict[str, Any] = {"agreement": 0.9991, "exact_dice": 0.5, "fast_dice": 0.5015, "n_cases": 3}
WIDE = UNET | {"channels": [16, 32, 48], "num_res_units": 2}
needs_vnni = pytest.mark.skipif(kind_of(CPU) != WITH_VNNI, reason="this processor has no VNNI")


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, ModelBundle]:
    """A model with large layers that has learned a little, and its data."""
    folder = tmp_path_factory.mktemp("discs")
    experiment = write_discs(folder)
    network = experiment.network | {"channels": [16, 32]}
    fitting = experiment.fitting.model_copy(update={"steps": 30, "validate_every": 10})
    experiment = experiment.model_copy(update={"network": network, "fitting": fitting})
    fit(experiment, folder / "run", lambda _: None)
    return experiment, export(
        experiment, [folder / "run"], folder / "bundle", Wishes(calibrated=False), lambda _: None
    ).bundle


def how_for(spatial_dims: int) -> Preprocessing:
    content = {"spatial_dims": spatial_dims, "spacing_mm": [None] * 3, "intensity": {"kind": "z_score"}}
    return Preprocessing.model_validate(content | {"window_size": (32,) * spatial_dims})


def rounded_layers(network: torch.nn.Module) -> list[Rounded]:
    return [module for module in network.modules() if isinstance(module, Rounded)]


def passed(bundle: ModelBundle) -> FastMode:
    limits = {"layer": (0.0, 1.0)}
    return FastMode(device="another", weights_sha256=bundle.card.weights_sha256, limits=limits, **FINE)


def measured(discs: tuple[Experiment, ModelBundle]) -> FastMode:
    experiment, bundle = discs
    data, cases = used_cases(experiment)
    return measure(bundle, load(data, of_split(cases, "val")), load(data, of_split(cases, "test")))


@needs_vnni
@pytest.mark.parametrize("spatial_dims", [2, 3])
@torch.inference_mode()
def test_8_bits_say_nearly_what_float32_says_and_see_as_far(spatial_dims: int) -> None:
    window = (32,) * spatial_dims
    network = built(WIDE, spatial_dims)
    how = how_for(spatial_dims)
    exact = fitted(network, how, CPU)
    with observed(exact) as limits:
        exact(torch.randn(2, 1, *window))
    fast = quickened(exact, limits, how)
    assert len(rounded_layers(fast)) == len(limits) > 4
    image = torch.randn(2, 1, *window)
    found, expected = fast(image), exact(image)
    assert not torch.equal(found, expected)
    assert (found - expected).norm() < 0.05 * expected.norm()
    assert (found.argmax(dim=1) == expected.argmax(dim=1)).float().mean() > 0.97
    assert outlook_of(fast, how) is outlook_of(exact, how)
    assert outlook_of(fast, how).view is not None


@needs_vnni
@torch.inference_mode()
def test_values_beyond_the_limits_become_the_limit_and_zero_stays_zero() -> None:
    layer = Rounded(Merged(torch.nn.Conv2d(16, 16, 3, padding=1, bias=False), "layer"), (0.5, 2.0))
    for far, at in ((1e9, 2.0), (-1e9, 0.0), (0.0, 0.0)):
        torch.testing.assert_close(
            layer(torch.full((1, 16, 8, 8), far)), layer(torch.full((1, 16, 8, 8), at))
        )
    assert layer(torch.zeros(1, 16, 8, 8)).abs().max() == 0.0


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_value_becomes_the_nearest_level(memory_format: torch.memory_format) -> None:
    """Over more values than are taken at a time, in whatever order they lie."""
    image = torch.randn(2, 16, 96, int8.VALUES_AT_A_TIME // 2000).to(memory_format=memory_format)
    assert image.numel() > int8.VALUES_AT_A_TIME
    levels = Levels((-1.0, 2.0))
    found = levels(image)
    exact = (image / levels.scale + levels.zero).clamp(0, 255)
    assert (found - exact).abs().max() <= 0.5001
    assert levels(found) is found


@needs_vnni
@torch.inference_mode()
def test_both_ways_of_a_residual_unit_share_their_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    how = how_for(3)
    exact = fitted(built(WIDE, 3), how, CPU)
    image = torch.randn(1, 1, 32, 32, 32)
    with observed(exact) as limits:
        exact(image)
    shared = quickened(exact, limits, how)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        found = shared(image)
    called = {event.key: event.count for event in profile.key_averages()}
    monkeypatch.setattr(int8, "_shared_levels", lambda _: None)
    apart = quickened(exact, limits, how)
    assert torch.equal(found, apart(image))
    assert 0 < called["aten::clamp_"] < len(rounded_layers(apart))


def test_limits_of_other_layers_are_refused() -> None:
    how = how_for(2)
    with pytest.raises(BundleError, match="for other layers than the network has"):
        quickened(fitted(built(WIDE, 2), how, CPU), {"elsewhere": (0.0, 1.0)}, how)


@needs_vnni
def test_a_measured_bundle_becomes_a_version_of_its_own_that_runs_in_8_bits(
    discs: tuple[Experiment, ModelBundle], tmp_path: Path
) -> None:
    experiment, bundle = discs
    found = measured(discs)
    written = write_fast(bundle, found, "0.2.0", tmp_path / "fast")
    assert (written.card.precision, written.card.version) == (Precision.FAST, "0.2.0")
    assert json.loads((written.folder / METADATA).read_text())["version"] == "0.2.0"
    assert written.digest != bundle.digest
    assert (found.n_cases, found.device) == (3, WITH_VNNI)
    assert found.agreement >= 0.997
    exact, fast = Model(bundle, CPU), Model(written, CPU)
    assert any(rounded_layers(fast.network)) and not any(rounded_layers(exact.network))
    data, cases = used_cases(experiment)
    image = prepare(data.load(of_split(cases, "test")[0]).volume, bundle.card.preprocessing)
    one, other = exact.answers(image), fast.answers(image)
    assert not torch.equal(one, other)
    assert (one.argmax(dim=0) == other.argmax(dim=0)).float().mean() >= 0.99
    with pytest.raises(RunError, match="fast mode already"):
        measure(written, [], [])


@needs_vnni
def test_a_network_that_8_bits_change_too_much_gets_no_fast_version(
    discs: tuple[Experiment, ModelBundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "LEVELS", 3)
    found = measured(discs)
    assert found.faults(discs[1].card.weights_sha256)
    with pytest.raises(RunError, match=r"gets no fast mode: its agreement .* is below 0\.997"):
        write_fast(discs[1], found, "0.2.0", tmp_path / "fast")
    assert not (tmp_path / "fast").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (None, "it was not measured"),
        ({"agreement": 0.996}, "its agreement 0.9960 is below 0.997"),
        ({"fast_dice": 0.497}, "its Dice is 0.4970 instead of 0.5000"),
        ({"weights_sha256": "0" * 64}, "it was measured with other weights (000000000000)"),
    ],
)
def test_a_card_without_a_passed_measurement_is_refused(
    discs: tuple[Experiment, ModelBundle], tmp_path: Path, change: dict[str, Any] | None, reason: str
) -> None:
    folder = shutil.copytree(discs[1].folder, tmp_path / "edited")
    fast = passed(discs[1]).model_dump(mode="json")
    wanted = {"precision": "fast", "fast": fast}
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | wanted))
    assert read_bundle(folder).card.precision is Precision.FAST
    (folder / CARD).write_text(json.dumps(card | wanted | {"fast": change and fast | change}))
    with pytest.raises(BundleError, match=re.escape(f"the fast mode is refused: {reason}")):
        read_bundle(folder)


def test_a_fast_bundle_is_refused_on_another_kind_of_device(discs: tuple[Experiment, ModelBundle]) -> None:
    bundle = discs[1]
    card = bundle.card.model_copy(update={"precision": Precision.FAST, "fast": passed(bundle)})
    with pytest.raises(BundleError, match=r"was measured on another, this is cpu.*use its exact version"):
        network_for(replace(bundle, card=card), CPU)


def test_the_command_names_what_is_wrong(
    discs: tuple[Experiment, ModelBundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, bundle = discs
    monkeypatch.setattr("training.fast.kind_of", lambda _: "cpu")
    arguments = ["fast", str(bundle.folder), str(Path(experiment.data.folder).parent / "disc.toml")]
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "new"), "--version", "0.2.0"])
    assert isinstance(result.exception, RunError)
    assert "VNNI" in str(result.exception)
