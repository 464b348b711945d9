"""Programs of others that judge segmentations and reports, as far as they are installed.

They see what they see: none notices a segmentation that is shifted against its images. What leaves the
node is held against its source by `dicomnode.encode.verify` first.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydicom import dcmread

TIME_LIMIT_S = 120
PIXELMED_JAR = Path("/usr/share/java/pixelmed.jar")
"""Where Debian's libpixelmed-java puts it."""
PIXELMED = [
    "-XX:TieredStopAtLevel=1",  # for one file, compiling better costs more than it saves
    "-XX:+UseSerialGC",
    *(f"-Djdk.xml.xpath{limit}Limit=0" for limit in ("ExprOp", "TotalOp", "ExprGrp")),
    "-cp",
    str(PIXELMED_JAR),
    "com.pixelmed.validate.DicomSRValidator",
]
COMPLAINT = re.compile(r"^(Error.*|E: .*)$", re.MULTILINE)

State = Literal["passed", "failed", "not installed"]


@dataclass(frozen=True)
class Validator:
    """A program, what it judges, and how it is called."""

    name: str
    program: str
    modality: Literal["SEG", "SR"] | None
    """None: both."""
    arguments: Callable[[Path, Path], Sequence[str | Path]]
    """Of the file and of an empty folder that the program may write into."""
    exit_code_tells: bool = True
    """Whether a failure shows in the exit code; dciodvfy and PixelMed tell by their lines only."""
    ends_with: str | None = None
    """What it says last; without it, it did not come to an end."""
    needs: Path | None = None
    needs_place: bool = False
    """Whether it can only read what has a frame of reference; ultrasound images have none."""


@dataclass(frozen=True)
class Verdict:
    """What one program says of one file."""

    path: Path
    validator: str
    state: State
    complaints: tuple[str, ...] = ()


VALIDATORS = (
    Validator("dciodvfy", "dciodvfy", None, lambda path, _: ["-new", path], exit_code_tells=False),
    Validator("DCMTK dsrdump", "dsrdump", "SR", lambda path, _: [path]),
    Validator("DCMTK dsr2xml", "dsr2xml", "SR", lambda path, _: [path]),
    Validator(
        "PixelMed",
        "java",
        "SR",
        lambda path, _: [*PIXELMED, path],
        exit_code_tells=False,
        ends_with="IOD validation complete",
        needs=PIXELMED_JAR,
    ),
    Validator(
        "dcmqi segimage2itkimage",
        "segimage2itkimage",
        "SEG",
        lambda path, scratch: ["--inputDICOM", path, "--outputDirectory", scratch, "-t", "nrrd"],
        needs_place=True,
    ),
    Validator(
        "dcmqi tid1500reader",
        "tid1500reader",
        "SR",
        lambda path, scratch: ["--inputDICOM", path, "--outputMetadata", scratch / "metadata.json"],
    ),
)


def judge(path: Path, modality: str) -> Iterator[Verdict]:
    """What each program that judges this modality says of the file."""
    placed = "FrameOfReferenceUID" in dcmread(path, specific_tags=["FrameOfReferenceUID"])
    for validator in VALIDATORS:
        if validator.modality in (None, modality) and (placed or not validator.needs_place):
            yield _verdict(validator, path)


def _verdict(validator: Validator, path: Path) -> Verdict:
    program = _find(validator.program)
    if program is None or (validator.needs is not None and not validator.needs.exists()):
        return Verdict(path, validator.name, "not installed")
    with tempfile.TemporaryDirectory() as scratch:
        command = [program, *map(str, validator.arguments(path.absolute(), Path(scratch)))]
        try:
            said = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False, timeout=TIME_LIMIT_S
            )
        except subprocess.TimeoutExpired:
            return Verdict(path, validator.name, "failed", (f"no answer within {TIME_LIMIT_S} s",))
    complaints = tuple(match.strip() for match in COMPLAINT.findall(said.stdout + said.stderr))
    if validator.exit_code_tells and said.returncode != 0:
        complaints = complaints or (f"exit code {said.returncode}",)
    elif validator.exit_code_tells:
        complaints = ()  # it warned, and read the file all the same
    elif validator.ends_with and validator.ends_with not in said.stdout + said.stderr:
        complaints = complaints or (f"ended before it said {validator.ends_with!r}",)
    return Verdict(path, validator.name, "failed" if complaints else "passed", complaints)


def _find(program: str) -> str | None:
    """On the path, or beside the interpreter, where Python packages put theirs."""
    return shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
