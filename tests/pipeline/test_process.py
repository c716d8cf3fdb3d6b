import argparse
import errno
import getpass
import os
import pwd
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import process
from pipeline.process import InputError, atomic, current_umask, only_one, run, there, write_json

ROOT = Path(process.__file__).parents[1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# run


def fail_with(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("row 3"), "row 3"),
        (PermissionError("no"), "no"),
        (FileNotFoundError("gone"), "gone"),
        (FileNotFoundError(2, "No such file", "x.csv"), "x.csv: no such file"),
        (
            FileNotFoundError(2, "", b"data/splits/a.parquet"),
            "data/splits/a.parquet: no such file; `dvc repro` writes it",
        ),
    ],
)
def test_bad_input_and_refusals_of_the_system_are_one_line_and_exit_code_2(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "die_with_parent", lambda: None)
    with pytest.raises(SystemExit) as caught:
        run(lambda: fail_with(error))
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "100000", "²", ""])
def test_a_number_of_threads_that_a_machine_cannot_start_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"from 1 to 512, found '{text}'"):
        process.thread_count(text)
    assert process.thread_count("512") == 512


def test_an_interrupt_is_exit_code_130_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "die_with_parent", lambda: None)
    with pytest.raises(SystemExit) as caught:
        run(lambda: fail_with(KeyboardInterrupt()))
    assert caught.value.code == 130


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "die_with_parent", lambda: None)
    with pytest.raises(ZeroDivisionError):
        run(lambda: fail_with(ZeroDivisionError()))


CHILD = "import time, sys; from pipeline.process import run; run(lambda: (print('up', flush=True), time.sleep(60)))"
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.mark.skipif(sys.platform != "linux", reason="a signal of Linux")
def test_a_stage_ends_when_its_parent_is_killed() -> None:
    under_dvc = os.environ | {"DVC_STAGE": "train"}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], cwd=ROOT, env=under_dvc, stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout.readline() == b"up\n"
        parent.send_signal(signal.SIGKILL)
        start = time.monotonic()
        assert parent.stdout.read() == b""  # the pipe closes with its last holder, the stage
    assert time.monotonic() - start < 30


# atomic


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.txt"
    with atomic(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(path.parent) == ["out.txt"]


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt, SystemExit])
def test_after_an_error_the_older_file_is_untouched_and_nothing_is_left(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["out.txt"]


def test_a_temporary_file_may_be_replaced_or_removed_by_the_block(tmp_path: Path) -> None:
    with atomic(tmp_path / "out.txt") as temporary:
        (tmp_path / "other").write_text("moved")
        (tmp_path / "other").replace(temporary)
    assert (tmp_path / "out.txt").read_text() == "moved"
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "out.txt") as temporary:
        temporary.unlink()
    assert names(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_has_the_rights_that_the_umask_grants_whatever_a_library_did(
    mask: int, replaced: bool, tmp_path: Path
) -> None:
    before = os.umask(mask)
    try:
        with atomic(tmp_path / "out.txt") as temporary:
            if replaced:
                Path(tempfile.mkstemp(dir=tmp_path)[1]).replace(temporary)  # with rights 0600, as safetensors does
        assert current_umask() == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.txt").stat().st_mode) == 0o666 & ~mask


KILLED = (
    "import os, pathlib, signal, sys; from pipeline.process import atomic\n"
    "with atomic(pathlib.Path(sys.argv[1])) as path: path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
)


def killed(path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, path], cwd=ROOT)


def test_what_a_killed_process_left_is_cleared_by_the_next_in_the_same_folder(tmp_path: Path) -> None:
    killed(tmp_path / "out[1].txt")
    assert [name.partition("txt")[0] for name in names(tmp_path)] == [".out[1]."]
    with atomic(tmp_path / "other.txt") as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == ["other.txt"]


def test_any_later_command_clears_what_a_killed_one_left_below_the_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "die_with_parent", lambda: None)
    for name in ("data/sample.csv", "data/splits/train.parquet", "runs/a/b/model.safetensors", "elsewhere/x.txt"):
        killed(tmp_path / name)
    (tmp_path / "data/.mine.part").write_text("a file of another program")
    run(lambda: None)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert [name.partition("/.x.txt")[0] for name in left if not name.endswith(".lock")] == [
        "data/.mine.part",
        "elsewhere",
    ]


def test_a_sweep_leaves_the_file_of_a_live_process_that_a_library_has_replaced(tmp_path: Path) -> None:
    with atomic(tmp_path / "out.txt") as temporary:
        (tmp_path / "other").write_text("replaced")
        (tmp_path / "other").replace(temporary)
        process.sweep([str(tmp_path)])
        assert temporary.read_text() == "replaced"
    assert (tmp_path / "out.txt").read_text() == "replaced"


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, calls = process.fcntl.flock, []

    def swept_before(handle: int, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            process.remove_abandoned(tmp_path.glob(".*.part"))
        lock(handle, how)

    monkeypatch.setattr(process.fcntl, "flock", swept_before)
    with atomic(tmp_path / "out.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "out.txt").read_text() == "whole"
    assert names(tmp_path) == ["out.txt"]


def test_the_temporary_file_of_a_live_process_stays(tmp_path: Path) -> None:
    with atomic(tmp_path / "out.txt") as first:
        first.write_text("first")
        with atomic(tmp_path / "out.txt") as second:
            second.write_text("second")
        assert (tmp_path / "out.txt").read_text() == "second"
        assert first.read_text() == "first"
    assert (tmp_path / "out.txt").read_text() == "first"


# writing


def wrapped(number: int) -> Exception:
    return RuntimeError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")


@pytest.mark.parametrize(
    "error",
    [wrapped(errno.ENOSPC), OSError(errno.ENOSPC, "No space left on device"), OSError("[Errno 28] Error writing")],
)
def test_a_full_disk_is_told_with_the_path_whatever_library_met_it(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(OSError) as caught, atomic(path):
        raise error
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value) == f"[Errno 28] No space left on device: '{path}'"
    assert path.read_text() == "old"
    assert names(tmp_path) == ["out.txt"]


def test_a_folder_that_cannot_be_written_is_told_with_the_path_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(dir: Path, prefix: str, suffix: str) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", f"{dir}/{prefix}x{suffix}")

    monkeypatch.setattr(process.tempfile, "mkdtemp", denied)
    with pytest.raises(PermissionError) as caught, atomic(tmp_path / "out.txt"):
        pass
    assert str(caught.value) == f"[Errno 13] Permission denied: '{tmp_path / 'out.txt'}'"


@pytest.mark.parametrize(
    "error",
    [wrapped(errno.ENOENT), ZeroDivisionError(), OSError(errno.ENOSPC, "full", "elsewhere"), BlockingIOError("pipe")],
)
def test_an_error_that_is_not_of_this_file_goes_on_as_it_is(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, atomic(tmp_path / "out.txt"):
        raise error
    assert caught.value is error


FULL = (
    "import numpy as np, pathlib, resource, sys; from pipeline.process import atomic, run\n"
    "def write():\n"
    "    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    "    with atomic(pathlib.Path(sys.argv[1])) as path: {}\n"
    "run(write)"
)
LIBRARIES = {
    "safetensors": "from safetensors.numpy import save_file; save_file({'a': np.zeros(200_000)}, path)",
    "arrow": (
        "import pyarrow as pa, pyarrow.parquet as pq; pq.write_table(pa.table({'a': [np.random.bytes(200_000)]}), path)"
    ),
    "the standard one": "path.write_bytes(bytes(200_000))",
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_that_meets_a_full_disk_ends_with_one_line_and_2(library: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL.format(LIBRARIES[library]), tmp_path / "out.npy"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == f"error: [Errno 27] File too large: '{tmp_path / 'out.npy'}'\n"
    assert done.returncode == 2
    assert names(tmp_path) == []


# only_one


def test_a_second_holder_is_refused_and_a_later_one_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    with only_one(folder), pytest.raises(InputError, match="another process is writing here"), only_one(folder):
        pass
    with only_one(folder):
        pass


def test_the_lock_goes_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), only_one(tmp_path):
        raise ZeroDivisionError
    with only_one(tmp_path):
        pass


def test_an_error_of_the_work_is_not_taken_for_a_held_lock(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="a pipe is full"), only_one(tmp_path):
        raise BlockingIOError("a pipe is full")


HOLDER = (
    "import pathlib, sys, time; from pipeline.process import only_one\n"
    "with only_one(pathlib.Path(sys.argv[1])): print('up', flush=True); time.sleep(60)"
)


def test_a_killed_holder_leaves_no_lock_behind(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"up\n"
        with pytest.raises(InputError), only_one(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with only_one(tmp_path):
        pass


DRAWS = """
from pipeline import evaluate, report
from pipeline.page import figures
import torch

evaluate.metrics(torch.eye(7), torch.arange(7), torch.zeros(7, dtype=torch.bool))
"""


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "no_backend"])
def test_the_environments_backend_of_matplotlib_ends_no_stage(backend: str) -> None:
    environment = os.environ | {"MPLBACKEND": backend}
    done = subprocess.run([sys.executable, "-c", DRAWS], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_user_without_a_name_has_one_in_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOGNAME", "")  # so that it is as before at the end
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    run(lambda: None)
    assert getpass.getuser() == f"uid{os.getuid()}"


def test_a_folder_with_the_name_of_a_temporary_one_and_without_a_lock_is_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / ".mine.part").mkdir()
    (tmp_path / ".mine.part/notes.txt").touch()
    (tmp_path / ".empty.part").mkdir()  # of a process that was killed before it had its lock
    with atomic(tmp_path / "out.txt") as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == [".mine.part", "out.txt"]
    assert (tmp_path / ".mine.part/notes.txt").exists()


SAYS = "import sys; from pipeline.process import run; run(lambda: print('a \u2013 b', *sys.argv[1:], file={}))"


@pytest.mark.parametrize("closed", [1, 2])
@pytest.mark.parametrize("stream", ["sys.stdout", "sys.stderr"])
def test_a_closed_stream_ends_no_command_and_leads_into_no_other(closed: int, stream: str) -> None:
    shell = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(SAYS.format(stream))} {closed}>&-"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, cwd=ROOT)
    said = stream == ("sys.stderr" if closed == 1 else "sys.stdout")
    assert (done.returncode, bool(done.stdout + done.stderr)) == (0, said)


def test_what_the_encoding_of_stdout_lacks_is_shown_as_an_escape() -> None:
    ascii_alone = os.environ | {"PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-c", SAYS.format("sys.stdout")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=ascii_alone)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a \\u2013 b\n", "")


BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_stdout_is_told_by_name() -> None:
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-c", SAYS.format("sys.stdout")]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=BUFFERED)
    assert (done.returncode, done.stderr) == (2, "error: [Errno 28] No space left on device: 'standard output'\n")


def test_a_reader_that_has_gone_by_the_end_is_no_failure() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-c", SAYS.format("sys.stdout")]
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=BUFFERED)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_while_a_command_writes_ends_it_without_a_word(unbuffered: str) -> None:
    much = "import sys; from pipeline.process import run; run(lambda: [print('face', i) for i in range(10**5)])"
    with subprocess.Popen([sys.executable, "-c", much], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
                          env=BUFFERED | {"PYTHONUNBUFFERED": unbuffered}, text=True) as command:  # fmt: skip
        assert command.stdout.readline() == "face 0\n"
        command.stdout.close()
        said = command.stderr.read()
    assert (command.returncode, said) == (141, "")


def test_another_pipe_that_breaks_is_an_error() -> None:
    other = "import os; from pipeline.process import run; r, w = os.pipe(); os.close(r); run(lambda: os.write(w, b'x'))"
    done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (2, "error: [Errno 32] Broken pipe\n")


def link(path: Path, target: str) -> None:
    path.symlink_to(target)


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, lambda path: link(path, "/dev/null"), lambda path: link(path, "/proc/self/fd/1")],
    ids=["pipe", "device", "stdout"],
)
def test_a_file_takes_the_place_of_no_pipe_or_device(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "out")
    with (
        pytest.raises(InputError, match=r"out: no regular file; expected a file, or nothing$"),
        atomic(tmp_path / "out"),
    ):
        pass
    assert not (tmp_path / "out").is_file() or (tmp_path / "out").is_symlink()


def test_a_file_system_without_rights_takes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").exists()


def test_a_link_to_a_folder_that_is_not_there_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(tmp_path / "scratch")
    with pytest.raises(InputError, match=r"runs: a link to a folder that is not there$"):
        there(tmp_path / "runs" / "bp-0")
    (tmp_path / "scratch").mkdir()
    assert there(tmp_path / "runs" / "bp-0") == tmp_path / "runs"
