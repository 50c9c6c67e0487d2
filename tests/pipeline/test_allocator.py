"""Memory that is freed stays, so that the next array of its size costs no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys, threading
from pipeline.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def work(size=2**26):
    for _ in range(8):
        b"1" * size  # 64 MiB, 16,384 pages

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

work()
before = faults()
thread = threading.Thread(target=work)  # where models run
thread.start()
thread.join()
print(faults() - before)
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library allocates here")
def test_kept_memory_costs_no_faults() -> None:
    assert faults("as it is") > 100_000  # or the test tells nothing
    assert faults("keep") < 1_000
