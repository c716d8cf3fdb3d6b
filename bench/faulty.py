"""A stage's command in which one fault happens, at a moment that is the same every time.

`bench.faults` puts this in place of `python`. The environment says which fault (FAULT), in which module or script
(FAULT_IN), at which of its outputs, or of a sweep's reports (FAULT_AT), and the folder that it writes (FAULT_WRITES).
Every other command runs as it is.
"""

import ctypes
import json
import os
import pkgutil
import resource
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

SWEEP = "tune/sweep.py"
MOMENTS = {SWEEP: ("tune.progress:Progress", "on_trial_result")}  # what is counted; of stages, outputs begun
DROP_FROM_BOUNDING_SET, OVERRIDE_PERMISSIONS = 24, 1  # of Linux: prctl, capabilities
OUTLIVED = "the stage has outlived its driver"
SMALL = 100  # bytes; every output is larger


def main() -> None:
    """Run the command line behind this module's name as Python would, with the fault in it."""
    words, fault, where = sys.argv[1:], os.environ.get("FAULT", ""), os.environ.get("FAULT_IN", "")
    if fault == "read-only output" and where in words:
        forbid(Path(os.environ["FAULT_WRITES"]))
    if where not in words or fault not in FAULTS:
        os.execv(sys.executable, [sys.executable, *words])
    arrange(where, int(os.environ.get("FAULT_AT", "1")), FAULTS[fault])
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def forbid(outputs: Path) -> None:
    """Make a stage's output folder read-only, after DVC has emptied it; root, too, obeys from the next program on."""
    outputs.mkdir(parents=True, exist_ok=True)
    outputs.chmod(0o555)
    ctypes.CDLL(None).prctl(DROP_FROM_BOUNDING_SET, OVERRIDE_PERMISSIONS)


def arrange(where: str, at: int, fault: Callable[[], None]) -> None:
    """Let the fault happen once, after the moment's function has run for the `at`-th time."""
    owner, name = MOMENTS.get(where, ("pipeline.process", "make_locked"))
    place, left = pkgutil.resolve_name(owner), at
    own = getattr(place, name)

    def counted(*arguments: object, **options: object) -> object:
        nonlocal left
        result = own(*arguments, **options)
        left -= 1
        if left == 0:
            fault()
        return result

    setattr(place, name, counted)


def lose_parent() -> None:
    """Kill the `dvc repro` that runs this stage, and wait for what follows; says so where nothing does."""
    parent = next(one for one in psutil.Process().parents() if any(Path(word).name == "dvc" for word in one.cmdline()))
    parent.kill()
    time.sleep(60)
    print(OUTLIVED, file=sys.stderr)


def lose_worker() -> None:
    """Kill one busy Ray worker of this process."""
    workers = [one for one in psutil.Process().children(recursive=True) if busy(one)]
    workers[-1].kill()


def busy(process: psutil.Process) -> bool:
    """Whether this is a Ray worker with a task."""
    title = " ".join(process.cmdline())
    return title.startswith("ray::") and not title.startswith("ray::IDLE")


def run_second() -> None:
    """Run the same command beside this process, and keep what it said and its exit code."""
    done = subprocess.run(
        [sys.executable, *sys.orig_argv[sys.orig_argv.index("bench.faulty") + 1 :]], capture_output=True, text=True
    )
    Path(os.environ["FAULT_SEEN"]).write_text(json.dumps([done.returncode, done.stdout + done.stderr]))


FAULTS: dict[str, Callable[[], None]] = {
    "kill -9": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "Ctrl-C": lambda: os.killpg(0, signal.SIGINT),
    "disk full": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL)),
    "second process": run_second,
    "lost driver": lose_parent,
    "lost Ray worker": lose_worker,
}


if __name__ == "__main__":
    main()
