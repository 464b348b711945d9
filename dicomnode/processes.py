"""Long-running processes: stop on a signal, and stop when the supervisor is gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from dicomnode.settings.node import Settings

SUPERVISOR_PID = "DICOMNODE_SUPERVISOR_PID"
STOPS = (signal.SIGTERM, signal.SIGINT)
STOP_TIMEOUT_S = 60.0
RESTART_DELAY_S = 1.0
LONGEST_RESTART_DELAY_S = 30.0
STEADY_AFTER_S = 60.0

OnDeath = Callable[[str, int], None]
"""Told the role and the exit status of a process that ended by itself."""

log = structlog.get_logger()


def stop_event() -> threading.Event:
    """An event that SIGTERM and SIGINT set, and the end of the supervisor too, if there is one.

    To be made in the main thread. Python calls its handlers there only when that thread next does something,
    which may be never where the system gave the signal to another one; what it writes at once is heard here.
    """
    stopping = threading.Event()
    told, tells = socket.socketpair()
    tells.setblocking(False)
    signal.set_wakeup_fd(tells.detach())
    for number in STOPS:
        signal.signal(number, lambda *_: None)
    threading.Thread(target=_hear, args=(told, stopping), name="signals", daemon=True).start()
    supervisor = os.environ.get(SUPERVISOR_PID)
    if supervisor:
        threading.Thread(target=_watch, args=(int(supervisor), stopping), daemon=True).start()
    return stopping


def _hear(told: socket.socket, stopping: threading.Event) -> None:
    while not any(number in STOPS for number in told.recv(1)):
        pass
    stopping.set()


def _watch(supervisor_pid: int, stopping: threading.Event) -> None:
    while os.getppid() == supervisor_pid:
        time.sleep(0.5)
    log.warning("supervisor_gone")
    stopping.set()


@dataclass
class Child:
    """One role in its own process, restarted with a growing pause when it dies."""

    arguments: list[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    delay_s: float = field(default=RESTART_DELAY_S)

    def start(self) -> None:
        """Start the process."""
        environment = {**os.environ, SUPERVISOR_PID: str(os.getpid())}
        command = [sys.executable, "-m", "dicomnode", *self.arguments]
        self.process = subprocess.Popen(command, env=environment)
        self.started_at = time.monotonic()

    def keep_alive(self, on_death: OnDeath) -> None:
        """Notice a death, and start again when the pause is over."""
        now = time.monotonic()
        if (died := self.process) is not None and died.poll() is not None:
            log.error("process_died", role=self.arguments[0], pid=died.pid, exit_status=died.returncode)
            on_death(self.arguments[0], died.returncode)
            steady = now - self.started_at > STEADY_AFTER_S
            self.delay_s = RESTART_DELAY_S if steady else min(2 * self.delay_s, LONGEST_RESTART_DELAY_S)
            self.restart_at = now + (RESTART_DELAY_S if steady else self.delay_s / 2)
            self.process = None
        if self.process is None and now >= self.restart_at:
            self.start()

    def stop(self) -> None:
        """Ask the process to end."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self, timeout_s: float) -> None:
        """Wait for the end; kill what does not end in time."""
        if self.process is None:
            return
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            log.error("process_killed", role=self.arguments[0])
            self.process.kill()
            self.process.wait()


def workers(settings: Settings) -> Iterator[list[str]]:
    """What tells each worker of the node which one it is: a device, or a place in a pool of the cluster."""
    if settings.inference.engine == "local":
        yield from (["--device", device] for device in settings.worker.devices)
        return
    for pool in settings.inference.pool:
        yield from (["--pool", pool.name, "--number", str(number)] for number in range(pool.actors))


def supervise(settings: Settings, config: Path, on_death: OnDeath) -> None:
    """Run receivers, housekeeping, the workers and, if configured, the web page until stopped."""
    stopping = stop_event()
    common = ["--config", str(config)]
    children = [
        *(Child(["receive", *common]) for _ in range(settings.listener.processes)),
        Child(["housekeep", *common]),
        *(Child(["work", *which, *common]) for which in workers(settings)),
        *([Child(["web", *common])] if settings.web else []),
    ]
    for child in children:
        child.start()
    while not stopping.wait(0.2):
        for child in children:
            child.keep_alive(on_death)
    for child in children:
        child.stop()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for child in children:
        child.wait(max(0.1, deadline - time.monotonic()))
