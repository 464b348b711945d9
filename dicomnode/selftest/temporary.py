"""A node of its own on the loopback interface: `dicomnode serve` in a folder that is thrown away."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dicomnode.config import load_settings
from dicomnode.deliver.sender import echo
from dicomnode.errors import TransientError
from dicomnode.selftest.archive import Archive
from dicomnode.settings.database import DATABASE_URL
from dicomnode.settings.node import PeerSettings, Settings

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 90.0
PORTS = range(15000, 32768)
"""Linux gives connections those from 32768, other systems those from 49152."""
_given: deque[int] = deque(maxlen=1000)
CONFIGURATION = """\
[node]
ae_title = "SELFTEST"
host = "127.0.0.1"
port = {port}
data = "data"

[listener]
minimum_free_gb = 0.0

[[peer]]
name = "archive"
ae_title = "{archive}"
host = "127.0.0.1"
port = {archive_port}
may_send = true
count_instances = true

[worker]
devices = ["{device}"]

[models]
folder = "models"

[alerts]
minimum_free_gb = 0.0

[[route]]
name = "phantom"
model = "threshold"
destinations = ["archive"]
[route.when]
modality = "CT"
"""


def free_port() -> int:
    """A port on the loopback interface that nobody uses.

    It is none of those that the system gives to connections, one of which could take it before its use, and
    none that this process was given lately, and may not use yet.
    """
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.append(port)
                return port


def as_peer(settings: Settings) -> PeerSettings:
    """The node as others see it."""
    return PeerSettings(
        name="node", ae_title=settings.node.ae_title, host="127.0.0.1", port=settings.node.port
    )


@contextmanager
def own_database() -> Iterator[None]:
    """Meanwhile the environment, which goes before any configuration, names no database of a real node."""
    real = os.environ.pop(DATABASE_URL, None)
    try:
        yield
    finally:
        if real is not None:
            os.environ[DATABASE_URL] = real


@contextmanager
def running_node(folder: Path, archive: Archive, device: str) -> Iterator[Settings]:
    """Start the node and wait until it answers; stop it at the end.

    Raises TransientError with the end of its log when it does not start.
    """
    config, log = folder / "node.toml", folder / "node.log"
    config.write_text(
        CONFIGURATION.format(
            port=free_port(), archive=archive.ae_title, archive_port=archive.port, device=device
        )
    )
    settings = load_settings(config)
    command = [sys.executable, "-m", "dicomnode", "serve", "--config", str(config)]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        _wait_until_it_answers(process, archive, settings, log)
        yield settings
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(
    process: subprocess.Popen[bytes], archive: Archive, settings: Settings, log: Path
) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            echo(archive.ae_title, as_peer(settings))
            return
        except TransientError:
            time.sleep(0.2)
    end = " / ".join(log.read_text("utf-8", "replace").splitlines()[-3:])
    raise TransientError(f"the temporary node did not start: {end or 'it logged nothing'}")
