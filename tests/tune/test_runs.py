"""The runs that a sweep leaves are read as those of the train and evaluate stages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cfpn.faces import Faces
from cfpn.schema import EXPRESSIONS
from pipeline import evaluate
from pipeline.runs import records
from tune import outcome, runs, storage
from tune.outcome import Ended, Outcome, Score, Summary

LABELS = torch.arange(14) % 7
TEST = Faces(torch.zeros(14, 1, 4, 4, dtype=torch.uint8), LABELS, torch.arange(14))
COPIED = np.arange(14) < 2


def run_json(method: str, seed: int) -> dict[str, Any]:
    """run.json of a trial."""
    data = {"fingerprint": "f", "faces": 96, "drawn": True, "classes": list(EXPRESSIONS)}
    same = {"profile": "sample", "parameters": {"model": {}, "train": {}, "method": {}}, "data": data}
    code = {"commit": None, "fingerprint": "c"}
    return {"method": method, "seed": seed, "code": code, "device": "cpu", "threads": 1, "workers": 1} | same


def one(method: str, seed: int, status: str = "complete", right: int = 14) -> Outcome:
    """A trial whose test predictions are right for the first so many faces."""
    guesses = torch.where(torch.arange(14) < right, LABELS, (LABELS + 1) % 7)
    test = torch.eye(7)[guesses] * 0.9 + 0.1 / 7
    names = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
    history = [{"epoch": epoch, "step": 3 * epoch} | dict.fromkeys(names, 0.1 * epoch) for epoch in (1, 2)]
    places = [{"epoch": epoch, "seconds": 1.5, "node": "n"} for epoch in (1, 2)]
    metrics = evaluate.metrics(test, LABELS, torch.tensor(COPIED), EXPRESSIONS)
    score = Score(test.numpy(), 123, metrics, test.numpy())
    summary, about = Summary(history, 2, places), run_json(method, seed)
    return Outcome({"method": method, "seed": seed}, status, "", summary, score, about)


def test_what_is_left_of_a_trial_is_read_as_it_was_written(tmp_path: Path) -> None:
    kept, whole = storage.at(str(tmp_path), "x"), one("bp", 0)
    assert whole.score is not None and whole.about is not None
    whole = whole._replace(score=whole.score._replace(collapsed=True))
    outcome.write(kept, "a=1_seed=0", Ended(whole.summary, whole.score, whole.about))
    found = outcome.read(kept, "a=1_seed=0")
    assert found is not None and outcome.read(kept, "a=1_seed=1") is None
    assert (found.summary, found.about, found.score.test) == (whole.summary, whole.about, whole.score.test)
    for name in ("probabilities", "test_probabilities"):
        assert (getattr(found.score, name) == getattr(whole.score, name)).all()
    assert (found.score.parameters, found.score.collapsed) == (123, True)
    assert [path.name for path in (tmp_path / "x/outcomes").iterdir()] == ["a=1_seed=0.npz"]


def test_an_outcome_in_pieces_is_no_outcome(tmp_path: Path) -> None:
    kept = storage.at(str(tmp_path), "x")
    (tmp_path / "x/outcomes").mkdir(parents=True)
    (tmp_path / "x/outcomes/a.npz").write_bytes(b"PK\x03\x04")
    assert outcome.read(kept, "a") is None


def test_an_outcome_with_a_bit_flipped_in_any_byte_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    kept, whole = storage.at(str(tmp_path), "x"), one("bp", 0)
    assert whole.score is not None and whole.about is not None
    outcome.write(kept, "a", Ended(whole.summary, whole.score, whole.about))
    path = tmp_path / "x/outcomes/a.npz"
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        found = outcome.read(kept, "a")
        assert found is None or (found.score.probabilities == whole.score.probabilities).all()


def test_runs_and_evaluations_are_read_as_those_of_the_stages(tmp_path: Path) -> None:
    outcomes = [one("bp", 0), one("nbp", 0, right=10), one("nbp", 1, "diverged")]
    runs.write(tmp_path, outcomes, TEST, COPIED)
    found = records.read(tmp_path / "runs", tmp_path / "evaluate")
    assert [(run.method, run.seed) for run in found] == [("bp", 0), ("nbp", 0)]
    assert [run.history["epoch"].tolist() for run in found] == [[1, 2], [1, 2]]
    assert found[1].scores is not None and found[1].predictions is not None
    assert found[1].scores["accuracy"] == pytest.approx(10 / 14)
    assert (found[1].predictions["predicted"] == found[1].predictions["label"]).sum() == 10
    assert found[0].timing["seconds_per_epoch"] == [1.5, 1.5]


def test_a_sweep_over_methods_is_compared_with_its_reference(tmp_path: Path) -> None:
    runs.write(tmp_path, [one(name, seed) for name in ("nbp", "bp") for seed in (0, 1)], TEST, COPIED)
    table = runs.comparison(tmp_path)
    assert "| bp | 2 |" in table and "| nbp | 2 |" in table
    assert sorted(path.name for path in (tmp_path / "compare").iterdir()) == ["compare.json", "compare.md"]


def test_a_full_disk_leaves_the_runs_of_the_earlier_sweep_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.write(tmp_path, [one("bp", seed) for seed in range(3)], TEST, COPIED)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    write, calls = records.write, []

    def filling(*given: object) -> None:
        calls.append(given)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        write(*given)

    monkeypatch.setattr(records, "write", filling)
    with pytest.raises(OSError, match="No space"):
        runs.write(tmp_path, [one("nbp", seed) for seed in range(3)], TEST, COPIED)
    assert {path: path.read_bytes() for path in before} == before
    monkeypatch.setattr(records, "write", write)
    runs.write(tmp_path, [one("nbp", 0)], None, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["method=nbp_seed=0"]


def test_without_a_complete_trial_the_folders_are_there_and_empty(tmp_path: Path) -> None:
    runs.write(tmp_path, [one("bp", 0, "failed")], TEST, COPIED)
    assert runs.comparison(tmp_path).startswith("not compared: ")
    assert all(list((tmp_path / name).iterdir()) == [] for name in ("runs", "evaluate", "compare"))
