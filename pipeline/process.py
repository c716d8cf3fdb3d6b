"""What every stage shares: errors that a user can act on, whole outputs or none, one process per output."""

import ctypes
import fcntl
import glob
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
TEMPORARY = ".part"


class InputError(ValueError):
    """Input that a user has to mend; the message names file, row and column where there are any."""


def run(main: Callable[[], None]) -> None:
    """Run a command line's `main` and say what ends it in one line.

    Exit codes: 2 for an InputError or a refusal of the operating system, 1 for a training that diverged, 130 and 143
    for SIGINT and SIGTERM, which end it in order.
    """
    die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def die_with_parent() -> None:
    """Ask Linux to end a stage when the `dvc repro` that runs it is killed: DVC itself leaves its stages running.

    A command started by hand outlives its shell, as nohup wants it.
    """
    if sys.platform == "linux" and "DVC_STAGE" in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` when the block ends well and vanishes when it does not.

    What a killed process left behind for the same `path` is removed; a lock tells it from a live process's file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}."
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*{TEMPORARY}"):
        remove_if_abandoned(leftover)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=TEMPORARY)
    temporary = Path(name)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        temporary.chmod(0o666 & ~current_umask())
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def remove_if_abandoned(temporary: Path) -> None:
    """Remove a temporary file whose process has ended; one that vanishes meanwhile is no error."""
    with suppress(FileNotFoundError, BlockingIOError), temporary.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        temporary.unlink()


def current_umask() -> int:
    """The umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a lock on `folder` (made if missing) so that a second process on the same outputs is refused.

    Raises InputError when another live process holds it; the lock goes with the process, so a kill leaves none behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder}: another process is writing here; wait for it or stop it") from error
        yield
    finally:
        os.close(handle)


def write_json(path: Path, value: object) -> None:
    """Strict JSON, sorted, by atomic rename; raises ValueError for a number that is not finite."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")
