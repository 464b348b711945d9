"""The experiment file: everything wrong with it is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.crops import EXPERIMENT, write_experiment
from training.config import Experiment, read_experiment, with_network
from training.errors import ExperimentError
from training.networks import CATALOGUE
from training.protocols import PROTOCOLS, Protocol

REPOSITORY = Path(__file__).parents[2]
UNET = EXPERIMENT.split("[data]")[0]
BY_NAME = EXPERIMENT.replace(UNET, 'network = "unet"\n\n')


def read(folder: Path, text: str = EXPERIMENT) -> Experiment:
    return read_experiment(write_experiment(folder, text))


def complaints(folder: Path, text: str) -> list[str]:
    """The lines below the headline of the one error."""
    with pytest.raises(ExperimentError) as caught:
        read(folder, text)
    headline, *lines = str(caught.value).splitlines()
    assert str(folder / "ball.toml") in headline
    assert f"{len(lines)} errors" in headline
    return lines


def test_all_errors_of_a_file_are_listed_with_their_keys(tmp_path: Path) -> None:
    wrong = BY_NAME.replace("batch_size = 2", "batch_size = 0").replace("seed = 1", "sede = 1")
    wrong = wrong.replace('modality = "CT"', "").replace("context_slices = 1", "context_slices = 99")
    wrong = wrong.replace('"lidc-crops"', '"jpeg"').replace('"unet"', '"vnet"')
    wrong = "colour = 3\n" + wrong + "\n[losses]\nlesion = 2.0\n"
    keys = [line.split(":")[0].strip() for line in complaints(tmp_path, wrong)]
    assert sorted(keys) == [
        "colour",
        "data.format",
        "fitting.batch_size",
        "fitting.sede",
        "fitting.seed",
        "losses",
        "network",
        "preprocessing.context_slices",
        "target.modality",
    ]


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ('"lidc-crops"', '"jpeg"', "data.format: .*'jpeg'; take one of lidc-crops"),
        ("in_channels = 3", "in_channels = 5", "in_channels is 5, but 1 context"),
        ("out_channels = 2", "out_channels = 3", "out_channels must be 2"),
        ("spatial_dims = 2, in", "spatial_dims = 3, in", "network.spatial_dims is 3"),
        ('norm = "batch"', 'norm = "$print(1)"', "literal arguments"),
        ("window_size = [32, 32]", "window_size = [32, 32, 32]", r"fitting.window_size .* needs 2 numbers"),
        ("window_size = [32, 32]", "window_size = [0, 32]", "fitting.window_size.0: .* greater than"),
        ("window_size = [48, 48]", "window_size = [48]", r"preprocessing: .*window_size needs 2 numbers"),
        ("number = 1", "number = 2", "target.labels: .*numbered 1..n"),
        ('name = "ball"', 'name = "Ball of fire"', "target.name: "),
        ('version = "0.1.0"', 'version = "new"', "target.version: "),
        ('title = "Balls"', 'title = ""', "target.title: "),
        ("low = -1000.0", "low = 1000.0", "low 1000.0 must be below high"),
    ],
)
def test_each_mistake_is_one_line(tmp_path: Path, right: str, wrong: str, complaint: str) -> None:
    assert EXPERIMENT.count(right) == 1
    changed = EXPERIMENT.replace(right, wrong)
    with pytest.raises(ExperimentError, match=complaint):
        read(tmp_path, changed)
    assert len(complaints(tmp_path, changed)) == 1


def test_quarter_turns_of_a_window_that_is_not_square_are_refused(tmp_path: Path) -> None:
    long = EXPERIMENT.replace("window_size = [32, 32]", "window_size = [32, 48]")
    read(tmp_path, long)
    [complaint] = complaints(tmp_path, long + "\n[augmentation]\nquarter_turns = true\n")
    assert "as many rows as columns" in complaint


@pytest.mark.parametrize("text", ['protocol = "latest"\n', "protocol = [1]\n", 'protocol = ""\n'])
def test_an_unknown_protocol_is_refused_with_the_known_ones(tmp_path: Path, text: str) -> None:
    with pytest.raises(ExperimentError, match="is none of paper, best") as caught:
        read(tmp_path, text + EXPERIMENT)
    assert len(str(caught.value).splitlines()) == 1


def test_paper_wins_over_the_file_and_best_does_not(tmp_path: Path) -> None:
    own = EXPERIMENT + "\n[augmentation]\nnoise = 0.7\nmirror = ['row']\n[loss]\nlesion = 9.0\n"
    best = read(tmp_path, 'protocol = "best"\n' + own)
    assert (best.augmentation.noise, best.loss.lesion, best.fitting.learning_rate) == (0.7, 9.0, 0.01)
    assert best.augmentation.contrast == PROTOCOLS["best"]["augmentation"]["contrast"]
    paper = read(tmp_path, 'protocol = "paper"\n' + own)
    for section, values in PROTOCOLS["paper"].items():
        settled = getattr(paper, section)
        for key, value in values.items():
            assert getattr(settled, key) == (tuple(value) if isinstance(value, list) else value), key
    assert paper.augmentation.mirror == ("row",), "what the paper leaves open stays with the file"
    assert paper.fitting.batch_size == 16


def test_a_protocol_of_the_call_replaces_that_of_the_file(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, 'protocol = "best"\n' + EXPERIMENT)
    assert read_experiment(path).protocol == "best"
    assert read_experiment(path, protocol="paper").protocol == "paper"
    assert read_experiment(path, protocol="paper").fitting.optimiser == "adam"


def test_native_spacing_is_that_of_the_source(tmp_path: Path) -> None:
    assert read(tmp_path).preprocessing.spacing_mm == (None, 0.7, 0.7)
    [complaint] = complaints(tmp_path, EXPERIMENT.replace('"native"', '"source"'))
    assert complaint.strip().startswith("preprocessing.spacing_mm.0")


def test_a_network_by_name_gets_the_size_of_the_task(tmp_path: Path) -> None:
    network = read(tmp_path, BY_NAME).network
    assert network["_target_"] == "monai.networks.nets.UNet"
    assert (network["spatial_dims"], network["in_channels"], network["out_channels"]) == (2, 3, 2)


def test_a_network_by_name_with_a_window_that_does_not_suit_it_is_one_line(tmp_path: Path) -> None:
    odd = BY_NAME.replace("window_size = [32, 32]", "window_size = [30, 32]")
    [complaint] = complaints(tmp_path, odd)
    assert "multiples of 16" in complaint
    [complaint] = complaints(tmp_path, BY_NAME.replace("[32, 32]", '"wide"'))
    assert complaint.strip().startswith("fitting.window_size")
    [complaint] = complaints(tmp_path, BY_NAME.replace("context_slices = 1", 'context_slices = "x"'))
    assert complaint.strip().startswith("preprocessing.context_slices")


@pytest.mark.parametrize("name", [name for name, family in CATALOGUE.items() if not family.traditional])
def test_every_network_of_the_catalogue_can_take_the_place_of_another(tmp_path: Path, name: str) -> None:
    before = read(tmp_path)
    after = with_network(before, name)
    assert after == read(tmp_path, EXPERIMENT.replace(UNET, f'network = "{name}"\n')).model_copy(
        update={"data": before.data}
    )


def test_a_network_outside_the_catalogue_cannot(tmp_path: Path) -> None:
    for name in ("vnet", "handcrafted"):
        with pytest.raises(ExperimentError, match=f"no network '{name}'"):
            with_network(read(tmp_path), name)


def test_the_data_folder_is_found_from_the_experiment_file_unless_given(tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    assert read_experiment(path).data.folder == tmp_path / "crops"
    assert read_experiment(path, Path("elsewhere")).data.folder == Path("elsewhere")


def test_a_file_that_is_no_toml_or_absent_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="not valid TOML"):
        read(tmp_path, "[data\n")
    with pytest.raises(ExperimentError, match="cannot be read: No such file"):
        read_experiment(tmp_path / "absent.toml")


@pytest.mark.parametrize("protocol", ["paper", "best", None])
@pytest.mark.parametrize(
    "path",
    sorted(p for p in (REPOSITORY / "config/training").glob("*.toml") if "[target]" in p.read_text()),
    ids=lambda p: p.stem,
)
def test_every_shipped_experiment_is_valid_in_every_protocol(path: Path, protocol: Protocol | None) -> None:
    experiment = read_experiment(path, protocol=protocol)
    assert experiment.target.name.replace("-", "_") == path.stem
