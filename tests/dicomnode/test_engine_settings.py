"""Which worker takes which job: pools of a cluster, and the share of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from dicomnode.processes import workers
from dicomnode.settings.inference import InferenceSettings, PoolSettings
from dicomnode.settings.node import NodeSettings, Settings, WorkerSettings
from dicomnode.work.share import EVERYTHING, Share

REST = PoolSettings(name="rest")


def test_the_first_pool_that_names_a_model_or_its_modality_takes_it() -> None:
    settings = InferenceSettings(
        pool=(
            PoolSettings(name="small", models=("nodules",)),
            PoolSettings(name="sound", modalities=("US",)),
            REST,
        )
    )
    chosen = [
        settings.pool_of(*model).name for model in (("nodules", "CT"), ("breast", "US"), ("brain", "MR"))
    ]
    assert chosen == ["small", "sound", "rest"]


@pytest.mark.parametrize(
    "pools",
    [(), (REST, PoolSettings(name="late", models=("nodules",))), (PoolSettings(name="only", models=("a",)),)],
    ids=["none", "the rest first", "nothing takes the rest"],
)
def test_a_model_without_a_pool_is_a_mistake_in_the_configuration(pools: tuple[PoolSettings, ...]) -> None:
    with pytest.raises(ValidationError, match="takes the rest"):
        InferenceSettings(pool=pools)


def test_pools_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="names of their own"):
        InferenceSettings(pool=(PoolSettings(name="rest", models=("a",)), REST))


@pytest.mark.parametrize("wrong", [{"gpus": 1.5}, {"actors": 1, "resident_actors": 2}])
def test_a_pool_asks_for_what_a_cluster_can_give(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        PoolSettings.model_validate({"name": "wrong"} | wrong)


def test_every_actor_has_a_worker_of_its_own(tmp_path: Path) -> None:
    settings = Settings(
        node=NodeSettings(ae_title="NODE", data=tmp_path),
        inference=InferenceSettings(
            engine="ray", pool=(PoolSettings(name="small", models=("a",), actors=2), REST)
        ),
    )
    assert list(workers(settings)) == [
        ["--pool", "small", "--number", "0"],
        ["--pool", "small", "--number", "1"],
        ["--pool", "rest", "--number", "0"],
    ]


def test_every_card_has_a_worker_of_its_own(tmp_path: Path) -> None:
    settings = Settings(
        node=NodeSettings(ae_title="NODE", data=tmp_path),
        worker=WorkerSettings(devices=("cuda:0", "cuda:1", "cuda:1", "cpu")),
    )
    assert [which for _, which in workers(settings)] == ["cuda:0", "cuda:1", "cuda:1", "cpu"]


def test_a_share_is_the_named_models_or_all_others() -> None:
    assert EVERYTHING.has("a")
    assert Share(frozenset({"a"}), others=False).has("a") and not Share(frozenset({"a"}), others=False).has(
        "b"
    )
    assert Share(frozenset({"a"}), others=True).has("b") and not Share(frozenset({"a"}), others=True).has("a")
