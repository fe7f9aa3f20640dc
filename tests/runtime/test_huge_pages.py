"""Huge pages are asked for once, and only where that is for the program to choose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flaxflair.runtime import huge_pages

SCRIPT = """
import os, sys
from flaxflair.runtime.huge_pages import start_with_huge_pages
start_with_huge_pages()
print(sys.argv[1:], os.environ.get("GLIBC_TUNABLES"))
"""


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the kernel says who chooses; nothing is chosen yet."""
    monkeypatch.setattr(huge_pages, "_SETTING", tmp_path / "enabled")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return tmp_path / "enabled"


def starts() -> list[tuple[str, ...]]:
    calls: list[tuple[str, ...]] = []
    huge_pages.start_with_huge_pages(
        lambda path, argv, environment: calls.append((path, environment["GLIBC_TUNABLES"], *argv))
    )
    return calls


def test_program_restarts_with_its_arguments(kernel: Path):
    kernel.write_text("always [madvise] never\n")
    assert starts() == [
        (sys.executable, "glibc.malloc.hugetlb=1", sys.executable, *sys.orig_argv[1:])
    ]


@pytest.mark.parametrize("setting", ["[always] madvise never", "always madvise [never]", None])
def test_setting_of_the_kernel_is_respected(kernel: Path, setting: str | None):
    if setting is not None:
        kernel.write_text(setting)
    assert starts() == []


def test_setting_of_the_user_is_respected(kernel: Path, monkeypatch: pytest.MonkeyPatch):
    kernel.write_text("always [madvise] never\n")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    assert starts() == []


def test_program_restarts_at_most_once():
    command = [sys.executable, "-c", SCRIPT, "one", "two words"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("['one', 'two words']")
