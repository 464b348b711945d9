"""Runs cases of one target in a process that may be lost: `python -m tests.fuzz.child TARGET SEED COUNT`.

The address space is bounded, and so is the time of each case. Prints one line of JSON for each case begun
and one for each ended, so that whoever started it knows what killed it.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import time

from tests.fuzz.mutate import mutate
from tests.fuzz.targets import TARGETS, corpus

ADDRESS_SPACE_BYTES = 4 * 2**30
CASE_LIMIT_S = 60
"""Of the processor's time, not of the clock's."""


class TooLong(BaseException):
    """Not an Exception: no handler of the code under test may take it for one of its own."""


def run(target: str, first_seed: int, count: int) -> None:
    """One case for each seed; all can be made again from target and seed."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    signal.signal(signal.SIGVTALRM, _too_long)
    good = corpus(target)
    for seed in range(first_seed, first_seed + count):
        chance = random.Random(seed)
        content = mutate(chance.choice(good), chance)
        print(json.dumps({"begun": seed}), flush=True)
        started = time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, CASE_LIMIT_S)
        try:
            end = TARGETS[target](content)
        except TooLong:
            end = f"finding: longer than {CASE_LIMIT_S} s"
        except BaseException as error:
            end = f"finding: {type(error).__name__} {str(error)[:200]}"
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        seconds = round(time.process_time() - started, 3)
        print(json.dumps({"ended": seed, "end": end, "s": seconds, "peak_bytes": peak_bytes}), flush=True)


def _too_long(*_: object) -> None:
    raise TooLong


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
