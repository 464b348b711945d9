"""Bytes on the listening socket of a real receiver: after each, it must still answer a C-ECHO."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from pydicom.errors import InvalidDicomError
from sqlalchemy import select

from dicomnode.config import load_settings
from dicomnode.deliver.sender import echo, send
from dicomnode.errors import TransientError
from dicomnode.records.db import Database, migrate
from dicomnode.records.tables import InstanceRow
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.node import PeerSettings, Settings
from dicomnode.study import read_instance
from tests.dicomnode.faulty_line import Fault, FaultyLine
from tests.dicomnode.parts import image, save, write_config
from tests.fuzz.mutate import mutate

ANSWER_TIMEOUT_S = 0.2
START_TIMEOUT_S = 120.0
ECHO_EVERY = 20
Count = Callable[[int, str, float, int], None]


class _Recording(FaultyLine):
    """Keeps what a sender says, as a good conversation to begin with."""

    def __init__(self, peer_port: int) -> None:
        super().__init__(peer_port, Fault())
        self.said = bytearray()

    def _to_peer(self, node: socket.socket, peer: socket.socket) -> None:
        while chunk := node.recv(65536):
            self.said += chunk
            peer.sendall(chunk)


def attack_receiver(first_seed: int, count: int, tell: Count) -> None:
    """Send `count` changed conversations; tell what became of each."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        config = write_config(folder, port=port)
        settings = load_settings(config)
        migrate(Database(settings.database_url))
        node = PeerSettings(name="node", ae_title=settings.node.ae_title, host="127.0.0.1", port=port)
        command = [sys.executable, "-m", "dicomnode", "receive", "--config", str(config)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_until_it_answers(node, START_TIMEOUT_S)
            good = _conversation(node, folder)
            for seed in range(first_seed, first_seed + count):
                chance = random.Random(seed)
                started = time.monotonic()
                end = _say(port, mutate(good, chance))
                if seed % ECHO_EVERY == 0 and not _wait_until_it_answers(node, START_TIMEOUT_S):
                    end = "finding: the receiver answers no C-ECHO any more"
                if process.poll() is not None:
                    end = f"finding: the receiver died with {process.returncode}"
                tell(seed, end, time.monotonic() - started, _memory_bytes(process.pid))
                if process.poll() is not None:
                    return
            for problem in _unreadable(settings):
                tell(first_seed, f"finding: {problem}", 0.0, 0)
        finally:
            process.terminate()
            process.wait(60)


def _conversation(node: PeerSettings, folder: Path) -> bytes:
    """All that a sender says who stores one image."""
    line = _Recording(node.port)
    through = node.model_copy(update={"port": line.port})
    list(send("PACS", through, [save(image(), folder / "image.dcm")], 30.0))
    line.close()
    return bytes(line.said)


def _unreadable(settings: Settings) -> Iterator[str]:
    """What was acknowledged must be on the disk, whole and readable."""
    with Database(settings.database_url).snapshot() as session:
        for row in session.scalars(select(InstanceRow)):
            try:
                kept = read_instance(Path(row.path), row.sha256)
            except (InvalidDicomError, OSError) as error:
                yield f"{row.sop_instance_uid} was acknowledged and cannot be read back ({error})"
                continue
            if kept.sop_instance_uid != row.sop_instance_uid:
                yield f"{row.sop_instance_uid} was acknowledged and is another instance"


def _say(port: int, content: bytes) -> str:
    """Say it all, listen for a moment, hang up: "refused", or "taken" when the receiver goes on with it."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 10.0) as line:
        line.settimeout(ANSWER_TIMEOUT_S)
        line.sendall(content)
        while chunk := line.recv(65536):
            if chunk[0] in (0x03, 0x07):  # A-ASSOCIATE-RJ, A-ABORT
                return "refused"
        return "refused"
    return "taken"


def _wait_until_it_answers(node: PeerSettings, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(TransientError):
            echo("PACS", node)
            return True
        time.sleep(0.2)
    return False


def _memory_bytes(pid: int) -> int:
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return 0
