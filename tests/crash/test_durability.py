"""Before each success is answered, everything of that image is on the disk: seen in the system calls.

SIGKILL cannot show this, because the operating system goes on writing. Here strace follows a running
receiver and its recorder: what was written to the journal must have been synced when the answer leaves, what
does not go by the journal as well, and everything before a journal is removed.
Not covered: a disk that says it has written and has not.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicomnode.selftest.temporary import free_port
from dicomnode.series_writer import SeriesIdentity, write_series
from tests.crash.sender import Study, store
from tests.phantoms import phantom
from tests.real_parts import require_program
from tests.system.node import AE_TITLE, Node, wait_for

WATCHED = (
    "write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,syncfs,rename,renameat,renameat2,mkdir,mkdirat,"
    "unlink,unlinkat,sendto,sendmsg"
)
IMAGES = 4
A_ASSOCIATE_AC = r'"\2\0'
P_DATA_TF = r'"\4\0'
"""How the PDU that carries a response begins (PS3.8 section 9.3.5)."""
WRITES = ("write", "writev", "pwrite64", "pwritev", "pwritev2")
ENTRY = r'"dc"'
"""How an entry begins, and the first page of a segment."""
IN_MEMORY = ("-shm", ".log")
"""SQLite makes its shared memory anew; the log is no promise."""
CALL = re.compile(r"^(?P<name>\w+)\((?P<arguments>.*)\)\s+= (?P<result>-?\d+)")
UNFINISHED = " <unfinished ...>"


@dataclass
class Disk:
    """What of a data folder would not survive a loss of power, after the calls seen so far."""

    folder: Path
    dirty: set[str] = field(default_factory=set)
    making: set[str] = field(default_factory=set)
    """Segments of a journal that are still being filled with zeros, and hold nothing."""
    journaled: int = 0
    """Entries that were written to a journal since the last answer."""
    pieces: int = 0
    """Of large images, written before their entries."""

    def see(self, name: str, arguments: str) -> None:
        """Take one successful call into account."""
        descriptor = re.match(r"\d+<(.+?)>", arguments)
        paths = [Path(path) for path in re.findall(r'"(/.*?)"', arguments)]
        if name in ("fsync", "fdatasync") and descriptor:
            self.dirty.discard(descriptor[1])
            self.making.discard(descriptor[1])
        elif name == "syncfs":
            self.dirty.clear()
        elif name == "write" and descriptor and descriptor[1].endswith(".journal"):
            self.making.add(descriptor[1])
        elif name in WRITES and descriptor:
            assert descriptor[1] not in self.making, "an entry in a segment that is not on the disk"
            self._soil(Path(descriptor[1]))
            if name == "pwrite64" and descriptor[1].endswith(".journal"):
                is_entry, is_start = ENTRY in arguments, arguments.endswith(", 0")
                self.journaled += is_entry and not is_start
                self.pieces += not is_entry
        elif name.startswith("mkdir"):
            self._soil(paths[0].parent)
        elif name.startswith("rename"):
            old, new = paths
            self._soil(new.parent)
            if str(old) in self.dirty:
                self.dirty.remove(str(old))
                self._soil(new)

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
    """The system calls of a receiver that took a few images from a real sender, and one of them altered."""
    strace = require_program("strace")
    node = Node(tmp_path / "node", tmp_path, "PACS", free_port(), {"CT": "threshold"})
    follow = [strace, "-f", "-y", "-s", "2", "-e", f"trace={WATCHED}", "-o", str(tmp_path / "trace")]
    node.write_configuration()
    receiver = node.run("receive", *follow)
    wait_for(node.answers, "the receiver answers", 120)
    identity = SeriesIdentity(study_instance_uid=generate_uid())
    volume = phantom(spacing_mm=(96.0 / IMAGES, 0.2, 0.2)).volume  # more than a piece each
    sent = write_series(volume, tmp_path / "sent", identity)
    _send(node, identity, sent)
    wait_for(lambda: len(node.events(event="instance_received")) == IMAGES, "all is recorded", 120)
    altered = dcmread(sent[0])
    altered.SeriesDescription = "Altered"
    altered.save_as(sent[0])
    _send(node, identity, sent[:1])
    os.killpg(receiver.pid, signal.SIGTERM)
    receiver.wait(60)
    yield (tmp_path / "trace").read_text(errors="replace")


def _send(node: Node, identity: SeriesIdentity, files: Sequence[Path]) -> None:
    study = Study(identity.study_instance_uid, tuple(files))
    store(study, "PACS", AE_TITLE, node.port)
    assert sum(study.answers.values()) == len(files)


@pytest.mark.slow
@pytest.mark.real_parts
def test_nothing_is_answered_that_a_loss_of_power_could_take_back(trace: str, tmp_path: Path) -> None:
    disk, by_journal, otherwise, removed = Disk(tmp_path / "node" / "data"), 0, 0, 0
    recorded: set[str] = set()
    for name, arguments in calls(trace):
        if by_journal and "journals" in arguments and name.startswith("unlink") and ".journal" in arguments:
            assert disk.dirty == set(), "not synced before the journal went"
            removed += 1
        if name in ("sendto", "sendmsg") and P_DATA_TF in arguments:
            if disk.journaled:
                assert [path for path in disk.dirty if "/journals" in path] == []
                by_journal, disk.journaled = by_journal + disk.journaled, 0
            elif by_journal:
                assert disk.dirty - recorded == set(), "not synced before the answer to an altered image"
                otherwise += 1
        elif name in ("sendto", "sendmsg") and A_ASSOCIATE_AC in arguments:
            # what the recorder wrote, the journal still holds
            recorded = {path for path in disk.dirty if not path.endswith("-wal")}
        disk.see(name, arguments)
    assert (by_journal, otherwise, disk.pieces) == (IMAGES, 1, IMAGES)
    assert removed == 2, "the segment in use, and the next one"


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
