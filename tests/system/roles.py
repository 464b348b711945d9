"""One node as roles of their own, on several machines, of one version of the program or of two."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from dicomnode.selftest.archive import Archive
from tests.system.machines import Machine, signal_program
from tests.system.node import Node

ROOT = Path(__file__).parents[2]
STOP_TIMEOUT_S = 120.0
ONE_CORE = {"OMP_NUM_THREADS": "1"}


@dataclass
class Roles:
    """Every role of a node as a process of its own, as service managers would start them."""

    node: Node
    pacs: Archive
    machines: dict[str, Machine]
    """Role -> where it runs. A receiver is a role by its own name."""
    ports: dict[str, int]
    """Receiver -> port."""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, version: Path = ROOT) -> subprocess.Popen[bytes]:
        """Start a role, of the version in that folder."""
        config = self.node.config.with_name(f"{name}.toml")
        port = self.ports.get(name, self.node.port)
        text = self.node.config.read_text()
        config.write_text(text.replace(f"port = {self.node.port}\n", f"port = {port}\n"))
        role = "receive" if name in self.ports else name
        command = [sys.executable, "-m", "dicomnode", role, "--config", str(config)]
        environment = {**os.environ, **ONE_CORE, "PYTHONPATH": str(version)}
        self.running[name] = self.machines[name].run(command, environment, version, self.node.log)
        return self.running[name]

    def replace(self, name: str) -> int:
        """Stop a role, and start it anew; the exit status of the old one."""
        status = stop(self.running[name])
        self.start(name)
        return status


def stop(process: subprocess.Popen[bytes]) -> int:
    """Ask a role to end, and once more, since older versions did not always hear it: its exit status."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while True:
        signal_program(process, signal.SIGTERM)
        try:
            return process.wait(STOP_TIMEOUT_S / 2)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise
