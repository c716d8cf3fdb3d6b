"""Claims about bench/wrong_labels.py: who knows the true label sees through the wrong one, and the table keeps rows."""

import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from bench import wrong_labels
from cfpn import checkpoint, prediction
from cfpn.faces import Faces, mislabelled
from cfpn.network import Network
from pipeline.process import InputError
from tests.cfpn.small import MODEL, VOTING, faces, trained


@cache
def network() -> Network:
    """A network that has been trained a little."""
    return trained(VOTING).averaged.eval()


@cache
def named(seed: int = 5) -> Faces:
    """Faces labelled as the network sees them."""
    found = replace(faces(60, seed=seed), rows=torch.arange(60))
    return replace(found, labels=prediction.predict(network(), found.pixels).argmax(1))


def test_a_network_that_names_the_true_labels_has_learnt_no_wrong_one_by_heart() -> None:
    row = wrong_labels.measured(network(), named(), named(6), 0.4, 1)
    assert (row["accuracy"], row["by_heart"], row["seen_through"]) == (1, 0, 1)
    assert row["wrong"] == int((mislabelled(named(), 0.4, 1).labels != named().labels).sum()) > 10


def test_a_network_that_names_the_wrong_labels_has_learnt_them_by_heart() -> None:
    classes = len(named().classes)
    moved = (mislabelled(named(), 0.4, 1).labels - named().labels) % classes
    true = replace(named(), labels=(named().labels - moved) % classes)  # taught: what the network says
    row = wrong_labels.measured(network(), true, named(6), 0.4, 1)
    assert (row["by_heart"], row["seen_through"]) == (1, 0)


def write(runs: Path, method: str, seed: int, share: float) -> None:
    """Weights and run.json in a folder whose name says nothing."""
    folder = runs / f"{method} of {seed}"
    folder.mkdir(parents=True)
    tensors = {name: tensor.contiguous() for name, tensor in network().predicting().items()}
    save_file(tensors, folder / "model.safetensors", checkpoint.about(network(), asdict(MODEL)))
    data = {"fingerprint": "f", "faces": 60, "drawn": False, "classes": ["a"]}
    parameters = {"train": {"epochs": 1} | ({"wrong_labels": share} if share else {})}
    about = {"method": method, "seed": seed, "profile": "sample", "parameters": parameters, "data": data}
    (folder / "run.json").write_text(json.dumps(about))


def test_the_table_keeps_other_shares_and_leaves_out_runs_whose_labels_were_true(tmp_path: Path) -> None:
    for seed, share in ((0, 0.4), (1, 0.4), (2, 0.0)):
        write(tmp_path / "runs", "nbp", seed, share)
    old = {"wrong_labels": 0.2, "method": "nbp", "seed": 0, "accuracy": 0.5, "wrong": 3, "by_heart": 0.1}
    stale = old | {"wrong_labels": 0.4, "accuracy": 0.1}
    pd.DataFrame([old, stale]).to_csv(tmp_path / "table.csv", index=False)
    found = wrong_labels.gathered(tmp_path / "table.csv", tmp_path / "runs", named(), named(6), "f")
    assert [*zip(found.wrong_labels, found.seed, found.accuracy, strict=True)] == [
        (0.2, 0, 0.5),
        (0.4, 0, 1.0),
        (0.4, 1, 1.0),
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [('"epochs": 99', "data or parameters differ"),
     ('"epochs": 1, "faces": "augmented"', "expected a run that learnt from the faces as they are")],
)  # fmt: skip
def test_a_run_of_other_parameters_or_faces_is_refused_although_its_name_stands_there_with_another_share(
    tmp_path: Path, changed: str, message: str
) -> None:
    write(tmp_path / "one", "nbp", 0, 0.2)
    wrong_labels.gathered(tmp_path / "table.csv", tmp_path / "one", named(), named(6), "f")
    write(tmp_path / "two", "nbp", 0, 0.4)
    about = tmp_path / "two/nbp of 0/run.json"
    about.write_text(about.read_text().replace('"epochs": 1', changed))
    with pytest.raises(InputError, match=message):
        wrong_labels.gathered(tmp_path / "table.csv", tmp_path / "two", named(), named(6), "f")


def test_faces_that_a_run_never_saw_count_as_nothing_learnt_by_heart(tmp_path: Path) -> None:
    write(tmp_path / "runs", "nbp", 0, 0.4)
    about = tmp_path / "runs/nbp of 0/run.json"
    run = json.loads(about.read_text())
    run["parameters"]["train"]["limit"] = run["data"]["faces"] = 30
    about.write_text(json.dumps(run))
    found = wrong_labels.gathered(tmp_path / "table.csv", tmp_path / "runs", named(), named(6), "f")
    own = named().first(30)
    assert found.wrong.tolist() == [int((mislabelled(own, 0.4, 0).labels != own.labels).sum())]


def test_the_table_on_the_page_has_the_mean_over_seeds() -> None:
    rows = [
        {"wrong_labels": 0.4, "method": "nbp", "seed": seed, "accuracy": a, "by_heart": b, "seen_through": 0.25}
        for seed, a, b in ((0, 0.5, 0.25), (1, 0.75, 0.5))
    ]
    _, cells = wrong_labels.measurements.wrong_labels(pd.DataFrame(rows))
    assert cells == [["40", "nbp", "2", "62.5 ± 17.7", "37.5 ± 17.7", "25.0 ± 0.0"]]


def test_a_run_that_learnt_from_another_number_of_faces_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "runs", "nbp", 0, 0.4)
    with pytest.raises(InputError, match="nbp of 0: learnt from 60 faces, and --splits holds 50"):
        wrong_labels.gathered(tmp_path / "table.csv", tmp_path / "runs", named().first(50), named(6), "f")


@pytest.mark.parametrize("clean", [True, False], ids=["no wrong label", "no run"])
def test_the_command_says_so_where_there_is_nothing_to_write(tmp_path: Path, clean: bool) -> None:
    if clean:
        write(tmp_path / "runs", "nbp", 0, 0.0)
    with pytest.raises(wrong_labels.evaluate.InputError, match="no such table, and no run with weights"):
        wrong_labels.gathered(tmp_path / "table.csv", tmp_path / "runs", named(), named(6), "f")


def test_faces_that_a_run_did_not_learn_from_are_refused_also_where_they_are_as_many(tmp_path: Path) -> None:
    write(tmp_path / "runs", "nbp", 0, 0.4)
    with pytest.raises(InputError, match="nbp of 0: learnt from other faces than those of --splits"):
        wrong_labels.gathered(tmp_path / "table.csv", tmp_path / "runs", named(), named(6), "g")
    assert len(wrong_labels.gathered(tmp_path / "table.csv", tmp_path / "runs", named(), named(6), "f")) == 1
