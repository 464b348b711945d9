"""Several machines on one: each has a name, processes and mounts of its own; all share a network file system.

The file system is GlusterFS, a server with one brick and a client on each machine. They share the network and
the clock of the real machine. Needs root, and FUSE in the kernel.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from dicomnode.selftest.temporary import free_port
from tests.real_parts import require_program
from tests.system.node import children_of, wait_for

TIMEOUT_S = 120.0
SERVER = """\
volume disk
  type storage/posix
  option directory {brick}
end-volume
volume locked
  type features/locks
  subvolumes disk
end-volume
volume server
  type protocol/server
  option transport-type tcp
  option transport.socket.bind-address 127.0.0.1
  option transport.socket.listen-port {port}
  option auth.addr.locked.allow 127.0.0.1
  subvolumes locked
end-volume
"""
CLIENT = """\
volume server
  type protocol/client
  option transport-type tcp
  option remote-host 127.0.0.1
  option remote-port {port}
  option remote-subvolume locked
end-volume
volume buffered
  type performance/write-behind
  subvolumes server
end-volume
"""
BOOT = """\
set -eu
hostname "$1"
glusterfs --no-daemon --volfile="$2" --log-file="$3" "$4" &
exec sleep infinity
"""


APART = ("--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
FUSE = Path("/dev/fuse")


def require_namespaces() -> None:
    """Skip the test where the kernel, or who runs it, cannot make machines: no program to install helps."""
    if not os.access(FUSE, os.R_OK | os.W_OK):
        pytest.skip(f"{FUSE} cannot be opened")
    tried = subprocess.run(
        [require_program("unshare"), *APART, "hostname", "tried"], capture_output=True, check=False
    )
    if tried.returncode != 0:
        pytest.skip(f"no namespaces: {tried.stderr.decode().strip()}")


class FileServer:
    """Serves a folder, the brick, to all machines."""

    def __init__(self, folder: Path) -> None:
        require_namespaces()
        self.brick = folder / "brick"
        self.brick.mkdir(parents=True)
        port = free_port()
        self.client = folder / "client.vol"
        self.client.write_text(CLIENT.format(port=port))
        served = folder / "server.vol"
        served.write_text(SERVER.format(brick=self.brick, port=port))
        command = [require_program("glusterfsd"), "--no-daemon", f"--volfile={served}"]
        self._process = subprocess.Popen([*command, f"--log-file={folder / 'server.log'}"])

    def stop(self) -> None:
        """Stop serving."""
        self._process.terminate()
        self._process.wait(TIMEOUT_S)


class Machine:
    """A machine that has mounted what the server serves on `mounted`."""

    def __init__(self, name: str, server: FileServer, mounted: Path) -> None:
        mounted.mkdir(parents=True, exist_ok=True)
        log = server.client.with_name(f"{name}.log")
        boot = ["sh", "-c", BOOT, "sh", name, str(server.client), str(log), str(mounted)]
        self._outside = subprocess.Popen([require_program("unshare"), *APART, *boot])
        (self._first,) = wait_for(lambda: children_of(self._outside.pid), f"machine {name} starts", TIMEOUT_S)
        mounts = Path(f"/proc/{self._first}/mountinfo")
        wait_for(lambda: f" {mounted} " in mounts.read_text(), f"{name} mounts its files", TIMEOUT_S)

    def run(
        self, command: list[str], environment: Mapping[str, str], folder: Path, log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a program there. What is returned ends as the program does, but hears no signals for it."""
        enter = [require_program("nsenter"), "--target", str(self._first), "--mount", "--uts", "--pid"]
        with log.open("ab") as output:
            return subprocess.Popen(
                [*enter, f"--wdns={folder}", *command], stdout=output, stderr=output, env=environment
            )

    def die(self) -> None:
        """Lose all processes at once, and with them the mount, as when the power fails."""
        if self._outside.poll() is None:
            os.kill(self._first, signal.SIGKILL)
            self._outside.wait(TIMEOUT_S)


def signal_program(entered: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to the program that was started on a machine; nothing when it has ended."""
    for pid in children_of(entered.pid):
        os.kill(pid, number)
