"""A command in a process of its own, and what it took.

The kernel counts the peak memory of a process from that of whoever started it. So this file is also a small program
that starts the command, waits for it, and writes what it took as the last line.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

RESIDENT_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in one unit of ru_maxrss


class Measured(NamedTuple):
    """Of a process that ended: exit status, standard output, seconds, processor seconds, peak memory in MiB."""

    status: int
    out: str
    seconds: float
    processor: float
    memory: float


def measured(command: Sequence[str]) -> Measured:
    """Run a command, whose first word is a path, to its end; start and imports of a Python count as well."""
    starter = [sys.executable, "-I", "-S", __file__, *command]
    out, _, took = subprocess.run(starter, stdout=subprocess.PIPE, text=True, check=True).stdout.rpartition("\n")
    status, *used = json.loads(took)
    return Measured(status, out, *used)


def main() -> None:
    """The small program."""
    start = time.perf_counter()
    process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
    _, status, usage = os.wait4(process, 0)
    seconds, memory = time.perf_counter() - start, usage.ru_maxrss * RESIDENT_UNIT / 2**20
    took = [os.waitstatus_to_exitcode(status), seconds, usage.ru_utime + usage.ru_stime, memory]
    print(f"\n{json.dumps(took)}", end="")


if __name__ == "__main__":
    main()
