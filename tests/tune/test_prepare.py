"""Whether a sweep begins anew, continues or is refused depends on what storage holds; nothing here starts Ray."""

import argparse
import sys
from pathlib import Path

import pytest

from pipeline.process import InputError
from tune import storage, sweep
from tune.storage import Storage

ABOUT = {"sweep": "x", "params": {"train": {"batch": 32}}}
OTHER = {"sweep": "x", "params": {"train": {"batch": 16}}}


@pytest.fixture
def kept(tmp_path: Path) -> Storage:
    """Storage that holds an unfinished sweep as Ray Tune leaves it."""
    kept = storage.at(str(tmp_path), "x")
    storage.begin(kept, ABOUT)
    (tmp_path / "x/tuner.pkl").touch()
    return kept


def options(resume: str | None = None, restart: bool = False) -> argparse.Namespace:
    """The part of the command line that matters here."""
    return argparse.Namespace(resume=resume, restart=restart)


def unfinished(kept: Storage) -> bool:
    """Whether the old sweep's state is still there."""
    return (Path(kept.path) / "tuner.pkl").exists()


@pytest.mark.parametrize("resume", ["same", "auto"])
def test_the_same_specification_is_continued(kept: Storage, resume: str) -> None:
    assert sweep.prepare(kept, ABOUT, options(resume))
    assert unfinished(kept)


def test_another_specification_is_refused_with_its_difference_or_begun_anew(kept: Storage) -> None:
    with pytest.raises(InputError, match=r"params\.train\.batch: 32 there, 16 now"):
        sweep.prepare(kept, OTHER, options("same"))
    assert unfinished(kept)
    assert not sweep.prepare(kept, OTHER, options("auto"))
    assert not unfinished(kept)


def test_an_unfinished_sweep_of_another_kind_is_not_offered_to_continue_and_not_discarded_in_silence(
    kept: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"another kind \(params\.train\.batch: .*\): --restart discards it"):
        sweep.prepare(kept, OTHER, options())
    assert unfinished(kept)
    sweep.prepare(kept, OTHER, options("auto"))
    assert "an unfinished sweep of another kind (params.train.batch: " in capsys.readouterr().err


def test_an_unfinished_sweep_is_never_discarded_unasked(kept: Storage) -> None:
    with pytest.raises(InputError, match="unfinished sweep"):
        sweep.prepare(kept, ABOUT, options())
    assert unfinished(kept)
    assert not sweep.prepare(kept, ABOUT, options(restart=True))
    assert not unfinished(kept)


def test_a_finished_sweep_is_run_anew_without_being_asked(kept: Storage) -> None:
    storage.finish(kept)
    assert not sweep.prepare(kept, ABOUT, options())


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sweep to continue"):
        sweep.prepare(storage.at(str(tmp_path), "x"), ABOUT, options("same"))
    assert not sweep.prepare(storage.at(str(tmp_path), "x"), ABOUT, options("auto"))


def test_a_grid_that_lost_the_record_of_ray_keeps_its_trials(kept: Storage) -> None:
    storage.specify(kept, grid(1))
    (Path(kept.path) / "tuner.pkl").unlink()
    (Path(kept.path) / "outcome").touch()
    assert sweep.prepare(kept, grid(1), options("same"))
    assert (Path(kept.path) / "outcome").exists()


def test_a_grid_that_lost_the_record_of_ray_is_not_discarded_unasked(kept: Storage) -> None:
    storage.specify(kept, grid(1))
    (Path(kept.path) / "tuner.pkl").unlink()
    (Path(kept.path) / "outcome").touch()
    with pytest.raises(InputError, match="unfinished sweep"):
        sweep.prepare(kept, grid(1), options())
    assert (Path(kept.path) / "outcome").exists()
    assert not sweep.prepare(kept, grid(1), options(restart=True))
    assert not (Path(kept.path) / "outcome").exists()


def test_a_sweep_killed_before_its_first_trial_begins_again(kept: Storage) -> None:
    (Path(kept.path) / "tuner.pkl").unlink()
    assert not sweep.prepare(kept, ABOUT, options("same"))


def grid(seeds: int, **other: object) -> dict[str, object]:
    """The specification of a sweep with so many seeds."""
    return {"sweep": "x", "search": "grid", "space": {"seed": list(range(seeds)), "width": [8, 16]}} | other


@pytest.mark.parametrize("resume", ["same", "auto"])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)], ids=["more", "fewer"])
def test_a_grid_with_other_seeds_continues_and_is_unfinished_again(
    kept: Storage, before: int, after: int, resume: str
) -> None:
    storage.specify(kept, grid(before))
    storage.finish(kept)
    assert sweep.prepare(kept, grid(after), options(resume))
    assert unfinished(kept) and not storage.finished(kept)
    assert storage.found(kept) == grid(after)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (grid(1), grid(3, code="other"), "code: null there"),
        (grid(1, search="asha"), grid(3, search="asha"), "space.seed"),
        (grid(1, search="optuna"), grid(3), "search: .optuna. there"),
    ],
    ids=["other code", "asha", "other search"],
)
def test_other_seeds_of_another_sweep_are_refused_and_change_nothing(
    kept: Storage, old: dict[str, object], new: dict[str, object], named: str
) -> None:
    storage.specify(kept, old)
    storage.finish(kept)
    with pytest.raises(InputError, match=named):
        sweep.prepare(kept, new, options("same"))
    assert unfinished(kept) and storage.finished(kept)
    assert storage.found(kept) == old


@pytest.mark.parametrize("finished", [False, True])
def test_other_seeds_discard_no_trials_unasked(kept: Storage, finished: bool) -> None:
    storage.specify(kept, grid(1))
    if finished:
        storage.finish(kept)
    with pytest.raises(InputError, match="other seeds: --resume keeps"):
        sweep.prepare(kept, grid(3), options())
    assert unfinished(kept) and storage.found(kept) == grid(1)
    assert not sweep.prepare(kept, grid(3), options(restart=True))
    assert not unfinished(kept)


@pytest.mark.parametrize("text", ["train.schedule.learning_rate=0.1,0.2", "train.schedule={learning_rate: 0.1}"])
def test_a_table_of_rates_and_a_rate_of_the_command_line_exclude_each_other(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep", "models", "--rates", "models.csv", "--set", text])
    with pytest.raises(SystemExit) as ended:
        sweep.arguments()
    assert ended.value.code == 2
    assert "exclude each other" in capsys.readouterr().err


def test_another_part_of_the_schedule_goes_with_a_table_of_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ["--set", "train.schedule.shape=constant", "--set", "train={epochs: 3}"]
    monkeypatch.setattr(sys, "argv", ["sweep", "models", "--rates", "models.csv", *own])
    assert sweep.arguments().rates == Path("models.csv")
