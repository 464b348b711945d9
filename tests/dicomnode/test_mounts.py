"""What is known of file systems that several machines share, and what is done where they promise less.

Not covered: NFS and CephFS themselves.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dicomnode import mounts
from dicomnode.mounts import Mount, locks_reach_others, may_be_shared, mount_of, syncs_at_once
from dicomnode.spool import Spool

TABLE = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
51 27 0:52 / /mnt/nfs rw,relatime shared:3 - nfs4 filer:/spool rw,vers=4.2,local_lock=none,hard
52 27 0:53 / /mnt/old rw,relatime - nfs filer:/old rw,vers=3,nolock,local_lock=all
53 27 0:54 / /mnt/gluster rw,relatime - fuse.glusterfs filer:/spool rw,user_id=0
54 27 0:55 / /mnt/ssh\\040here rw - fuse.sshfs somebody@filer: rw,user_id=0
55 27 7:0 / /mnt/stick rw - fuseblk /dev/sdb1 rw
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Mount]:
    file = tmp_path / "mountinfo"
    file.write_text(TABLE)
    monkeypatch.setattr(mounts, "MOUNTS", file)
    return mounts.mounts()


@pytest.mark.parametrize(
    ("device", "shared", "locked", "synchronised"),
    [
        ("254:0", False, True, True),
        ("0:52", True, True, True),
        ("0:53", True, False, True),
        ("0:54", True, True, False),
        ("0:55", True, False, False),
        ("7:0", False, True, True),
    ],
)
def test_kind_and_options_of_a_mount_say_what_it_promises(
    table: dict[str, Mount], device: str, shared: bool, locked: bool, synchronised: bool
) -> None:
    mount = table[device]
    assert (may_be_shared(mount), locks_reach_others(mount), syncs_at_once(mount)) == (
        shared,
        locked,
        synchronised,
    )


def test_a_folder_that_is_not_there_yet_will_be_where_its_parent_is(tmp_path: Path) -> None:
    assert mount_of(tmp_path / "a" / "b") == mount_of(tmp_path)
    assert mount_of(Path("/proc")).kind == "proc"


@pytest.mark.parametrize(("kind", "synced"), [("ext4", False), ("fuse.glusterfs", True)])
def test_where_syncfs_is_not_enough_each_file_is_synchronised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, synced: bool
) -> None:
    monkeypatch.setattr("dicomnode.spool.mount_of", lambda _: Mount(kind))
    spool, descriptors = Spool(tmp_path), list[int]()
    monkeypatch.setattr(os, "fsync", descriptors.append)
    spool.place(tmp_path / "studies" / "one.dcm", b"content")
    assert bool(descriptors) == synced
