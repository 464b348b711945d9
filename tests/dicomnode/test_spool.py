"""Files are whole, durable and private, or they are not there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dicomnode.errors import PermanentError
from dicomnode.spool import HOST, LONGEST_WRITE_S, Spool, is_uid

SHA = "ab" * 32


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_written_file_holds_all_parts_in_order(spool: Spool) -> None:
    path = spool.instance_path("1.2", "1.3", "1.4", SHA)
    spool.write(path, b"head", memoryview(b"body"), b"")
    assert path.read_bytes() == b"headbody"
    assert files(spool.folder) == [path.name]


def test_content_and_names_are_synced_before_and_after_the_rename(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        calls.append(f"sync folder {name}" if is_folder else "sync content")
        fsync(descriptor)

    def note_rename(self: Path, target: Path) -> Path:
        calls.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    spool.write(spool.instance_path("1.2", "1.3", "1.4", SHA), b"content")
    assert calls[:2] == ["sync content", "rename"]
    assert calls[2:] == ["sync folder 1.3", "sync folder 1.2", "sync folder studies", "sync folder spool"]


def test_a_spool_works_while_it_is_there_and_takes_what_is_written(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    assert spool.works()
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        assert not spool.works()
    assert files(spool.folder) == []
    (spool.folder / "studies").rename(spool.folder / "away")
    assert not spool.works()


def test_a_disk_that_fails_to_sync_leaves_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output error"):
        spool.write(spool.instance_path("1.2", "1.3", "1.4", SHA), b"content")
    assert files(spool.folder) == []


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from dicomnode.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
spool = Spool(Path(sys.argv[1]))
try:
    spool.write(spool.instance_path("1.2", "1.3", "1.4", "ab"), b"x" * 4000, b"y" * 4000)
except OSError:
    sys.exit(7)
"""


def test_a_disk_that_is_full_half_way_leaves_nothing(spool: Spool) -> None:
    ended = subprocess.run([sys.executable, "-c", FULL_DISK, str(spool.folder)], check=False)
    assert ended.returncode == 7
    assert files(spool.folder) == []


def test_a_file_that_is_there_survives_a_failed_overwrite(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spool.instance_path("1.2", "1.3", "1.4", SHA)
    spool.write(path, b"first")

    def fails(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space"):
        spool.write(path, b"second")
    assert path.read_bytes() == b"first"


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_stays(spool: Spool) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept = spool.instance_path("1.2", "1.3", "1.4", SHA)
    spool.write(kept, b"content")
    result = spool.result_path("1.2", "1.5", "1-1")
    result.parent.mkdir()
    for name in (kept, result):
        for pid in (dead.pid, os.getpid()):
            name.with_name(f"{name.name}.{HOST}.{pid}.abcd.part").write_bytes(b"half")
    spool.remove_leftovers("studies")
    spool.remove_leftovers("results")
    living = [f"{name.name}.{HOST}.{os.getpid()}.abcd.part" for name in (kept, result)]
    assert files(spool.folder) == sorted([kept.name, *living])


def test_what_another_machine_writes_stays_until_it_is_old(spool: Spool) -> None:
    kept = spool.instance_path("1.2", "1.3", "1.4", SHA)
    spool.write(kept, b"content")
    fresh, old = (kept.with_name(f"{kept.name}.other.1.{random}.part") for random in ("aaaa", "bbbb"))
    for path in (fresh, old):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - LONGEST_WRITE_S - 1))
    spool.remove_leftovers("studies")
    assert files(spool.folder) == sorted([kept.name, fresh.name])


def test_the_spool_is_open_to_its_user_only(spool: Spool) -> None:
    spool.write(spool.instance_path("1.2", "1.3", "1.4", SHA), b"content")
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700
    spool.folder.chmod(0o755)
    spool.prepare()
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("uid", ["1", "1.2.840.10008.1.2", "2.25." + "9" * 39, "1" * 64])
def test_a_uid_may_name_a_file(uid: str) -> None:
    assert is_uid(uid)


@pytest.mark.parametrize(
    "uid",
    [
        "",
        ".",
        "..",
        "../../etc",
        "1..2",
        "1.2.",
        ".1",
        "1.2\n",
        "1.2/3",
        "1.2\0",
        "1.a",
        "1" * 65,
        "\u0661.\u0662",
    ],
)
def test_what_is_no_uid_never_names_a_file(spool: Spool, uid: str) -> None:
    assert not is_uid(uid)
    for place in range(3):
        study, series, instance = (uid if n == place else "1.2" for n in range(3))
        with pytest.raises(PermanentError, match="is not a UID"):
            spool.instance_path(study, series, instance, SHA)


def test_other_content_has_another_name(spool: Spool) -> None:
    assert spool.instance_path("1.2", "1.3", "1.4", "a" * 64) != spool.instance_path(
        "1.2", "1.3", "1.4", "b" * 64
    )
