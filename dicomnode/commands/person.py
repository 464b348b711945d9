"""Who types a command: the kernel's word for it, since the environment says what anybody wants."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

LOGIN_UID = Path("/proc/self/loginuid")
"""Who logged in on this machine; the kernel keeps it through sudo and su (pam_loginuid sets it)."""
NOBODY_LOGGED_IN = 2**32 - 1


def account() -> str:
    """The account that this process runs as, and the one of the login where that is another."""
    runs_as = _name(os.getuid())
    logged_in = _logged_in()
    return runs_as if logged_in in (None, runs_as) else f"{runs_as} (logged in as {logged_in})"


def _logged_in() -> str | None:
    try:
        uid = int(LOGIN_UID.read_text("ascii"))
    except (OSError, ValueError):  # another system, or a kernel without it
        return None
    return None if uid == NOBODY_LOGGED_IN else _name(uid)


def _name(uid: int) -> str:
    """The name of an account; in a container it may have none but its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
