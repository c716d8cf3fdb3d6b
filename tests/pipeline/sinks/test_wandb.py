"""What W&B shows is the history, also after a resumed run, and nothing about W&B ends or delays a training."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cfpn.training import Record
from pipeline.sinks import Sink
from pipeline.sinks import wandb as sink
from pipeline.sinks.wandb import wandb

EPOCHS = [Record(epoch, 10 * epoch, 1.5, {"val/accuracy": 0.1 * epoch}, complete=True) for epoch in (1, 2, 3)]
HISTORY = [{"epoch": r.epoch, "step": r.step} | r.scalars for r in EPOCHS]
STEP = Record(0, 4, 0.2, {"train/loss": 9.0}, complete=False)


ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that answers, whatever network the tests have."""
    monkeypatch.setattr(sink, "answers", lambda _: True)
    sink.asked.cache_clear()
    yield
    sink.asked.cache_clear()


def wandb_run(folder: Path, history: list[dict[str, float]]) -> AbstractContextManager[Sink]:
    (folder / "model.safetensors").write_bytes(b"weights")
    weights = folder / "model.safetensors"
    return wandb("project", "group", "nbp-0", "abc123", {"seed": 0}, history, folder, weights)


def records(folder: Path) -> list[dict[str, Any]]:
    """What W&B's own reader says of the one offline run."""
    (run,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(run)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def test_an_offline_wandb_run_resumed_holds_every_epoch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with wandb_run(tmp_path, []) as sink:
        sink(EPOCHS[0])
    with wandb_run(tmp_path, HISTORY[:1]) as sink:
        sink(EPOCHS[1])
        sink(EPOCHS[2])
    items = [record["history"]["item"] for record in records(tmp_path) if record["type"] == "history"]
    assert [(i["_step"], i["epoch"], i["val/accuracy"]) for i in items] == [
        (row["epoch"], row["epoch"], row["val/accuracy"]) for row in HISTORY
    ]


def test_an_offline_run_links_the_weights_that_its_block_has_written_and_copies_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with wandb_run(tmp_path, HISTORY):
        (tmp_path / "model.safetensors").write_bytes(b"better weights")
    (artifact,) = (record["artifact"] for record in records(tmp_path) if record["type"] == "artifact")
    (file,) = artifact["manifest"]["contents"]
    assert file["ref"] == (tmp_path / "model.safetensors").as_uri()
    assert json.loads(artifact["metadata"]) == {"md5": hashlib.md5(b"better weights").hexdigest()}
    assert not list((tmp_path / "wandb").rglob("*.safetensors"))


def test_a_training_that_fails_links_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(FloatingPointError), wandb_run(tmp_path, HISTORY):
        raise FloatingPointError
    assert not any(record["type"] == "artifact" for record in records(tmp_path))


def test_metrics_of_blocks_stay_out_of_a_run_since_dashboards_would_show_them_first() -> None:
    row = {"epoch": 1, "step": 5, "block/block1/cka_label": 0.5, "unit/block1/accuracy": 0.5, "val/loss": 2.0}
    assert list(sink.shown(row)) == ["epoch", "step", "unit/block1/accuracy", "val/loss"]


def test_a_run_names_dvcs_experiment_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "val.parquet").write_bytes(b"faces")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_EXP_NAME", "rapid-newt")
    data = {"val.parquet": hashlib.md5(b"faces").hexdigest()}
    assert sink.dvc([Path("val.parquet")]) == {"experiment": "rapid-newt", "data": data}


class Online:
    """A W&B run on a server that has every row before `step`; rows that cannot be logged are an error."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.rows: list[tuple[int, float]] = []

    def define_metric(self, *_: object, **__: object) -> None:
        pass

    def log(self, row: dict[str, float], step: int) -> None:
        assert step >= self.step
        self.rows.append((step, row["val/accuracy"]))

    def log_artifact(self, _: object) -> None:
        pass

    def finish(self) -> None:
        raise RuntimeError("the connection is gone")


@pytest.mark.parametrize(("step", "missing"), [(0, [1, 2]), (2, [2]), (3, [])])
def test_an_online_run_interrupted_gets_every_epoch_that_it_lacks(
    step: int, missing: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    run = Online(step)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    with wandb_run(tmp_path, HISTORY[:2]) as sink:
        sink(EPOCHS[2])
    assert run.rows == [(epoch, HISTORY[epoch - 1]["val/accuracy"]) for epoch in [*missing, 3]]
    assert capsys.readouterr().err == "warning: the W&B run was not finished: RuntimeError: the connection is gone\n"


def test_a_folder_that_wandb_cannot_write_does_not_end_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def refuse(**_: object) -> None:
        raise wandb.Error("no room")

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(wandb, "init", refuse)
    with wandb_run(tmp_path, []) as sink:
        sink(EPOCHS[0])
    assert "no room" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["login", "log", "finish"])
def test_whatever_fails_in_wandb_does_not_end_a_training(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def refuse(*_: object, **__: object) -> None:
        raise wandb.errors.AuthenticationError("bad key")

    run = mock.MagicMock(step=0, **({f"{broken}.side_effect": refuse} if broken != "login" else {}))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", refuse if broken == "login" else lambda **_: False)
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    with wandb_run(tmp_path, []) as sink:
        sink(EPOCHS[0])
    assert "bad key" in capsys.readouterr().err


@pytest.mark.parametrize(("known", "missing"), [(0, [1, 2, 3]), (2, [2, 3]), (3, [3]), (4, [])])
def test_an_online_run_gains_the_epochs_that_it_lacks(
    known: int, missing: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that holds epochs 1 to 3 says that its next step is 4."""
    import wandb

    run = mock.MagicMock(step=known)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    with wandb_run(tmp_path, HISTORY):
        pass
    assert [call.kwargs["step"] for call in run.log.call_args_list] == missing


LOGGED_IN = """
import sys, time
from pathlib import Path
from pipeline.sinks import wandb as sink

sink.own_folders(Path.cwd())
import wandb

seconds = []
weights = Path("weights")
weights.touch()
for number in range(2):
    begin = time.perf_counter()
    mode = sink.mode(Path.cwd())
    seconds.append(time.perf_counter() - begin)
    with sink.wandb("project", "group", "name", f"abc{number}", {}, [{"epoch": 1, "val/accuracy": 0.5}], Path.cwd(),
                    weights):
        pass
assert mode == "offline", mode
assert seconds[0] < sink.PATIENCE + 1.5 and seconds[1] < 0.1, seconds
assert "torch" not in sys.modules
"""


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a socket that takes connections and never answers."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield f"http://127.0.0.1:{one.getsockname()[1]}"


@pytest.mark.parametrize("where", ["refused", "silent"])
@pytest.mark.parametrize("mode", ["", "online"])
def test_logged_in_without_a_network_gives_offline_runs_after_one_attempt(
    where: str, mode: str, silent: str, tmp_path: Path
) -> None:
    server = silent if where == "silent" else "http://127.0.0.1:9"
    said = trained(tmp_path, WANDB_BASE_URL=server, WANDB_API_KEY="a" * 40, **({"WANDB_MODE": mode} if mode else {}))
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == 2
    assert [line for line in said.splitlines() if "offline" in line] == [
        f"warning: W&B runs are written offline: {server} did not answer within 2 s"
    ]


def test_a_home_that_cannot_be_written_changes_nothing_but_the_folders(tmp_path: Path) -> None:
    assert trained(tmp_path, HOME="/proc/nowhere", WANDB_BASE_URL="http://127.0.0.1:9") == ""
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == 2


def test_a_long_tmpdir_changes_nothing(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 140)
    long.mkdir()
    assert trained(tmp_path, TMPDIR=str(long), WANDB_BASE_URL="http://127.0.0.1:9") == ""
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == 2


def trained(folder: Path, **environment: str) -> str:
    """What two runs in a process of their own say on standard error."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-c", LOGGED_IN], cwd=folder, env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_server_that_refuses_the_run_gets_an_offline_run_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb as client

    modes = []

    def init(mode: str, **_: object) -> mock.MagicMock:
        modes.append(mode)
        if mode == "online":
            raise client.errors.CommError("bad key")
        return mock.MagicMock(step=0)

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(client, "init", init)
    for _ in range(2):
        with wandb_run(tmp_path, []) as log:
            log(EPOCHS[0])
    assert modes == ["online", "offline", "offline"]
    assert capsys.readouterr().err == "warning: W&B runs are written offline: CommError: bad key\n"


def test_an_offline_run_goes_once_the_next_has_begun_and_stays_where_that_fails(tmp_path: Path) -> None:
    for identity in ("abc", "other"):
        (tmp_path / f"offline-run-1-{identity}").mkdir()
    with pytest.raises(RuntimeError), sink.replaced(tmp_path, "abc"):
        raise RuntimeError
    assert len(list(tmp_path.iterdir())) == 2
    with sink.replaced(tmp_path, "abc"):
        (tmp_path / "offline-run-1-abc").mkdir()  # begun within the same second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["offline-run-1-abc", "offline-run-1-other"]


def test_with_wandb_disabled_the_run_from_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    before = tmp_path / "wandb/offline-run-20260101_000000-abc123"
    before.mkdir(parents=True)
    with wandb_run(tmp_path, []) as sink:
        sink(EPOCHS[0])
    assert before.exists()
