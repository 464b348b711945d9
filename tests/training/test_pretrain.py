"""Pretraining on images alone. Whether it helps a real task is not covered: that is measured, not tested."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.discs import write_discs
from training.adjust import with_fitting
from training.config import Experiment, with_network
from training.distortion import Distortion, distort
from training.errors import DataError, RunError
from training.pretrain import Repairing, gather_images, pretrain, repairing
from training.run import BEST, LAST, read_record
from training.start import read_start
from training.train import fit


class Interrupted(Exception):
    pass


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return write_discs(tmp_path)


def quiet(_: object) -> None:
    """Report nothing."""


def test_pretraining_repairs_images_better_than_leaving_them_damaged(
    experiment: Experiment, tmp_path: Path
) -> None:
    longer = with_fitting(experiment, steps=40, validate_every=10)
    how = Distortion(hidden=0.25, curved=0.0)
    pretrain(longer, tmp_path / "pre", quiet, how)
    first, *_, last = (entry["val_loss"] for entry in read_record(tmp_path / "pre")["history"])
    assert last < 0.8 * first

    whole = gather_images(repairing(longer), ()).val.batch(0).image
    damaged = distort(whole, how, np.random.default_rng(0))
    assert last < 0.7 * float((damaged - whole).square().mean())
    assert last < 0.8 * float(whole.var())


def test_a_training_takes_the_pretrained_weights_over(experiment: Experiment, tmp_path: Path) -> None:
    pretrain(experiment, tmp_path / "pre", quiet)
    start = read_start(tmp_path / "pre")
    fit(experiment, tmp_path / "run", quiet, start)
    init = read_record(tmp_path / "run")["init"]
    assert init["origin"] == "pretraining pre"
    assert init["taken_over"] > init["fresh"] > 0


def test_masks_and_the_share_of_labels_play_no_part(experiment: Experiment, tmp_path: Path) -> None:
    fewer = experiment.model_copy(update={"data": experiment.data.model_copy(update={"train_share": 0.1})})
    images = gather_images(repairing(fewer), ())
    assert len(images.train.sources) == 8
    assert not any(source.truth.any() for source in images.train.sources)


def test_an_interrupted_pretraining_continues_to_the_very_same_weights(
    experiment: Experiment, tmp_path: Path
) -> None:
    def stop_after_three(progress: Repairing) -> None:
        if progress.step == 3:
            raise Interrupted

    pretrain(experiment, tmp_path / "whole", quiet)
    with pytest.raises(Interrupted):
        pretrain(experiment, tmp_path / "torn", stop_after_three)
    assert read_record(tmp_path / "torn")["step"] == 2
    pretrain(experiment, tmp_path / "torn", quiet)
    whole, torn = (
        torch.load(tmp_path / name / LAST, weights_only=True)["network"] for name in ("whole", "torn")
    )
    assert all(torch.equal(whole[key], torn[key]) for key in whole)


def test_a_pretraining_with_another_distortion_is_not_continued(
    experiment: Experiment, tmp_path: Path
) -> None:
    pretrain(experiment, tmp_path / "pre", quiet)
    with pytest.raises(RunError, match="another distortion"):
        pretrain(experiment, tmp_path / "pre", quiet, Distortion(hidden=0.1))
    with pytest.raises(RunError, match="begun with other"):
        fit(experiment, tmp_path / "pre", quiet)


def test_folders_of_further_images_are_learnt_from(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "more/below").mkdir(parents=True)
    shutil.copy(tmp_path / "discs/i0.png", tmp_path / "more/below/other.png")
    with_more = gather_images(repairing(experiment), [tmp_path / "more"])
    assert len(with_more.train.sources) == 9
    assert with_more.digest != gather_images(repairing(experiment), ()).digest
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        gather_images(repairing(experiment), [tmp_path / "none"])


def test_a_network_with_deep_supervision_is_pretrained_too(experiment: Experiment, tmp_path: Path) -> None:
    pretrain(with_fitting(with_network(experiment, "resenc-unet"), steps=1), tmp_path / "pre", quiet)
    assert (tmp_path / "pre" / BEST).exists()


@pytest.mark.parametrize("shape", [(3, 3, 40, 24), (2, 1, 8, 24, 16)])
def test_damage_hides_the_share_it_shall_in_all_channels_alike(shape: tuple[int, ...]) -> None:
    whole = torch.from_numpy(np.random.default_rng(1).normal(size=shape).astype(np.float32))
    damaged = distort(whole, Distortion(curved=0.0), np.random.default_rng(2))
    changed = (damaged != whole).numpy()
    assert (changed == changed[:, :1]).all()
    shares = changed.reshape(shape[0], -1).mean(axis=1)
    assert ((shares >= 0.39) & (shares < 0.6)).all()
    assert torch.equal(damaged, distort(whole, Distortion(curved=0.0), np.random.default_rng(2)))


def test_a_curve_keeps_the_order_of_grey_levels_and_their_range() -> None:
    whole = torch.linspace(-2.0, 5.0, 64).reshape(1, 1, 8, 8)
    how = Distortion(hidden=0.0, curved=1.0, inverted=0.0)
    damaged = distort(whole, how, np.random.default_rng(4)).flatten()
    assert (damaged.diff() >= -1e-5).all() and not torch.allclose(damaged, whole.flatten(), atol=0.05)
    assert damaged[[0, -1]].tolist() == pytest.approx([-2.0, 5.0], abs=1e-4)
    falling = distort(whole, how.model_copy(update={"inverted": 1.0}), np.random.default_rng(4)).flatten()
    assert (falling.diff() <= 1e-5).all()
