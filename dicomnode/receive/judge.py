"""Has two files compared in a process of its own, so that a decoder may crash, hang or swell there."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import threading
from pathlib import Path

import structlog

COMPARISON_TIMEOUT_S = 30.0
MAXIMUM_FILE_BYTES = 512_000_000

log = structlog.get_logger()


class Judge:
    """Starts the process at its first use, and again when it died. Safe to call from many threads.

    The process ends by itself when this one is gone: its standard input ends then.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def same(self, one: Path, other: Path) -> bool:
        """Whether both files hold the same instance; False when that cannot be found out."""
        try:
            if max(one.stat().st_size, other.stat().st_size) > MAXIMUM_FILE_BYTES:
                return False
            with self._lock:
                answer = self._ask(json.dumps([str(one), str(other)]).encode() + b"\n")
        except OSError as error:  # a file is gone, or the process is
            answer = type(error).__name__
        if answer not in ("same", "different"):
            log.warning("instances_not_compared", answer=answer or "the comparison crashed or took too long")
        return answer == "same"

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            if self._process is not None:
                self._end(self._process)

    def _ask(self, question: bytes) -> str:
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        answer = b""
        try:
            process.stdin.write(question)
            process.stdin.flush()
            if select.select([process.stdout], [], [], COMPARISON_TIMEOUT_S)[0]:
                answer = process.stdout.readline()
        finally:
            if not answer:
                self._end(process)
        return answer.decode().strip()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dicomnode.receive.sameness"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        return self._process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None
