"""What can be relied on in the file system of a folder; a network may lie between it and its disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
NETWORKED = frozenset({"9p", "ceph", "cifs", "gfs2", "lustre", "nfs", "nfs4", "ocfs2", "smb3", "virtiofs"})
ALONE = frozenset({"9p", "virtiofs", "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.mount-s3"})
"""Kinds whose locks other machines do not see."""
LOCAL_LOCKS = frozenset({"nolock", "local_lock=all", "local_lock=flock", "nobrl", "localflocks"})
"""Options of NFS, SMB and Lustre with which locks stay on this machine."""


@dataclass(frozen=True)
class Mount:
    """A file system, as this machine has mounted it."""

    kind: str
    """Such as "ext4", "nfs4" or "fuse.glusterfs"; empty where it is not known."""
    options: frozenset[str] = frozenset()

    @property
    def is_in_user_space(self) -> bool:
        """Whether a program serves it (FUSE); block devices served so are on this machine all the same."""
        return self.kind == "fuse" or self.kind.startswith("fuse.")


def mount_of(folder: Path) -> Mount:
    """The file system that holds a folder, or the folder that it will be in."""
    while not folder.exists():
        folder = folder.absolute().parent
    device = folder.stat().st_dev
    return mounts().get(f"{os.major(device)}:{os.minor(device)}", Mount(""))


def mounts() -> dict[str, Mount]:
    """Every mounted file system by its device number (proc(5), mountinfo)."""
    found = {}
    for line in MOUNTS.read_text("utf-8", "replace").splitlines():
        here, _, there = line.partition(" - ")
        device, own_options = here.split()[2], here.split()[5]
        kind, _, options = there.split()[:3]
        found[device] = Mount(kind, frozenset(f"{own_options},{options}".split(",")))
    return found


def locks_reach_others(mount: Mount) -> bool:
    """Whether a lock here keeps out other machines that share the files; true of a disk that none shares."""
    return mount.kind not in ALONE and not mount.options & LOCAL_LOCKS


def syncs_at_once(mount: Mount) -> bool:
    """Whether `syncfs` brings all that was written to the disk: Linux does not tell FUSE's programs of it."""
    return not mount.is_in_user_space


def may_be_shared(mount: Mount) -> bool:
    """Whether other machines may have the same files."""
    return mount.kind in NETWORKED or mount.is_in_user_space
