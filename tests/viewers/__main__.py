"""`make viewer`: the demo's study and its results in OHIF, in your own browser."""

from __future__ import annotations

import signal
import tempfile
import webbrowser
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import pytest
import typer
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from rich.console import Console

from dicomnode.selftest.temporary import free_port
from tests.real_parts import require_file
from tests.system.orthanc import Orthanc
from tests.viewers.ohif import BUILT, served

OF_THE_DEMO = (Path("demo/study"), Path("demo/archive"))

console = Console(highlight=False, soft_wrap=True)


def view(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders with DICOM files of studies.")] = None,
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.")] = 8743,
    browse: Annotated[bool, typer.Option(help="Open the address in the default browser.")] = True,
) -> None:
    """Serve the studies in FOLDERS (default: those of the demo) in OHIF until Ctrl-C."""
    folders = folders or list(OF_THE_DEMO)
    files = {path: uid for folder in folders for path in folder.rglob("*") if (uid := _study_of(path))}
    if not files:
        console.print(f"no DICOM files in {', '.join(map(str, folders))}: run `make demo` first")
        raise typer.Exit(1)
    try:
        require_file(BUILT / "index.html")
        with _pacs_of(files) as orthanc, served(orthanc.http_port, port or free_port()) as address:
            page = f"{address}/viewer?StudyInstanceUIDs={','.join(sorted(set(files.values())))}"
            console.print(f"{page}\nDouble-click a result in the list on the left. Ctrl-C ends it.")
            if browse:
                webbrowser.open(page)
            _wait_for_ctrl_c()
    except pytest.skip.Exception as missing:
        console.print(f"{missing}: `make real-parts` installs it")
        raise typer.Exit(1) from None


@contextmanager
def _pacs_of(files: Iterable[Path]) -> Iterator[Orthanc]:
    with tempfile.TemporaryDirectory() as storage:
        orthanc = Orthanc(Path(storage), free_port(), forward=False, dicomweb=True).start()
        try:
            orthanc.upload(list(files))
            yield orthanc
        finally:
            orthanc.stop()


def _wait_for_ctrl_c() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have us ignore the first
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        signal.pause()


def _study_of(path: Path) -> str | None:
    """Study Instance UID of a file, None where it is no DICOM."""
    if not path.is_file():
        return None
    try:
        return str(dcmread(path, stop_before_pixels=True).StudyInstanceUID)
    except (InvalidDicomError, AttributeError):
        return None


if __name__ == "__main__":
    typer.run(view)
