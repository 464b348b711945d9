"""The experiment file: everything wrong with it is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.crops import EXPERIMENT, write_experiment
from training.config import read_experiment
from training.errors import ExperimentError

REPOSITORY = Path(__file__).parents[2]


def test_all_errors_of_a_file_are_listed_with_their_keys(tmp_path: Path) -> None:
    wrong = EXPERIMENT.replace("batch_size = 2", "batch_size = 0").replace("seed = 1", "sede = 1")
    wrong = wrong.replace('modality = "CT"', "").replace("context_slices = 1", "context_slices = 99")
    with pytest.raises(ExperimentError) as caught:
        read_experiment(write_experiment(tmp_path, wrong))
    message = str(caught.value)
    for key in (
        "fitting.batch_size",
        "fitting.seed",
        "fitting.sede",
        "target.modality",
        "preprocessing.context_slices",
    ):
        assert key in message
    assert "5 errors" in message


def test_channels_that_do_not_fit_the_context_are_refused(tmp_path: Path) -> None:
    wrong = EXPERIMENT.replace("in_channels = 3", "in_channels = 5")
    with pytest.raises(ExperimentError, match="in_channels is 5, but 1 context"):
        read_experiment(write_experiment(tmp_path, wrong))


def test_a_network_that_could_run_code_is_refused(tmp_path: Path) -> None:
    wrong = EXPERIMENT.replace('norm = "batch"', 'norm = "$print(1)"')
    with pytest.raises(ExperimentError, match="literal arguments"):
        read_experiment(write_experiment(tmp_path, wrong))


def test_native_spacing_is_that_of_the_source(tmp_path: Path) -> None:
    assert read_experiment(write_experiment(tmp_path)).preprocessing.spacing_mm == (None, 0.7, 0.7)


def test_the_data_folder_is_found_from_the_experiment_file_unless_given(tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    assert read_experiment(path).data.folder == tmp_path / "crops"
    assert read_experiment(path, Path("elsewhere")).data.folder == Path("elsewhere")


def test_a_file_that_is_no_toml_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="not valid TOML"):
        read_experiment(write_experiment(tmp_path, "[data\n"))


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "config/training").glob("*.toml")), ids=lambda p: p.stem
)
def test_every_shipped_experiment_is_valid(path: Path) -> None:
    read_experiment(path)
