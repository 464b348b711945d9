"""`python -m dicomnode.demo`: a study goes from an archive through the node and back, for all to see."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from pydicom import Dataset, dcmread
from rich.console import Console
from rich.markup import escape
from sqlalchemy import select

from dicomnode.commands.files import lesion_table
from dicomnode.config import load_settings
from dicomnode.deliver.answers import Fate
from dicomnode.deliver.sender import echo
from dicomnode.demo.cases import Case, real_case, synthetic_case
from dicomnode.encode.overlay import draw_lesion
from dicomnode.errors import NodeError, PermanentError, TransientError
from dicomnode.read.volumes import read_volume
from dicomnode.records.db import Database
from dicomnode.records.states import DeliveryState, JobState
from dicomnode.records.tables import DeliveryRow, JobRow
from dicomnode.selftest.archive import Archive
from dicomnode.selftest.temporary import free_port, own_database
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.settings.node import PeerSettings, Settings
from dicomnode.show.record import measurement_record
from dicomnode.show.returned import lesions_of
from dicomnode.study import group_studies, read_instance
from inference.measure import measure_lesions
from inference.registry import find_bundles

MODEL = "ct-lung-nodule"
AE_TITLE = "DEMONODE"
START_TIMEOUT_S = 60.0
RESULT_TIMEOUT_S = 280.0
CACHE = Path(".cache/demo")

console = Console(highlight=False, soft_wrap=True)


@own_database()
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for everything the demo makes; takes the place of an earlier demo.")
    ] = Path("demo"),
    models: Annotated[Path, typer.Option(help="Folder of the model bundles.")] = Path("config/models"),
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Use the synthetic chest.")] = False,
) -> None:
    """Send a chest CT through a real node and show what comes back."""
    _make_room(out)
    archive = Archive("DEMOPACS", free_port(), out / "archive")
    settings = _write_configuration(out, models, archive)
    case = synthetic_case() if synthetic else _case()
    identity = SeriesIdentity(
        patient_id="DEMO-0001", patient_name="Demo^Chest", series_description="Chest CT"
    )
    paths = write_series(case.volume, out / "study", identity)
    console.print(f"[bold]1.[/] {case.title}: {len(paths)} images written to {out / 'study'}")

    archive.add(paths)
    archive.start()
    node = _start_node(out)
    try:
        _forward(archive, settings)
        _wait_for_results(settings)
    finally:
        node.terminate()
        node.wait(60)
        archive.stop()
    console.print("\n[bold]3.[/] what the audit trail says\n")
    _dicomnode("audit", "show", identity.study_instance_uid, "--config", str(out / "node.toml"))
    _show_results(case, archive, out, models)


def _make_room(out: Path) -> None:
    """An empty folder. Raises PermanentError when anything but an earlier demo is in the way."""
    config = out / "node.toml"
    is_demo = config.is_file() and f'ae_title = "{AE_TITLE}"' in config.read_text("utf-8", "replace")
    if out.exists() and not is_demo and not (out.is_dir() and not any(out.iterdir())):
        raise PermanentError(
            f"{out} is not of an earlier demo; empty it yourself, or name another with --out"
        )
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)


def _case() -> Case:
    try:
        with console.status("getting a real chest CT (34 MB, once) ..."):
            return real_case(CACHE)
    except (OSError, subprocess.SubprocessError, KeyError) as error:
        console.print(f"the real chest CT cannot be had ({type(error).__name__}); using the synthetic one")
        return synthetic_case()


def _write_configuration(out: Path, models: Path, archive: Archive) -> Settings:
    config = out / "node.toml"
    config.write_text(
        f"""\
[node]
ae_title = "{AE_TITLE}"
host = "127.0.0.1"
port = {free_port()}
data = "node"

[listener]
minimum_free_gb = 0.5

[[peer]]
name = "DEMOPACS"
ae_title = "{archive.ae_title}"
host = "127.0.0.1"
port = {archive.port}
may_send = true
count_instances = true

[models]
folder = "{models.resolve()}"

[[route]]
name = "CT chest: lung nodules"
model = "{MODEL}"
destinations = ["DEMOPACS"]
[route.when]
modality = "CT"
body_part_examined = "chest"
orientation = "axial"
""",
        "utf-8",
    )
    return load_settings(config)


def _start_node(out: Path) -> subprocess.Popen[bytes]:
    log = (out / "node.log").open("wb")
    command = [sys.executable, "-m", "dicomnode", "serve", "--config", str(out / "node.toml")]
    return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TCP_NODELAY": "1"})


def _forward(archive: Archive, settings: Settings) -> None:
    node = PeerSettings(
        name="node", ae_title=settings.node.ae_title, host="127.0.0.1", port=settings.node.port
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    with console.status("starting the node ..."):
        while True:
            try:
                echo(archive.ae_title, node)
                break
            except TransientError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)
    responses = archive.forward(node)
    accepted = sum(response.fate is Fate.ACCEPTED for response in responses)
    console.print(f"[bold]2.[/] archive forwarded the study: {accepted} of {len(responses)} images accepted")
    if accepted < len(responses):
        raise TransientError(f"the node did not take all images: {responses[-1].status}")


def _wait_for_results(settings: Settings) -> None:
    """Until the job has ended and everything it made has been delivered."""
    database = Database(settings.database_url)
    deadline = time.monotonic() + RESULT_TIMEOUT_S
    started = time.monotonic()
    with console.status("waiting for the results ...") as status:
        while time.monotonic() < deadline:
            with database.snapshot() as session:
                job = session.scalar(select(JobRow).order_by(JobRow.id.desc()))
                states = set(session.scalars(select(DeliveryRow.state)))
            if job is not None and job.state == JobState.FAILED:
                raise TransientError(f"the job failed: {job.error}")
            done = {DeliveryState.DELIVERED.value}
            if job is not None and job.state == JobState.SUCCEEDED and states == done:
                console.print(f"   results are in the archive {time.monotonic() - started:.1f} s later")
                return
            status.update(f"waiting for the results: job {job.state if job else 'not yet made'} ...")
            time.sleep(0.1)
    raise TransientError(f"no results after {RESULT_TIMEOUT_S:.0f} s; demo/node.log has the reason")


def _show_results(case: Case, archive: Archive, out: Path, models: Path) -> None:
    received = [dcmread(path) for path in archive.results()]
    console.print("\n[bold]4.[/] what the archive received\n")
    for path in archive.results():
        console.print(f"   {path}")
    seg = next((dataset for dataset in received if dataset.Modality == "SEG"), None)
    if seg is None:
        console.print("   no lesion was seen, so there is a report and no segmentation")
        return
    _show_lesions(case, seg, out, models)


def _show_lesions(case: Case, seg: Dataset, out: Path, models: Path) -> None:
    """Everything from here on comes from the segmentation that the archive received."""
    studies = group_studies(read_instance(path) for path in sorted((out / "study").glob("*.dcm")))
    source = read_volume(studies[0].series[0])
    lesion_map = lesions_of(seg, source, find_bundles(models).find(MODEL).card.labels)
    measurements = measure_lesions(lesion_map, source.volume)
    console.print()
    console.print(lesion_table([measurement_record(measurement) for measurement in measurements]))
    for measurement in measurements:
        frame = source.frames[measurement.key_slice]
        picture = draw_lesion(source.volume, lesion_map, measurement, frame)
        picture.save(out / f"lesion-{measurement.number:02d}.png")
    hits = [m for m in measurements if case.expert_mask[lesion_map.values == m.number].any()]
    found = np.isin(lesion_map.values, [m.number for m in hits])
    overlap = int(np.count_nonzero(found & case.expert_mask))
    total = int(np.count_nonzero(found)) + int(np.count_nonzero(case.expert_mask))
    if hits:
        numbers = ", ".join(str(m.number) for m in hits)
        console.print(f"\nthe expert's lesion was found as number {numbers}: Dice {2 * overlap / total:.2f}")
    else:
        console.print("\nthe expert's lesion was not found")
    console.print(f"{len(measurements) - len(hits)} further finding(s) that the expert did not mark")
    console.print(
        f"pictures: {out}/lesion-*.png   segmentation and reports: {out}/archive   node's log: {out}/node.log"
    )
    console.print("Research use only.")


def _dicomnode(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dicomnode", *arguments], check=True)


if __name__ == "__main__":
    try:
        typer.run(demo)
    except NodeError as error:
        console.print(f"[red]error:[/] {escape(str(error))}")
        sys.exit(1)
