"""What a trial does beside training: shared faces, checkpoints in pieces, metrics that are not finite."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import ray
import torch
from ray import tune

from cfpn.network import CFPN
from cfpn.prediction import predict
from cfpn.recipe import Recipe
from cfpn.schema import EXPRESSIONS
from cfpn.training import DivergedError, Method, Record, start
from pipeline import networks
from pipeline.params import Compute, Params, Training
from pipeline.process import InputError
from pipeline.runs import session as sessions
from pipeline.runs.session import Session
from tune import names, outcome, spaces, storage, trial
from tune.storage import PLACES
from tune.trial import STATE, Arrays, Clock, Place

MODEL = CFPN(input_size=16, width=16, blocks=2, layers=1, pyramids=1)


def session() -> Session:
    """A session before its first step."""
    return Session(start(networks.build(MODEL, 0), Method(units="network"), Recipe(), 16, 0, torch.device("cpu")))


def checkpoint(folder: Path, epochs: int) -> tune.Checkpoint:
    """A checkpoint of a session that has seen so many epochs."""
    one = session()
    one.history = [{"epoch": float(epoch)} for epoch in range(1, epochs + 1)]
    folder.mkdir()
    sessions.save(one, folder / STATE)
    (folder / PLACES).write_text(json.dumps([{"epoch": epoch} for epoch in range(1, epochs + 1)]))
    return tune.Checkpoint(str(folder))


def test_faces_of_a_node_are_mapped_and_not_copied() -> None:
    shared = Arrays(np.zeros((2, 1, 48, 48), np.uint8), np.zeros(2, np.int64), np.arange(2), EXPRESSIONS, True)
    for array in shared[:3]:
        array.flags.writeable = False
    found = trial.faces(shared)
    for tensor, array in zip((found.pixels, found.labels, found.rows), shared[:3], strict=True):
        assert tensor.data_ptr() == array.ctypes.data
    assert (found.classes, found.drawn) == (EXPRESSIONS, True)


def test_a_trial_learns_from_the_same_wrong_labels_as_the_train_stage() -> None:
    shared = Arrays(np.zeros((50, 1, 48, 48), np.uint8), np.arange(50) % 7, np.arange(50), EXPRESSIONS, True)
    params = Params(
        profile="test",
        model=MODEL,
        train=Training(batch=8, limit=40, wrong_labels=0.4),
        methods={"bp": Method(units="network")},
        compute=Compute(device="cpu"),
    )
    what = spaces.Training(params, "bp", 3)
    own, validation = trial.prepare(
        what, Place(1, "cpu"), trial.Data({"original": shared, "val": shared}, None, {}, {})
    )
    expected = sessions.learnt(params, trial.faces(shared), 3)
    assert torch.equal(own.labels, expected.labels) and len(own) == 40
    assert not torch.equal(own.labels, torch.from_numpy(shared.labels[:40]))
    assert torch.equal(validation.labels, torch.from_numpy(shared.labels))


class Told(NamedTuple):
    """What a trial told Tune of its epochs, and what its best epoch's weights predict for the test faces."""

    folders: list[Path]
    probabilities: np.ndarray


def trained_worse_and_worse(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[trial.Data, Told]:
    """Let every training reach 0.9 and then 0.1, with other weights, and keep what is reported below `folder`."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 1, 48, 48)).astype(np.uint8)
    shared = Arrays(pixels, np.arange(50) % 7, np.arange(50), EXPRESSIONS, True)
    params = Params(
        profile="test",
        model=MODEL,
        train=Training(batch=8, epochs=2),
        methods={"bp": Method(units="network")},
        compute=Compute(device="cpu"),
    )
    told = Told([], np.zeros((50, 7), np.float32))

    def advance(session: Session, *_: object) -> Iterator[Record]:
        for epoch, accuracy in enumerate((0.9, 0.1), 1):
            with torch.no_grad():
                for parameter in session.state.averaged.parameters():
                    parameter += 0.1
            if epoch == 1:
                told.probabilities[:] = predict(session.state.averaged, torch.from_numpy(pixels))
            record = Record(epoch, 6 * epoch, 1.0, {"val/accuracy": accuracy, "val/loss": 1.0}, complete=True)
            session.note(record)
            yield record

    def report(_: dict[str, object], checkpoint: tune.Checkpoint) -> None:
        told.folders.append(folder / str(len(told.folders)))
        shutil.copytree(checkpoint.path, told.folders[-1])

    monkeypatch.setattr(spaces, "point", lambda *_: {})
    monkeypatch.setattr(spaces, "training", lambda *_: spaces.Training(params, "bp", 0))
    monkeypatch.setattr(sessions, "advance", advance)
    monkeypatch.setattr(trial, "here", lambda epoch, *_: {"epoch": epoch})
    monkeypatch.setattr(tune, "report", report)
    data = trial.Data(dict.fromkeys(("original", "val", "test"), shared), np.zeros(50, bool), {"original": "f"}, {})
    return data, told


def test_a_trial_is_scored_by_the_weights_of_its_best_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data, told = trained_worse_and_worse(monkeypatch, tmp_path)
    kept = storage.at(str(tmp_path), "own")
    trial.run({}, None, Place(1, "cpu"), kept, data)
    found = outcome.read(kept, names.identifier({}))
    assert [row["val/accuracy"] for row in found.summary.history] == [0.9, 0.1]
    np.testing.assert_allclose(found.score.test_probabilities, told.probabilities, atol=1e-6)
    np.testing.assert_allclose(found.score.probabilities, told.probabilities, atol=1e-6)
    last = trial.score_checkpoint({}, None, Place(1, "cpu"), tune.Checkpoint(str(told.folders[-1])), data, None)
    np.testing.assert_allclose(last.score.test_probabilities, told.probabilities, atol=1e-6)


def test_a_score_says_whether_the_last_epochs_were_no_better_than_chance(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data, _ = trained_worse_and_worse(monkeypatch, tmp_path)
    network = session().state.averaged
    assert trial.score(network, data, [{"val/accuracy": 0.1}] * 3).collapsed
    assert not trial.score(network, data, [{"val/accuracy": 0.9}] * 3).collapsed


@pytest.mark.parametrize("broken", [STATE, PLACES])
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_checkpoint_in_pieces_is_passed_over_for_the_one_before(tmp_path: Path, broken: str, how: str) -> None:
    older, newer = checkpoint(tmp_path / "1", 1), checkpoint(tmp_path / "2", 2)
    path = tmp_path / "2" / broken
    path.unlink() if how == "missing" else path.write_bytes(path.read_bytes()[:10])
    one = session()
    assert trial.resume(one, [newer, older]) == [{"epoch": 1}]
    assert one.state.epoch == 1


def test_without_a_checkpoint_a_trial_begins_at_the_start() -> None:
    one = session()
    assert trial.resume(one, []) == []
    assert one.state.epoch == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_divergence(value: float) -> None:
    with pytest.raises(DivergedError, match="epoch 3: val/loss is"):
        trial.check_finite(3, {"train/loss": 1.0, "val/loss": value})


@pytest.mark.parametrize("error", [RuntimeError("no GPU here"), OSError("lost")])
def test_what_fails_on_a_node_is_raised_so_that_it_is_tried_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(error, monkeypatch)
    with pytest.raises(type(error), match=str(error)):
        trial.run({}, None, Place(1, "cpu"), None, {})


def test_what_diverges_is_reported_since_it_would_diverge_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ended(DivergedError("step 3"), monkeypatch)
    reports = []
    monkeypatch.setattr(tune, "report", reports.append)
    trial.run({}, None, Place(1, "cpu"), None, {})
    assert reports == [{"epoch": 0, "val/accuracy": 0.0, "best": 0.0, "diverged": 1, "reason": "step 3"}]


def test_wrong_input_is_reported_since_no_other_node_would_make_it_right(monkeypatch: pytest.MonkeyPatch) -> None:
    ended(InputError("train.batch"), monkeypatch)
    reports = []
    monkeypatch.setattr(tune, "report", reports.append)
    trial.run({}, None, Place(1, "cpu"), None, {})
    assert reports == [{"epoch": 0, "val/accuracy": 0.0, "best": 0.0, "diverged": 0, "reason": "train.batch"}]


def ended(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every training end in this error."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(trial, "_train", fail)
    monkeypatch.setattr(spaces, "point", lambda *_: {})


def test_an_epochs_use_of_the_cpu_is_in_per_cent_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "n"))
    place = trial.here(2, 3.0, Place(2, "cpu"), Clock(10.0, 5.0), Clock(14.0, 11.0))
    assert (place["cpu_percent"], place["cpu_seconds"], place["epoch"]) == (150.0, 11.0, 2)
    assert "gpu_percent" not in place


def test_tune_is_told_the_best_epoch_beside_the_last_whose_other_numbers_are_text() -> None:
    rows = [{"epoch": i, "step": 3 * i, "val/accuracy": a, "val/loss": 1.5} for i, a in enumerate((0.1, 0.4, 0.25), 1)]
    told = trial.brief(rows, {"seconds": 0.1})
    assert json.loads(told.pop("row")) == rows[-1] | {"worker/seconds": 0.1}
    last = {"epoch": 3, "val/accuracy": 0.25, "val/loss": 1.5}
    assert told == last | {names.BEST: 0.4, "diverged": 0, "reason": ""}


def test_a_gpu_whose_driver_tells_nothing_ends_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    class DriverError(Exception):
        pass

    def refuse() -> int:
        raise DriverError

    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    assert trial.gpu_percent() == {}
    monkeypatch.setattr(torch.cuda, "utilization", lambda: 71)
    assert trial.gpu_percent() == {"gpu_percent": 71.0}
