"""What every command shares: its help, errors that a user can act on, whole outputs or none, one process per output."""

import argparse
import ctypes
import errno
import fcntl
import getpass
import hashlib
import io
import json
import os
import re
import select
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
MOST_THREADS = 512  # OpenMP starts whatever number it is told, and takes the machine's last process with it
TEMPORARY, LOCK = ".part", ".lock"  # end of a temporary folder's name, and a file in it that its process has locked
OUTPUTS = ("data", "runs", "results", "report", "sweeps", ".checkpoints")  # where the stages of dvc.yaml write
REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}  # to write


class InputError(ValueError):
    """Input that a user has to mend; the message names file, row and column where there are any."""


def command_line(name: str, about: str | None, example: str) -> argparse.ArgumentParser:
    """The parser of a command, whose help shows `about` and the example as they are written."""
    return argparse.ArgumentParser(
        prog=name, description=about, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def thread_count(text: str) -> int:
    """A number of threads of the CPU, as argparse reads it from the command line."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_THREADS):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MOST_THREADS}, found {text!r}")
    return int(text)


def run(main: Callable[[], None]) -> None:
    """Run a command line's `main` and say what ends it in one line.

    Exit codes: 2 for an InputError or a refusal of the operating system, 1 for a training that diverged, 130 and 143
    for SIGINT and SIGTERM, which end it in order, and, as of any tool, 141 where the reader of stdout goes before it is
    done, as `head` does.
    """
    open_streams()
    die_with_parent()
    name_user()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sweep(OUTPUTS)
        main()
        flush()
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except (InputError, OSError) as error:
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            silence()
            sys.exit(141)
        print(f"error: {told(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def open_streams() -> None:
    """Lead a closed stdout or stderr nowhere, and let stdout show what its encoding lacks as an escape."""
    for number, name in enumerate(("stdout", "stderr"), 1):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with suppress(OSError):
                os.fstat(number)  # a library may have opened a file of this number since
                number = nowhere
            if nowhere != number:
                os.dup2(nowhere, number)
            setattr(sys, name, os.fdopen(number, "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write the rest of stdout while it can still be told that it failed; a reader that has gone is no failure."""
    try:
        sys.stdout.flush()
    except OSError as error:
        silence()
        if not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror, "standard output") from error


def reader_is_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)
    return any(found & select.POLLERR for _, found in asked.poll(0))


def silence() -> None:
    """Lead stdout nowhere; else Python flushes, and fails, once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def told(error: Exception) -> str:
    """An error in words: of a missing file its name, and the command that writes it where a stage does."""
    if not isinstance(error, FileNotFoundError) or not isinstance(error.filename, str | bytes):
        return str(error)
    path = Path(os.fsdecode(error.filename))
    return f"{path}: no such file" + ("; `dvc repro` writes it" if path.parts[0] in OUTPUTS else "")


def die_with_parent() -> None:
    """Ask Linux to end a stage when the `dvc repro` that runs it is killed: DVC itself leaves its stages running.

    A command started by hand outlives its shell, as nohup wants it.
    """
    if sys.platform == "linux" and "DVC_STAGE" in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def name_user() -> None:
    """Name the user where the system has no name for the number, as in many containers: libraries ask for one."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary file that becomes `path` when the block ends well and vanishes when it does not.

    The file has the name of `path` and stands in a hidden folder beside it. The block may replace it.
    At the end its rights are those of a new file. Errors of writing it name `path`, as `writing` tells them.
    What a killed process left in the same place is removed. Raises InputError where `path` is a folder, a device or a
    pipe: a file would take its place.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder; expected a file, or nothing")
    if (path.exists() and not path.is_file()) or (path.is_symlink() and path.readlink().parts[:2] == ("/", "proc")):
        raise InputError(f"{path}: no regular file; expected a file, or nothing")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent.glob(f".*{TEMPORARY}"))
    with writing(path), locked_folder(path) as folder:
        temporary = folder / path.name
        temporary.touch()
        yield temporary
        with suppress(PermissionError):  # some file systems know no rights
            temporary.chmod(0o666 & ~current_umask())
        temporary.replace(path)


@contextmanager
def locked_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` with a lock on it, which tells other processes that this one lives."""
    folder, handle = make_locked(path)
    try:
        yield folder
    finally:
        os.close(handle)
        with suppress(OSError):
            clear(folder)


def clear(folder: Path) -> None:
    """Remove a temporary folder, its lock last: what a kill leaves of it can still be told from other folders."""
    for path in sorted(folder.iterdir(), key=lambda one: one.name == LOCK):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    folder.rmdir()


def make_locked(path: Path) -> tuple[Path, int]:
    """A new folder and the handle of its lock; another is made where a sweep comes between the two."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY))
        with suppress(FileNotFoundError):
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():
                return folder, handle
            os.close(handle)


def sweep(folders: Iterable[str]) -> None:
    """Remove what killed processes left anywhere below `folders`, relative to the working directory.

    DVC may restore a stage's outputs from its cache, so the same stage need not come by again.
    """
    for top in folders:
        for parent, names, _ in os.walk(top):
            left = [name for name in names if name.startswith(".") and name.endswith(TEMPORARY)]
            remove_abandoned(Path(parent, name) for name in left)


def remove_abandoned(folders: Iterable[Path]) -> None:
    """Remove temporary folders whose process has ended; one that vanishes meanwhile is no error.

    A folder of such a name that holds something and no lock was made by somebody else, and stays.
    """
    for folder in folders:
        with suppress(OSError):  # its process had no time to put a lock into it; or it holds something
            folder.rmdir()
        with suppress(OSError):  # held by a live process, gone, or not ours to remove
            handle = os.open(folder / LOCK, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                clear(folder)
            finally:
                os.close(handle)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell a full disk and its like as an OSError that names `path`, also where a library wraps it.

    Arrow raises it without a name; safetensors raises an error of its own with "(os error 28)" in the text.
    """
    try:
        yield
    except Exception as error:
        if (number := refusal(error, path)) is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def refusal(error: Exception, path: Path) -> int | None:
    """The number of the system's refusal to write `path` that an error stands for; None where it stands for another."""
    if isinstance(error, OSError) and error.errno is not None:
        number: int | None = error.errno
        if error.filename is not None and not is_temporary(Path(os.fsdecode(error.filename)), path):
            return None
    else:
        found = re.search(r"\b(?:os error|Errno) (\d+)\b", str(error))
        number = int(found[1]) if found else None
    return number if number in REFUSALS else None


def is_temporary(name: Path, path: Path) -> bool:
    """Whether `name` lies in a temporary folder of `path`."""
    return any(part.startswith(f".{path.name}.") and part.endswith(TEMPORARY) for part in name.parts)


def there(out: Path) -> Path:
    """The folder `out`, or the one in which it is to be made; InputError for a link to a folder that is not there."""
    folder = next(one for one in (out, *out.parents) if one.exists() or one.is_symlink())
    if not folder.exists():
        raise InputError(f"{folder}: a link to a folder that is not there")
    return folder


def probe(folder: Path) -> None:
    """Raise OSError where `folder` takes no file of 1 MiB: before hours of work, not after them."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def current_umask() -> int:
    """The umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def only_one(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a lock on `folder` (made if missing) so that a second process on the same outputs is refused, or waits.

    Raises InputError when another live process holds it; the lock goes with the process, so a kill leaves none behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise InputError(f"{folder}: another process is writing here; wait for it or stop it") from error
        yield
    finally:
        os.close(handle)


def workspace() -> Path:
    """The user's workspace, also from a copy that DVC makes for `exp run --temp` and its queue, and deletes."""
    folder = Path.cwd()
    copies = [parent for parent in folder.parents if parent.parts[-3:] == (".dvc", "tmp", "exps")]
    return copies[0].parents[2] if copies else folder


def file_hash(path: Path, how: str = "sha256") -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, how).hexdigest()


def json_hash(value: object) -> str:
    """The first 16 digits of the SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def write_json(path: Path, value: object) -> None:
    """Strict JSON, sorted, by atomic rename; raises ValueError for a number that is not finite."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")
