"""A small file system in memory, so that a disk can be full without filling that of the machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.real_parts import require_program


def mount_small(folder: Path, size_mb: int) -> bool:
    """Make the folder a file system of this size. False where this account may not: it needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        require_program("mount"),
        "-t",
        "tmpfs",
        "-o",
        f"size={size_mb}m,mode=0700",
        "none",
        str(folder),
    ]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def unmount(folder: Path) -> None:
    """Take it away again, with all that is in it."""
    subprocess.run([require_program("umount"), "--lazy", str(folder)], check=True, capture_output=True)
