"""Cornerstone's adapters, with which OHIF reads, make of our objects what was measured; under Node alone.

Square pixels, as in test_ohif.py. The report of volumes is not given to them: the viewer joins its groups
with those of the other report by their tracking UIDs first, and test_ohif.py shows what comes of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicomnode.encode.parts import parts_of
from dicomnode.encode.uids import tracking_uid
from inference.measure import Axis
from tests.dicomnode.encode.situations import Situation, saved, written
from tests.phantoms import Orientation
from tests.real_parts import require_file, require_program

pytestmark = pytest.mark.real_parts

INSTALLED = Path(__file__).parents[2] / ".cache" / "adapters"
SCRIPT = Path(__file__).with_name("adapters.mjs")
PIXEL_MM = 2.0


def read_by_adapters(images: Path, *objects: Path) -> list[dict[str, Any]]:
    """What the adapters say of each object."""
    node = require_program("node")
    require_file(INSTALLED / "node_modules" / "@cornerstonejs" / "adapters" / "package.json")
    # Node looks for packages beside the script; other tests may run theirs.
    script = INSTALLED / f"{os.getpid()}.mjs"
    shutil.copy(SCRIPT, script)
    try:
        said = subprocess.run(
            [node, script, str(images), *map(str, objects)],
            capture_output=True, text=True, timeout=240, check=True,
        )  # fmt: skip
    finally:
        script.unlink()
    return [json.loads(line) for line in said.stdout.splitlines() if line.startswith('{"path"')]


def expected_voxels(made: Situation) -> dict[str, dict[str, int]]:
    """Voxels of each segment by source image."""
    uids = [frame.instance.sop_instance_uid for frame in made.source.frames]
    counts: dict[str, dict[str, int]] = {}
    for lesion in made.lesion_map.lesions:
        by_slice = np.count_nonzero(made.lesion_map.values == lesion.number, axis=(1, 2))
        counts[str(lesion.number)] = {uids[i]: int(n) for i, n in enumerate(by_slice) if n}
    return counts


@pytest.mark.parametrize(("orientation", "modality"), [("sagittal", "CT"), ("oblique", "MR")])
def test_the_adapters_read_voxels_labels_and_diameters(
    tmp_path: Path, orientation: Orientation, modality: str
) -> None:
    images = tmp_path / "source"
    made = written(images, orientation, modality=modality, spacing_mm=(6.0, PIXEL_MM, PIXEL_MM))
    paths = saved(made, tmp_path)
    seg, report = read_by_adapters(images, paths["seg"], paths["sr_measurements"])
    assert len(parts_of(made.lesion_map)) == 1
    assert seg["voxels"] == expected_voxels(made)
    assert seg["labels"] == [f"Lesion {m.number}: {m.label.name}" for m in made.measurements]
    assert seg["overlapping"] is False
    tools = {tool["uid"]: tool for tool in report["tools"]}
    assert set(tools) == {tracking_uid(made.context, m.number) for m in made.measurements}
    for m in made.measurements:
        check_diameters(tools[tracking_uid(made.context, m.number)], m.long_axis, m.short_axis, made)


def check_diameters(tool: dict[str, Any], long_axis: Any, short_axis: Any, made: Situation) -> None:
    """An editable tool with both lengths, and its ends in the patient where they were measured."""
    assert isinstance(long_axis, Axis)
    assert isinstance(short_axis, Axis)
    assert (tool["tool"], tool["unit"]) == ("Bidirectional", "mm")
    assert tool["length"] == pytest.approx(long_axis.length.value, rel=1e-5)
    assert tool["width"] == pytest.approx(short_axis.length.value, rel=1e-5)
    points = np.array(tool["points"])
    for axis, ends in ((long_axis, points[:2]), (short_axis, points[2:])):
        assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(axis.length.value, rel=1e-4)
        for end, (row, column) in zip(ends, (axis.start, axis.end), strict=True):
            place = made.source.volume.to_lps_mm(np.array([axis.slice_index, row, column]))
            assert np.linalg.norm(end - place) < PIXEL_MM  # cornerstone counts from the corner of a pixel
