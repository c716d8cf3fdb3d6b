"""The top of the page says what was minimised, on which faces, when and where."""

from pathlib import Path
from typing import Any

import pytest

from cfpn.schema import Description
from pipeline.page import heading, inputs
from pipeline.process import InputError
from tests.pipeline.page.written import (
    METHODS,
    paths,
    write_everything,
    write_json,
    write_params,
    write_run,
    write_splits,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_everything(tmp_path)
    return tmp_path


def top(root: Path) -> heading.Heading:
    return heading.heading(inputs.read_inputs(paths(root), "2026-01-31"))


def test_what_nbp_minimises_by_default_is_said_in_words(root: Path) -> None:
    text = " ".join(top(root).introduction)
    assert (
        "NBP: a hidden unit minimises the cross-entropy of a small classifier of its own and a small HSIC term" in text
    )
    assert "(weight 0.1; HSIC without bias, scaled as CKA, beta 100)" in text
    assert "All units' classifiers predict together." in text
    assert "BP: a hidden unit" not in text.replace("NBP: a", "")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hsic_weight": 0.0}, "minimises the cross-entropy of a small classifier of its own. "),
        ({"classifier_weight": 0.0, "hsic_weight": 1.0}, "minimises an HSIC term (weight 1; "),
        ({"classifier_weight": 0.5}, "of its own (weight 0.5) and a small HSIC term (weight 0.1; "),
        ({"hsic": {"estimator": "similarity_matching"}}, "(weight 0.1; similarity matching)"),
        ({"hsic": {"estimator": "supcon"}}, "of its own and a small term supcon (weight 0.1). "),
        ({"hsic": {"estimator": "supcon"}, "hsic_weight": 1.0, "classifier_weight": 0.0}, "a term supcon (weight 1). "),
    ],
)
def test_each_local_loss_has_words_of_its_own(change: dict[str, Any], expected: str) -> None:
    how = METHODS["nbp"] | {"local_loss": METHODS["nbp"]["local_loss"] | change}
    assert expected in heading.objective(how) + " "


def test_gradients_that_pass_are_called_a_control() -> None:
    assert "this is a control" in heading.objective(METHODS["nbp"] | {"gradients": "pass"})
    assert "this is a control" not in heading.objective(METHODS["nbp"])


def test_methods_that_minimise_the_same_share_a_sentence(root: Path) -> None:
    write_params(root, methods="[nbp, bp, twin]")
    write_run(root, "twin", parameters=inputs.read_runs(root / "runs", root / "evaluate", SETTINGS)[0].about.parameters)
    assert "NBP and twin: a hidden unit minimises" in " ".join(top(root).introduction)


SETTINGS = {"profile": "sample", "run": {"methods": ["nbp"], "seeds": [0]}}


def test_date_commit_machine_and_training_time_are_named(root: Path) -> None:
    facts = dict(top(root).facts)
    assert facts["Page of"] == "2026-01-31"
    assert facts["Commit of the code"] == "0123456789abcdef"
    assert facts["Machine"] == "CPU, 1 thread, 1 worker"
    assert facts["Training time"] == "6 min for 2 runs"


@pytest.mark.parametrize(("drawn", "rows", "said"), [(True, 40, False), (False, 40, True), (False, 28709, False)])
def test_real_faces_of_other_counts_than_fer2013_are_named(root: Path, drawn: bool, rows: int, said: bool) -> None:
    write_splits(root, Description(drawn=drawn))
    for folder in ("runs/nbp-0", "runs/bp-0", "evaluate/nbp-0", "evaluate/bp-0"):
        write_run_of(root / folder / "run.json", drawn)
    totals = {"train": {"total": rows}, "val": {"total": 3589}, "test": {"total": 3589}}
    write_json(root / "splits/audit.json", {"rows": totals})
    texts = " ".join(alert.text for alert in top(root).alerts)
    assert ("FER2013 as published has 28,709 / 3,589 / 3,589 faces" in texts) is said
    assert (f"have {rows} / 3,589 / 3,589." in texts) is said


def write_run_of(path: Path, drawn: bool) -> None:
    """run.json with faces of the other kind."""
    path.write_text(path.read_text().replace('"drawn": true', f'"drawn": {str(drawn).lower()}'))


def test_runs_of_another_profile_are_refused(root: Path) -> None:
    (root / "params.yaml").write_text("profile: paper\n")
    with pytest.raises(InputError, match=r"of profile sample; params\.yaml has paper"):
        top(root)


def test_runs_of_other_data_are_refused(root: Path) -> None:
    write_params(root, methods="[nbp, bp]", seeds="[0, 1]")
    data = {"fingerprint": "other", "faces": 40, "drawn": True, "classes": []}
    write_run(root, "nbp", 1, data=data)
    with pytest.raises(InputError, match="fingerprint"):
        top(root)
