"""Keeps what a process has loaded out of sight of the garbage collector.

The libraries of a worker make half a million objects that never end before it does. The collector of CPython
would look at them all now and then, for a third of a second, in the middle of a study.
"""

from __future__ import annotations

import gc


def keep_what_is_loaded() -> None:
    """Have only what comes from now on looked at."""
    gc.collect()
    gc.freeze()


def let_go_of_what_ended() -> None:
    """Free what was kept and is not used any more, such as a model that made room, and keep the rest."""
    if gc.get_freeze_count():
        gc.unfreeze()
        keep_what_is_loaded()
