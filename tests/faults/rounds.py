"""Sends studies while disk and database of the node fail, and asks the independent checker afterwards.

The process that is about to write is stopped at a point of the crash explorer, the fault begins, the
process goes on into it, and the fault ends. The data folder is a small file system, so that it can be full.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.crash.explorer import Lane
from tests.crash.points import KillPoint
from tests.faults.faults import Fault
from tests.faults.mounting import mount_small, unmount
from tests.real_parts import require_program
from tests.system.node import wait_for

SIZE_MB = 512
SMALLEST_MARK_GB = 1e-9
"""The low mark of free space is one byte: it is the writes that are to fail, not the watermark."""
MAY_BE_ANSWERED = {"Success", "Refused: OutOfResources", "Unknown Status: 0x110"}
"""C-STORE statuses 0000, A700 and 0110, as storescu calls them."""


@dataclass(frozen=True)
class Trouble:
    """One study, with one fault at each of these points in turn."""

    fault: Fault
    points: tuple[KillPoint, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of it."""

    trouble: Trouble
    noticed: tuple[str, ...]
    """Points at which the process complained in its log while the fault lasted."""
    answers: dict[str, int]
    """What the sender was answered, and how often."""
    complaints: tuple[str, ...]
    duration_s: float


@dataclass
class TroubledLane(Lane):
    """A lane whose data folder is a small file system, and whose node may not override permissions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.node.minimum_free_gb = SMALLEST_MARK_GB
        self.node.through = (
            require_program("setpriv"), "--bounding-set=-dac_override,-dac_read_search,-fowner",
        )  # fmt: skip

    @property
    def data(self) -> Path:
        """The node's data folder."""
        return self.node.folder / "data"

    def open(self) -> TroubledLane:
        """Make the file system and start the PACS. Raises PermissionError where none may be mounted."""
        if not mount_small(self.data, SIZE_MB):
            raise PermissionError("only root may mount the small disk that this fills up")
        super().open()
        return self

    def close(self) -> None:
        """Stop everything."""
        super().close()
        unmount(self.data)

    def disturb(self, trouble: Trouble) -> Outcome:
        """Send one study, with the fault at each point in turn, wait for rest, and judge."""
        started, noticed = time.monotonic(), []
        self.revive()
        wait_for(self.node.answers, "the node answers", self.patience_s)
        for point in trouble.points:
            self.arm(point, "pause")
        study = self._new_study()
        sender = threading.Thread(target=self._deliver, args=(study,), daemon=True)
        sender.start()
        problems = []
        try:
            for point in trouble.points:
                if self._meet(trouble.fault, point):
                    noticed.append(point.name)
            sender.join(self.patience_s)
            self.wait_for_rest(study)
        except AssertionError as error:
            problems.append(str(error))
        answers = dict(study.answers)
        problems += [f"answered {answer!r}" for answer in set(answers) - MAY_BE_ANSWERED]
        problems += self.judge()
        for point in trouble.points:
            self._fired_file(point).unlink(missing_ok=True)
        return Outcome(
            trouble, tuple(noticed), answers, tuple(problems), round(time.monotonic() - started, 1)
        )

    def _meet(self, fault: Fault, point: KillPoint) -> bool:
        """Let the process at the point run into the fault. Returns whether its log tells of trouble."""
        wait_for(lambda: self._fired(point), f"a process stops at {point.name}", self.patience_s)
        pid, seen = self.node.process_of(point.role), self.node.log.stat().st_size
        wait_for(lambda: _is_stopped(pid), f"{point.role} has stopped")
        fault.begin(self.data, pid)
        try:
            os.kill(pid, signal.SIGCONT)
            begun = time.monotonic()
            told = False
            while time.monotonic() < begun + (fault.lasts_s if told else fault.patience_s):
                told = told or self._complained(point.role, seen)
                time.sleep(0.05)
        finally:
            fault.end()
        return told

    def _complained(self, role: str, seen: int) -> bool:
        """Whether a process of this role logged a warning or an error behind byte `seen` of the log."""
        with self.node.log.open("rb") as log:
            log.seek(seen)
            lines = log.read().splitlines()
        return any(_is_complaint(line, role) for line in lines)


def _is_complaint(line: bytes, role: str) -> bool:
    try:
        told: Any = json.loads(line)
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("role") == role and told.get("level") in ("warning", "error")


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
