"""What a first job would load is loaded before it."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import dicomnode.work.worker
from dicomnode.selftest.bundles import write_bundle
from dicomnode.settings.node import ModelSettings
from dicomnode.work.engine import LocalEngine
from dicomnode.work.worker import Worker
from inference.bundle import ModelBundle
from inference.registry import find_bundles
from tests.databases import migrated_database
from tests.dicomnode.parts import settings_in

SCRIPT = """
import pathlib, sys
from highdicom import _standard_utils as tables
from dicomnode.selftest.bundles import write_bundle
from dicomnode.work.warm_up import warm_up
from inference.registry import find_bundles
from tests.dicomnode.encode.situations import situation

folder = pathlib.Path(sys.argv[1])
write_bundle(folder / "models" / "threshold")
made = situation("axial", folder)
(bundle,) = find_bundles(folder / "models").bundles.values()
maps = (tables.get_sop_class_iod_map, tables.get_iod_module_map, tables.get_module_attribute_map)
assert not all(table.cache_info().currsize for table in maps), "loaded without a first use"
warm_up(bundle)
before, misses = set(sys.modules), [table.cache_info().misses for table in maps]
made.encode()
assert not set(sys.modules) - before, set(sys.modules) - before
assert misses == [table.cache_info().misses for table in maps] == [1, 1, 1], misses
"""


def test_after_it_a_job_loads_nothing_more(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_a_worker_does_it_before_its_first_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = ModelSettings(folder=tmp_path / "models")
    settings = settings_in(tmp_path).model_copy(update={"models": models})
    stopping, warmed = threading.Event(), list[str]()
    write_bundle(settings.models.folder / "threshold")
    database = migrated_database(settings)

    def note(bundle: ModelBundle) -> None:
        warmed.append(bundle.card.name)
        stopping.set()

    monkeypatch.setattr(dicomnode.work.worker, "warm_up", note)
    monkeypatch.setattr(Worker, "work_one", lambda _: pytest.fail("a job before") if not warmed else False)
    registry = find_bundles(settings.models.folder)
    worker = Worker(settings, database, registry, LocalEngine("cpu"))
    running = threading.Thread(target=worker.run, args=(stopping,))
    running.start()
    running.join(60.0)
    stopping.set()
    running.join()
    assert warmed == ["threshold"]
    assert gc.get_freeze_count(), "what was loaded is looked at by the collector in the middle of a job"
    gc.unfreeze()
