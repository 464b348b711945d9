"""Signals between processes: heard at once, after the commit only, and no loss when nobody hears them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dicomnode.records.db import Database
from dicomnode.records.wake import LocalWake, Topic, announce

LONG_S = 60.0
"""Far beyond what a signal takes on a loaded machine: who waits this long has heard nothing."""


def test_a_signal_ends_a_wait_of_another_process(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from dicomnode.records.wake import LocalWake, Topic\n"
        "ear = LocalWake(Path(sys.argv[1])).listen(Topic.JOBS); print('listening', flush=True)\n"
        f"sys.exit(0 if ear.wait({LONG_S}) else 1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True
    ) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        LocalWake(tmp_path).signal(Topic.JOBS)
        started = time.monotonic()
        assert listener.wait(LONG_S) == 0
        assert time.monotonic() - started < LONG_S / 2


def test_every_listener_of_the_topic_hears_and_no_other(tmp_path: Path) -> None:
    wake = LocalWake(tmp_path)
    with wake.listen(Topic.JOBS) as one, wake.listen(Topic.JOBS) as two, wake.listen(Topic.STUDIES) as other:
        wake.signal(Topic.JOBS)
        assert one.wait(LONG_S)
        assert two.wait(LONG_S)
        assert not other.wait(0)


def test_a_signal_before_the_wait_is_heard_once(tmp_path: Path) -> None:
    wake = LocalWake(tmp_path)
    with wake.listen(Topic.JOBS) as ear:
        for _ in range(50):
            wake.signal(Topic.JOBS)
        assert ear.wait(0)
        assert not ear.wait(0)


def test_a_full_pipe_blocks_nobody(tmp_path: Path) -> None:
    wake = LocalWake(tmp_path)
    with wake.listen(Topic.JOBS) as ear:
        (pipe,) = tmp_path.iterdir()
        descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(descriptor, bytes(4096))
        os.close(descriptor)
        wake.signal(Topic.JOBS)
        assert ear.wait(0)


def test_announced_is_signalled_after_the_commit_and_not_after_a_rollback(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    with database.wake.listen(Topic.DELIVERIES) as ear:
        with pytest.raises(ZeroDivisionError), database.transaction() as session:
            announce(session, Topic.DELIVERIES)
            _ = 1 / 0
        assert not ear.wait(0)
        with database.transaction() as session:
            announce(session, Topic.DELIVERIES)
            assert not ear.wait(0)
        assert ear.wait(0)


def test_the_pipe_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "jobs.1.00000000.pipe")
    with LocalWake(tmp_path).listen(Topic.JOBS) as ear:
        LocalWake(tmp_path).signal(Topic.JOBS)
        assert ear.wait(0)
        assert not (tmp_path / "jobs.1.00000000.pipe").exists()
    assert not list(tmp_path.iterdir())


def test_where_no_pipe_can_be_made_the_wait_ends_by_its_time_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    wake = LocalWake(tmp_path / "file")
    with wake.listen(Topic.JOBS) as ear:
        wake.signal(Topic.JOBS)
        assert not ear.wait(0.01)


def test_signals_from_many_threads_end_a_wait(tmp_path: Path) -> None:
    wake = LocalWake(tmp_path)
    with wake.listen(Topic.STUDIES) as ear:
        threads = [threading.Thread(target=wake.signal, args=(Topic.STUDIES,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        assert ear.wait(LONG_S)
        for thread in threads:
            thread.join()
