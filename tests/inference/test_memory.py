"""How much memory a piece of work may take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inference import memory

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 24 GiB free, and a control group without a limit yet."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable: {24 * GIB // 1024} kB\nBuffers: 1 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    return tmp_path


def limit(group: Path, most: str, used: int) -> None:
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")


def test_without_a_limit_much_is_left_to_others(group: Path) -> None:
    assert memory.free_bytes(CPU) == memory.MOST_BYTES
    limit(group, "max", GIB)
    assert memory.free_bytes(CPU) == memory.MOST_BYTES


@pytest.mark.parametrize(("most", "used", "expected"), [(8, 4, 2), (8, 3, 2), (5, 4, 0.5), (4, 5, 0)])
def test_a_containers_limit_counts_in_powers_of_two(
    group: Path, most: int, used: int, expected: float
) -> None:
    limit(group, str(most * GIB), used * GIB)
    assert memory.free_bytes(CPU) == max(1, int(expected * GIB))
