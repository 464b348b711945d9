"""What a log line is made of, as a collector of logs gets it and as a terminal shows it.

Not covered: which facts are logged; the tests of each part say that.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

SHOWN = r"1.2\x1b[2J\r\nforged line\x00\x9b5n\u202e{%s} \u2028<b>=1+1"
HOSTILE = "1.2\x1b[2J\r\nforged line\x00\x9b5n\u202e{%s} \u2028<b>=1+1"
PATIENT = "Zebrowska^Hildegard"
PROGRAM = f"""
import structlog
from dicomnode.logs import configure_logging
configure_logging("receive")
log = structlog.get_logger()
log.warning("instance_refused", sop_instance_uid={HOSTILE!r}, patient_name={PATIENT!r})
try:
    raise ValueError({PATIENT!r})
except ValueError:
    log.exception("tick_failed", tick={HOSTILE!r})
"""


def logged(stderr: int) -> int:
    """Log to `stderr` from a process of its own, whose id is given back."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=stderr)
    assert process.wait(120) == 0
    return process.pid


def test_hostile_words_forge_no_line_of_the_log_and_patients_are_not_in_it() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as log:
        pid = logged(writing)
        os.close(writing)
        lines = log.read().decode("ascii").splitlines()
    refused, failed = map(json.loads, lines)
    assert (refused["role"], refused["pid"], refused["event"], refused["sop_instance_uid"]) == (
        "receive", pid, "instance_refused", HOSTILE,
    )  # fmt: skip
    assert failed["exception"].endswith("ValueError")
    assert PATIENT not in str(lines)
    assert not {character for line in lines for character in line if not character.isprintable()}


def test_hostile_words_do_not_steer_a_terminal() -> None:
    controlling, terminal = pty.openpty()
    logged(terminal)
    os.close(terminal)
    shown = b""
    with pytest.raises(OSError, match="Input/output"):  # the other end is closed
        while True:
            shown += os.read(controlling, 65536)
    os.close(controlling)
    lines = shown.decode().split("\r\n")
    assert sum("forged line" in line for line in lines) == 2, "one in each event"
    for line in (line for line in lines if "forged line" in line):
        assert SHOWN in line.replace(r"\\", "\\")
        assert "\x1b[2J" not in line
        assert not {"\x00", "\x9b", "\u202e", "\u2028"} & set(line)
    assert PATIENT.encode() not in shown
    assert any(line.strip().startswith("File ") for line in lines), "a trace keeps its lines"
