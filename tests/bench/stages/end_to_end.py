"""A whole node between a sender and a real Orthanc: from the last image to committed results."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom import dcmread

from dicomnode.records.audit import Event
from dicomnode.records.tables import AuditRow
from dicomnode.selftest.bundles import write_bundle
from dicomnode.selftest.temporary import free_port
from tests.bench import chest_ct
from tests.bench.harness import AtMost, Case, Contender, Reading, Run, Setting, Span, Stage, run_program
from tests.bench.needs import program
from tests.system.node import AE_TITLE, Node, wait_for
from tests.system.orthanc import AE, Orthanc

WHAT = """\
A node as `dicomnode serve` starts it, and Orthanc as the PACS on both sides. Orthanc holds the study and
answers the C-FIND for its count; DCMTK's storescu sends the study to the node in its name. The clock starts
when the last image is received, and stops when Orthanc has committed to the segmentation and both
reports. The model is a network of two 1 x 1 convolutions, and its own seconds (stage "segment") are not
counted. The spans are read from the audit trail."""
LESIONS = 3
MODEL = "threshold"
GOAL_S = 1.0
QUIET_PERIOD_S = 30.0
"""As by default; the count tells sooner."""
RESULTS_TIMEOUT_S = 300.0
RESULTS = 3
"""A segmentation and two reports."""


def cases(setting: Setting) -> Iterator[Case]:
    """One CT; the goal is for two cores."""
    slices, side = setting.choose((20, 96), (300, 512), (300, 512))
    name = f"CT of {slices} slices, {LESIONS} lesions"
    needs = (program("storescu", "dcmtk"), program("Orthanc", "orthanc"))
    node = Contender("node", lambda: _running(setting.folder, slices, side), needs)
    yield Case(name, (node,), goals=(AtMost("node", GOAL_S, share=0.95),))


@contextmanager
def _running(folder: Path, slices: int, side: int) -> Iterator[Run]:
    warnings.simplefilter("ignore")
    template = chest_ct.write(
        chest_ct.volume(chest_ct.lesion_map(LESIONS, slices, side)), folder / "template"
    )
    write_bundle(folder / "models" / "ct", name=MODEL, preprocessing={"window_size": [side, side]})
    port = free_port()
    orthanc = Orthanc(folder / "orthanc", port, forward=False).start()
    try:
        node = Node(
            folder / "node", folder / "models", AE, orthanc.dicom_port, {"CT": MODEL},
            storage_commitment=True, port=port, quiet_period_s=QUIET_PERIOD_S,
        ).start()  # fmt: skip
        try:
            rounds = _Rounds(folder, template, orthanc, node)
            yield rounds.run
        finally:
            node.stop()
    finally:
        orthanc.stop()


@dataclass
class _Rounds:
    """Every round sends the same study under new UIDs."""

    folder: Path
    template: list[Path]
    orthanc: Orthanc
    node: Node
    number: int = 0

    def run(self) -> Reading:
        self.number += 1
        study_instance_uid, paths = _renamed(self.template, self.number, self.folder / "study")
        self.orthanc.upload(paths)
        titles = ["-aet", AE, "-aec", AE_TITLE]
        run_program(
            ["storescu", *titles, "127.0.0.1", str(self.node.port), *paths],
            {**os.environ, "TCP_NODELAY": "1"},
        )

        def committed() -> list[AuditRow] | None:
            delivered = self.node.events(
                study_instance_uid=study_instance_uid, event=Event.RESULT_DELIVERED.value
            )
            return delivered if len(delivered) == RESULTS else None

        wait_for(committed, "everything is committed", RESULTS_TIMEOUT_S)
        (study,) = self.node.studies(study_instance_uid=study_instance_uid)
        return _reading(study.last_received_at, self.node.events(study_instance_uid=study_instance_uid))


def _renamed(template: Sequence[Path], number: int, folder: Path) -> tuple[str, list[Path]]:
    """The files with other UIDs of the same length, and the Study Instance UID."""
    folder.mkdir(exist_ok=True)
    first = dcmread(template[0], stop_before_pixels=True)
    shared = (str(first.StudyInstanceUID), str(first.SeriesInstanceUID))
    paths = []
    for path in template:
        content = path.read_bytes()
        for uid in (*shared, str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)):
            content = content.replace(uid.encode(), _numbered(uid, number).encode())
        paths.append(folder / path.name)
        paths[-1].write_bytes(content)
    return _numbered(shared[0], number), paths


def _numbered(uid: str, number: int) -> str:
    return f"{uid[:-4]}{number:04d}"


def _reading(began: datetime, events: Sequence[AuditRow]) -> Reading:
    """The spans of a study since its last image came, and their sum without the model's."""

    def since(at: datetime) -> float:
        return (at - began).total_seconds()

    def last(event: Event) -> float:
        return max(since(row.at) for row in events if row.event == event)

    recorded = last(Event.INSTANCE_RECEIVED)
    completed, created, started = map(last, (Event.STUDY_COMPLETED, Event.JOB_CREATED, Event.JOB_STARTED))
    succeeded, stored, delivered = map(
        last, (Event.JOB_SUCCEEDED, Event.RESULT_STORED, Event.RESULT_DELIVERED)
    )
    stages = [
        Span(row.detail["stage"], since(row.at) - float(row.detail["duration_s"]), since(row.at))
        for row in events
        if row.event == Event.STAGE_FINISHED
    ]
    spans = (
        Span("recording", 0.0, recorded),
        Span("count asked for", recorded, completed),
        Span("routing", completed, created),
        Span("waiting for a worker", created, started),
        Span("headers", started, stages[0].start_s),
        *stages,
        Span("storing results", stages[-1].end_s, succeeded),
        Span("sending", succeeded, stored),
        Span("commitment", stored, delivered),
    )
    model_s = sum(span.end_s - span.start_s for span in stages if span.name == "segment")
    figures = {f"{span.name} (s)": span.end_s - span.start_s for span in spans}
    return Reading(delivered - model_s, figures, spans)


STAGE = Stage("end_to_end", "End to end", WHAT, cases, rounds=20)
