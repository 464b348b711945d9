"""A process that is told to stop hears it, whichever of its threads the system gives the signal to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

WAIT_S = 60.0
PROGRAM = """
import threading, time
from dicomnode.processes import stop_event
stopping = stop_event()
busy = threading.Thread(target=time.sleep, args=(1000.0,), daemon=True)
busy.start()
print(threading.main_thread().native_id, busy.native_id, flush=True)
stopping.wait()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to_main", [True, False])
def test_a_signal_is_heard_whichever_thread_gets_it(number: signal.Signals, to_main: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        main, other = map(int, process.stdout.readline().split())
        try:
            os.kill(main if to_main else other, number)  # Linux asks that thread first
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()
