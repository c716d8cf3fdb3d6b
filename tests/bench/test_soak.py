"""Claims about bench/soak.py: it measures a process under way, and finds one that grows."""

import sys
from pathlib import Path

import pytest

from bench import soak
from pipeline.process import InputError

GROWS = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT])  # it waits for whoever waits for it, early or late
held = []
for epoch in range(1, 13):
    held.append(bytearray(b"x" * {bytes}))
    held.append(open(sys.executable, "rb") if {opens} else None)
    print(f"epoch {{epoch}}:", flush=True)
    if epoch in (10, 12):
        signal.sigwait([signal.SIGCONT])  # it has been halted, measured and let go
"""


def followed(folder: Path, grown: int, opens: bool = False) -> dict[str, bool]:
    moments = soak.followed(folder, ["-c", GROWS.format(bytes=grown, opens=opens)], r"epoch (\d+):", 12)
    return {row["what"]: row["right"] for row in soak.rows("12 epochs", moments)}


def test_a_process_that_holds_what_it_held_is_right(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    found = followed(tmp_path, 1)
    assert set(found) == {"process: memory, MiB", "process: open files", soak.FILES}
    assert all(found.values())


def test_memory_and_open_files_that_grow_are_found(tmp_path: Path) -> None:
    found = followed(tmp_path, 10_000_000, opens=True)
    assert not found["process: memory, MiB"]
    assert not found["process: open files"]


def test_a_command_that_ends_before_the_last_epoch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"exit code 0\nepoch 1:"):
        soak.followed(tmp_path, ["-c", "print('epoch 1:')"], r"epoch (\d+):", 12)


def test_data_that_cannot_be_made_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "project", Path.mkdir)
    monkeypatch.setattr(soak, "DATA", ("no.such.module",))
    monkeypatch.setattr(sys, "argv", ["soak"])
    with pytest.raises(InputError, match=r"no\.such\.module: exit code 1\n.*No module named"):
        soak.main()
