"""A real PostgreSQL server for tests: Debian's, on the loopback interface, in a folder that is thrown away.

The server refuses to run as root, so it runs as the user that its package made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, create_engine, text

from dicomnode.selftest.temporary import free_port
from tests.real_parts import find_program, require_program

SUPERUSER = "postgres"
START_TIMEOUT_S = 120
QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""For databases that need not survive a crash of the machine."""


class Cluster:
    """One server. `settings` go into its configuration."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.port = free_port()
        self._data = folder / "data"
        self._settings = settings | {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
        }

    def create(self) -> None:
        """Make an empty cluster; whoever reaches it may do everything."""
        self._run("initdb", "-A", "trust", "-U", SUPERUSER, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = " ".join(f"-c {name}='{value}'" for name, value in self._settings.items())
        options = f"-p {self.port} {settings}"
        self._run("pg_ctl", "start", "-w", "-t", str(START_TIMEOUT_S), "-o", options, "-l", self.log)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: "fast" ends sessions, "immediate" ends it as a crash would. It may be down."""
        if (self._data / "postmaster.pid").exists():
            self._run("pg_ctl", "stop", "-w", "-t", str(START_TIMEOUT_S), "-m", mode)

    @property
    def log(self) -> str:
        """What the server says."""
        return str(self.folder / "server.log")

    def url(self, database: str, *others: Cluster) -> str:
        """A connection URI for the node; with `others`, of whichever of them takes writes."""
        hosts = ",".join(f"127.0.0.1:{cluster.port}" for cluster in (self, *others))
        return f"postgresql://{SUPERUSER}@{hosts}/{database}"

    def engine(self, database: str = "postgres") -> Engine:
        """Speaks with a database, without the node's code."""
        url = f"postgresql+psycopg://{SUPERUSER}@127.0.0.1:{self.port}/{database}"
        return create_engine(url, isolation_level="AUTOCOMMIT")

    def create_database(self, name: str, template: str = "template1") -> None:
        """Make a database, as a copy of another that nobody is connected to."""
        self._say(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self._say(f'DROP DATABASE "{name}" WITH (FORCE)')

    def standby(self, folder: Path) -> Cluster:
        """A second server that follows this one; not started."""
        other = Cluster(folder, self._settings)
        source = f"host=127.0.0.1 port={self.port} user={SUPERUSER}"
        other._run("pg_basebackup", "-d", source, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        return other

    def configure(self, name: str, value: str) -> None:
        """Change a setting of the running server."""
        self._say(f"ALTER SYSTEM SET {name} = '{value}'")
        self._say("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Make a standby the server that takes writes."""
        self._run("pg_ctl", "promote", "-w", "-t", str(START_TIMEOUT_S))

    def _say(self, statement: str) -> None:
        engine = self.engine()
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def _run(self, program: str, *arguments: str) -> None:
        command = [*as_server_user(), _program(program), "-D", str(self._data), *arguments]
        with Path(self.folder / "commands.log").open("ab") as log:
            if subprocess.run(command, stdout=log, stderr=log, cwd=self.folder, check=False).returncode:
                told = [Path(file).read_text("utf-8", "replace") for file in self.folder.glob("*.log")]
                raise AssertionError(f"{program} failed:\n" + "\n".join(told))


@contextmanager
def server_folder() -> Iterator[Path]:
    """A new folder of the user that the server runs as."""
    folder = Path(tempfile.mkdtemp(prefix="dicomnode-postgresql-"))
    if os.getuid() == 0:
        shutil.chown(folder, SUPERUSER, SUPERUSER)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def running_cluster(settings: dict[str, str] = QUICK) -> Iterator[Cluster]:
    """A server, started; skips the test where PostgreSQL is not installed, and fails it in CI."""
    _program("initdb")
    with server_folder() as folder:
        cluster = Cluster(folder, settings)
        cluster.create()
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop("immediate")


def as_server_user() -> list[str]:
    """What a command begins with so that root does not run it."""
    if os.getuid() != 0:
        return []
    return [require_program("setpriv"), f"--reuid={SUPERUSER}", f"--regid={SUPERUSER}", "--init-groups"]


def installed(name: str) -> str | None:
    """Path of one of the server's programs; Debian keeps them out of the search path, by version."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(versions[-1]) if versions else find_program(name)


def _program(name: str) -> str:
    return installed(name) or require_program(name)
