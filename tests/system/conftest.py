"""One running node for the tests that do not break it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.selftest.archive import Archive
from dicomnode.selftest.bundles import write_bundle
from tests.system.node import Node, archive_on_loopback


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Threshold models for CT and MR: real networks whose lesions are known exactly."""
    folder = tmp_path_factory.mktemp("models")
    large = {"smallest_lesion_mm3": 400.0}  # real images hold thousands of bright specks
    write_bundle(folder / "ct", name="threshold-ct", modality="CT", postprocessing=large)
    write_bundle(
        folder / "mr",
        name="threshold-mr",
        modality="MR",
        intensity_unit="arbitrary",
        preprocessing={"intensity": {"kind": "z_score"}},
        postprocessing=large,
        threshold=2.5,
    )
    return folder


@pytest.fixture(scope="session")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    archive = archive_on_loopback(tmp_path_factory.mktemp("pacs"))
    yield archive
    archive.stop()


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory, models: Path, pacs: Archive) -> Iterator[Node]:
    """A node with the small PACS as its peer."""
    routes = {"CT": "threshold-ct", "MR": "threshold-mr"}
    running = Node(tmp_path_factory.mktemp("node"), models, pacs.ae_title, pacs.port, routes).start()
    yield running
    running.stop()
