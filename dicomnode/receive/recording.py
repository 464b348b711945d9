"""The program that a receiver runs beside itself: a recorder that shares no interpreter with it.

Its standard input says in one line of JSON where everything is; it ends when the receiver closes the channel.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

from sqlalchemy import make_url

from dicomnode.loaded import keep_what_is_loaded
from dicomnode.logs import configure_logging
from dicomnode.receive.recorder import Recorder
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database
from dicomnode.spool import Spool


def main() -> None:
    """Serve one receiver. Signals are for that one: it has everything recorded before it ends."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # the receiver's answers go first
    configure_logging("record")
    told = json.loads(sys.stdin.readline())
    recorder = Recorder(Spool(Path(told["spool"])), Database(make_url(told["database"])), Audit("receiver"))
    keep_what_is_loaded()
    recorder.serve(socket.socket(fileno=told["channel"]), Path(told["journal"]))


if __name__ == "__main__":
    main()
