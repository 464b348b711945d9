"""Before each success is answered, everything of that image is on the disk: seen in the system calls.

SIGKILL cannot show this, because the operating system goes on writing. Here strace follows a running
receiver: what was written, renamed or made must have been synced when the answer leaves.
Not covered: a disk that says it has written and has not.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from dicomnode.selftest.temporary import free_port
from dicomnode.series_writer import SeriesIdentity, write_series
from tests.crash.sender import Study, store
from tests.phantoms import phantom
from tests.real_parts import require_program
from tests.system.node import AE_TITLE, Node, wait_for

WATCHED = "write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,sendto,sendmsg"
IMAGES = 4
P_DATA_TF = r'"\4\0'
"""How the PDU that carries a response begins (PS3.8 section 9.3.5)."""
IN_MEMORY = ("-shm", ".log")
"""SQLite makes its shared memory anew; the log is no promise."""
CALL = re.compile(r"^(?P<name>\w+)\((?P<arguments>.*)\)\s+= (?P<result>-?\d+)")
UNFINISHED = " <unfinished ...>"


@dataclass
class Disk:
    """What of a data folder would not survive a loss of power, after the calls seen so far."""

    folder: Path
    dirty: set[str] = field(default_factory=set)
    renamed: list[str] = field(default_factory=list)
    """Files that got their final names since the last answer."""

    def see(self, name: str, arguments: str) -> None:
        """Take one successful call into account."""
        descriptor = re.match(r"\d+<(.+?)>", arguments)
        paths = [Path(path) for path in re.findall(r'"(/.*?)"', arguments)]
        if name in ("fsync", "fdatasync") and descriptor:
            self.dirty.discard(descriptor[1])
        elif name in ("write", "writev", "pwrite64") and descriptor:
            self._soil(Path(descriptor[1]))
        elif name.startswith("mkdir"):
            self._soil(paths[0].parent)
        elif name.startswith("rename"):
            old, new = paths
            self._soil(new.parent)
            if str(old) in self.dirty:
                self.dirty.remove(str(old))
                self._soil(new)
            if new.suffix == ".dcm":
                self.renamed.append(new.name)

    def _soil(self, path: Path) -> None:
        if path.is_relative_to(self.folder.parent) and not path.name.endswith(IN_MEMORY):
            self.dirty.add(str(path))


def calls(trace: str) -> Iterator[tuple[str, str]]:
    """Name and arguments of every successful call, in the order in which they returned."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        process, _, text = line.partition(" ")
        text = text.lstrip()
        if text.endswith(UNFINISHED):
            begun[process] = text.removesuffix(UNFINISHED)
            continue
        if text.startswith("<... "):
            text = begun.pop(process, "") + text.partition(" resumed>")[2]
        match = CALL.match(text)
        if match and int(match["result"]) >= 0:
            yield match["name"], match["arguments"]


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[str]:
    """The system calls of a receiver that took a few images from a real sender."""
    strace = require_program("strace")
    node = Node(tmp_path / "node", tmp_path, "PACS", free_port(), {"CT": "threshold"})
    follow = [strace, "-f", "-y", "-s", "2", "-e", f"trace={WATCHED}", "-o", str(tmp_path / "trace")]
    node.write_configuration()
    receiver = node.run("receive", *follow)
    wait_for(node.answers, "the receiver answers", 120)
    identity = SeriesIdentity(study_instance_uid=generate_uid())
    volume = phantom(spacing_mm=(96.0 / IMAGES, 2.0, 2.0)).volume
    study = Study(identity.study_instance_uid, tuple(write_series(volume, tmp_path / "sent", identity)))
    store(study, "PACS", AE_TITLE, node.port)
    assert study.missing == []
    os.killpg(receiver.pid, signal.SIGTERM)
    receiver.wait(60)
    yield (tmp_path / "trace").read_text(errors="replace")


@pytest.mark.slow
@pytest.mark.real_parts
def test_nothing_is_answered_that_a_loss_of_power_could_take_back(trace: str, tmp_path: Path) -> None:
    disk, answers = Disk(tmp_path / "node" / "data"), 0
    for name, arguments in calls(trace):
        if disk.renamed and name in ("sendto", "sendmsg") and P_DATA_TF in arguments:
            assert disk.dirty == set(), f"not synced before answer {answers + 1}"
            answers += len(disk.renamed)
            disk.renamed.clear()
        disk.see(name, arguments)
    assert answers == IMAGES


def test_a_write_that_is_not_synced_is_seen() -> None:
    disk = Disk(Path("/data"))
    disk.see("write", '3</data/a.part>, "..", 2')
    disk.see("rename", '"/data/a.part", "/data/a.dcm"')
    assert disk.dirty == {"/data", "/data/a.dcm"}
    disk.see("fsync", "3</data/a.dcm>")
    disk.see("fsync", "4</data>")
    assert disk.dirty == set()


def test_calls_that_others_interrupt_count_when_they_return() -> None:
    lines = ("1 fsync(3</a> <unfinished ...>", "2 fsync(4</b>) = 0", "1 <... fsync resumed>) = 0",
             "2 fsync(5</c>) = -1 EIO (Input/output error)")  # fmt: skip
    assert list(calls("\n".join(lines))) == [("fsync", "4</b>"), ("fsync", "3</a>")]
