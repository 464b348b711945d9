"""A sending modality: DCMTK's storescu, which says of every image whether it was acknowledged."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.filereader import read_file_meta_info

from tests.crash.invariants import data_set_digest
from tests.real_parts import require_program

SENDING = re.compile(r"Sending file: (.+)$")
ANSWER = re.compile(r"Received Store Response \((.+)\)")
SUCCESS = "Received Store Response (Success)"
TIMEOUT_S = 120


@dataclass
class Study:
    """A study that is being sent, and what of it has been acknowledged."""

    study_instance_uid: str
    paths: tuple[Path, ...]
    acknowledged: set[Path] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)
    """What the sender was answered, in the words of storescu, and how often."""

    @property
    def missing(self) -> list[Path]:
        """What the sender must send (again)."""
        return [path for path in self.paths if path not in self.acknowledged]

    def digests(self) -> dict[str, str]:
        """SOP Instance UID -> digest of the data set, of what was acknowledged."""
        return {
            str(read_file_meta_info(path).MediaStorageSOPInstanceUID): data_set_digest(path.read_bytes())
            for path in self.acknowledged
        }


def store(study: Study, calling_ae_title: str, called_ae_title: str, port: int) -> None:
    """Send what is missing over one association; it may break at any time."""
    program = require_program("storescu")
    command = [program, "-v", "-aet", calling_ae_title, "-aec", called_ae_title, "-to", "30", "-td", "60"]
    ran = subprocess.run(
        [*command, "127.0.0.1", str(port), *map(str, study.missing)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
        check=False,
    )
    output = ran.stdout + ran.stderr
    study.acknowledged |= set(acknowledged(output))
    study.answers.update(ANSWER.findall(output))


def acknowledged(output: str) -> list[Path]:
    """The files that storescu says it got a success for."""
    found, current = [], None
    for line in output.splitlines():
        if match := SENDING.search(line):
            current = Path(match.group(1))
        elif SUCCESS in line and current is not None:
            found.append(current)
            current = None
    return found
