"""What made a tracked result: date, commit, command and machine."""

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from pipeline.runs.about import commit


def origin() -> dict[str, str]:
    """Where this process's results come from, as its command began."""
    module = sys.modules["__main__"].__spec__
    name = f"-m {module.name}" if module else sys.argv[0]
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": commit() or "unknown",
        "command": f"python {name} {shlex.join(sys.argv[1:])}".strip(),
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}",
    }


def processor() -> str:
    """Name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
