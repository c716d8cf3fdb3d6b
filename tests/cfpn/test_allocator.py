"""Claims about cfpn/allocator.py: what it changes on Linux with glibc, and that it changes nothing elsewhere."""

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cfpn import allocator

ROOT = Path(allocator.__file__).parents[1]
# Page faults of a 64 MiB block that was freed and is asked for again, before and after.
FAULTS = """
import resource
from cfpn.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"1" * (64 << 20)
    del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
keep_freed_memory()
keep_freed_memory()
faults()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_large_block_that_was_freed_costs_no_page_faults_when_asked_for_again() -> None:
    answer = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, answer.stdout.split())
    assert after < before / 10


@pytest.mark.parametrize(("system", "functions"), [("darwin", ["mallopt"]), ("linux", [])])
def test_nothing_happens_on_another_system_or_c_library(
    system: str, functions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        def __getattr__(self, name: str) -> object:
            if name not in functions:
                raise AttributeError(name)
            raise AssertionError(f"{name} was asked for")

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    allocator.keep_freed_memory()
