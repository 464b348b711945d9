"""HAProxy as deploy/haproxy/haproxy.cfg sets it up, on loopback."""

from __future__ import annotations

import csv
import socket
import subprocess
from pathlib import Path

from dicomnode.selftest.temporary import free_port
from tests.real_parts import require_program
from tests.system.node import wait_for

SHIPPED = Path(__file__).parents[2] / "deploy/haproxy/haproxy.cfg"
ADDRESS = "127.0.0.3"
"""Where the load balancer calls from; senders call it from 127.0.0.1."""


class Balancer:
    """A running load balancer in front of receivers, by the names of the shipped file."""

    def __init__(self, folder: Path, receivers: dict[str, int]) -> None:
        self.port = free_port()
        self._admin = folder / "admin.sock"
        config = folder / "haproxy.cfg"
        config.write_text(self._configuration(receivers))
        self._process = subprocess.Popen([require_program("haproxy"), "-db", "-f", config])
        wait_for(
            lambda: set(self._column("status").values()) == {"UP"}, "the load balancer sees its receivers"
        )

    def _configuration(self, receivers: dict[str, int]) -> str:
        text = SHIPPED.read_text()
        changes = {
            "/run/haproxy/admin.sock": str(self._admin),
            "bind :11112": f"bind 127.0.0.1:{self.port}",
            "inter 2s": f"inter 200ms source {ADDRESS}",
            **{
                f"server {name} receiver-{number}:11112": f"server {name} 127.0.0.1:{port}"
                for number, (name, port) in enumerate(receivers.items(), start=1)
            },
        }
        for shipped, ours in changes.items():
            assert text.count(shipped) == 1, shipped
            text = text.replace(shipped, ours)
        return text

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def drain(self, name: str) -> None:
        """Send nothing new there, and wait until what is there has ended."""
        self._ask(f"set server receivers/{name} state drain")
        wait_for(lambda: self._column("scur")[name] == "0", f"receiver {name} is drained")

    def ready(self, name: str) -> None:
        """Send there again, once the new one answers."""
        wait_for(lambda: self._column("status")[name] == "DOWN", f"the old receiver {name} is gone")
        self._ask(f"set server receivers/{name} state ready")
        wait_for(lambda: self._column("status")[name] == "UP", f"receiver {name} is up")

    def sessions(self) -> dict[str, int]:
        """Connections that each receiver has got so far."""
        return {name: int(count) for name, count in self._column("stot").items()}

    def _column(self, column: str) -> dict[str, str]:
        try:
            text = self._ask("show stat").removeprefix("# ")
        except OSError:  # it is starting
            return {}
        rows = csv.DictReader(text.splitlines())
        return {
            row["svname"]: row[column]
            for row in rows
            if row["pxname"] == "receivers" and row["svname"] != "BACKEND"
        }

    def _ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(30)
            channel.connect(str(self._admin))
            channel.sendall(f"{command}\n".encode())
            answer = b""
            while more := channel.recv(65536):
                answer += more
        return answer.decode()
