"""Writes what one run produced into a folder: DICOM objects, measurements, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dicomnode.encode.overlay import draw_lesion
from dicomnode.show.record import measurement_record
from dicomnode.work.pipeline import Findings, summarise


def write_results(findings: Findings, folder: Path) -> dict[str, Any]:
    """Write one file per object and one PNG per lesion; returns the measurements as JSON values."""
    folder.mkdir(parents=True, exist_ok=True)
    objects = {}
    for result in findings.results:
        name = result.kind if result.page == 1 else f"{result.kind}-{result.page}"
        path = folder / f"{name}.dcm"
        path.write_bytes(result.content)
        objects[name] = {
            "file": path.name,
            "sop_instance_uid": str(result.dataset.SOPInstanceUID),
            "sha256": result.sha256,
        }
    for measurement in findings.measurements:
        frame = findings.source.frames[measurement.key_slice]
        picture = draw_lesion(findings.source.volume, findings.lesion_map, measurement, frame)
        picture.save(folder / f"lesion-{measurement.number:02d}.png")
    series = findings.source.series
    return {
        "study_instance_uid": series.study_instance_uid,
        "series_instance_uid": series.series_instance_uid,
        **summarise(findings),
        "lesions": [measurement_record(m) for m in findings.measurements],
        "objects": objects,
    }
