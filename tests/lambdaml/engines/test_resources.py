"""Cores and memory: what the machine has, and what its container leaves of that."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from lambdaml.engines import resources

GB = 2**30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree of control groups, on a machine of 8 cores and 32 GB, half of them free."""
    monkeypatch.setattr(resources, "GROUPS", tmp_path)
    monkeypatch.setattr(resources, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(psutil, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=32 * GB, available=16 * GB))
    return tmp_path


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_without_groups_it_is_the_machine(groups: Path) -> None:
    assert (resources.cores(), resources.memory_bytes(), resources.free_memory_bytes()) == (8, 32 * GB, 16 * GB)


def test_an_affinity_counts(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert resources.cores() == 2


@pytest.mark.parametrize("place", ["", "a", "a/b"])
def test_a_limit_of_any_group_around_this_process_counts(groups: Path, place: str) -> None:
    write(groups, own="0::/a/b")
    write(groups / "a" / "b", memory__max="max", cpu__max="max 100000")
    stat = f"anon {2 * GB}\ninactive_file {GB}"
    write(groups / place, memory__max=4 * GB, memory__current=3 * GB, memory__stat=stat, cpu__max="150000 100000")
    assert (resources.cores(), resources.memory_bytes(), resources.free_memory_bytes()) == (2, 4 * GB, 2 * GB)


def test_groups_of_version_1_stand_in_trees_of_their_own(groups: Path) -> None:
    write(groups, own="4:memory:/a\n3:cpu,cpuacct:/a\n0::/")
    write(groups / "memory", memory__limit_in_bytes=0x7FFFFFFFFFFFF000)
    stat = f"total_inactive_file {GB}"
    write(groups / "memory/a", memory__limit_in_bytes=8 * GB, memory__usage_in_bytes=3 * GB, memory__stat=stat)
    write(groups / "cpu", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100_000)
    write(groups / "cpu/a", cpu__cfs_quota_us=50_000, cpu__cfs_period_us=100_000)
    assert (resources.cores(), resources.memory_bytes(), resources.free_memory_bytes()) == (1, 8 * GB, 6 * GB)


def test_a_group_that_is_over_its_limit_has_nothing_left(groups: Path) -> None:
    write(groups, own="0::/")
    write(groups, memory__max=GB, memory__current=2 * GB, memory__stat="inactive_file 0")
    assert resources.free_memory_bytes() == 0


def test_files_that_cannot_be_read_limit_nothing(groups: Path) -> None:
    write(groups, own="0::/\nnonsense")
    write(groups, memory__max="much", cpu__max="1", memory__stat="")
    assert (resources.cores(), resources.memory_bytes(), resources.free_memory_bytes()) == (8, 32 * GB, 16 * GB)
