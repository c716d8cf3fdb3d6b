"""Claims about bench/attacks.py: an attack stays within its bounds, sees every unit, and does harm."""

import copy
import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from bench import attacks
from bench.attacks import Attack
from cfpn import checkpoint, prediction
from cfpn.faces import Faces
from cfpn.network import Network
from pipeline.process import InputError
from tests.cfpn.small import BP, MODEL, VOTING, faces, trained

SMALL = [Attack("pgd", attacks.cross_entropy, 8, steps=3), Attack("margin", attacks.margin, 8, steps=3, share=0.5)]


@cache
def network(vote: bool = True) -> Network:
    """A network of several units, or one by BP, which knows what its faces are."""
    return trained(VOTING if vote else BP).averaged.eval()


@cache
def known() -> Faces:
    """Faces labelled as the voting network sees them, so that every answer is right at first."""
    found = faces(24, seed=5)
    return replace(found, labels=prediction.predict(network(), found.pixels).argmax(1))


@pytest.mark.parametrize("vote", [True, False])
def test_an_attack_sees_the_answer_that_the_library_gives(vote: bool) -> None:
    expected = prediction.predict(network(vote), known().pixels)
    torch.testing.assert_close(attacks.logs(network(vote), known().pixels.float()).softmax(1), expected)


def test_the_gradient_of_an_attack_is_that_of_the_whole_vote() -> None:
    own = copy.deepcopy(network()).double()
    pixels = known().pixels[:1].double()

    def loss(x: torch.Tensor) -> torch.Tensor:
        images = (x / 255 - attacks.faces.MEAN) / attacks.faces.DEVIATION
        units = [one.log_softmax(1) for one in own(images).values()]
        return attacks.cross_entropy(torch.stack(units).mean(0).log_softmax(1), known().labels[:1]).sum()

    x = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        numeric = (loss(x + 1e-4 * direction) - loss(x - 1e-4 * direction)) / 2e-4
    assert (gradient * direction).sum().item() == pytest.approx(numeric.item(), rel=1e-3)


@pytest.mark.parametrize("how", SMALL)
def test_misled_faces_stay_within_the_bounds_and_are_classified_worse(how: Attack) -> None:
    found = attacks.misled(network(), known(), how)
    clean = known().pixels[: len(found)].float()
    assert len(found) == round(24 * how.share)
    assert (found - clean).abs().max().item() <= how.eps + 1e-3
    assert 0 <= found.min().item() <= found.max().item() <= 255
    assert attacks.accuracy(network(), clean, known().labels) == 1
    before, after = (how.loss(attacks.logs(network(), x), known().labels[: len(x)]).mean() for x in (clean, found))
    assert after.item() > before.item()


def test_the_margin_is_positive_where_another_class_is_likelier() -> None:
    logs = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]]).log()
    assert attacks.margin(logs, torch.tensor([0, 0])).tolist() == pytest.approx(
        [float(torch.tensor(0.2 / 0.7).log()), float(torch.tensor(0.7 / 0.2).log())]
    )


def write(runs: Path, method: str, seed: int) -> None:
    """Weights and run.json in a folder whose name says nothing."""
    own, folder = network(method != "bp"), runs / f"{method} of {seed}"
    folder.mkdir(parents=True)
    tensors = {name: tensor.contiguous() for name, tensor in own.predicting().items()}
    save_file(tensors, folder / "model.safetensors", checkpoint.about(own, asdict(MODEL)))
    data = {"fingerprint": "f", "faces": 20, "drawn": False, "classes": ["a"]}
    about = {"method": method, "seed": seed, "profile": "sample", "parameters": {}, "data": data}
    (folder / "run.json").write_text(json.dumps(about))


def test_the_table_keeps_its_rows_and_only_methods_beside_bp_meet_its_faces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "ATTACKS", SMALL)
    for method, seed in (("bp", 0), ("nbp", 0), ("nbp", 1)):
        write(tmp_path / "runs", method, seed)
    kept = {"method": "old", "seed": 0, "attack": "none", "eps": 0.0, "faces": 24, "accuracy": 0.5}
    pd.DataFrame([kept]).to_csv(tmp_path / "table.csv", index=False)
    found = attacks.gathered(tmp_path / "table.csv", tmp_path / "runs", known())
    kinds = {key: set(rows["attack"]) for key, rows in found.groupby(["method", "seed"])}
    own = {"none", "pgd", "margin"}
    assert kinds == {("old", 0): {"none"}, ("bp", 0): own, ("nbp", 0): own | {"transfer"}, ("nbp", 1): own}
    assert (found[(found.method == "nbp") & (found.attack == "none")].accuracy == 1).all()


def test_a_run_of_other_classes_is_not_attacked(tmp_path: Path) -> None:
    write(tmp_path / "runs", "bp", 0)
    with pytest.raises(InputError, match=r"bp of 0: trained on anger, .*; the test split has a, b"):
        attacks.gathered(tmp_path / "table.csv", tmp_path / "runs", replace(known(), classes=tuple("abcdefg")))


def test_another_number_of_faces_is_taken_only_where_every_row_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "ATTACKS", SMALL)
    write(tmp_path / "runs", "bp", 0)
    for method in ("old", "bp"):
        row = {"method": method, "seed": 0, "attack": "none", "eps": 0.0, "faces": 23, "accuracy": 0.5}
        pd.DataFrame([row]).to_csv(tmp_path / f"{method}.csv", index=False)
    with pytest.raises(InputError, match=r"--faces: expected 23, as for the runs in .*old.csv, found 24"):
        attacks.gathered(tmp_path / "old.csv", tmp_path / "runs", known())
    assert 24 in set(attacks.gathered(tmp_path / "bp.csv", tmp_path / "runs", known())["faces"])


def test_a_run_without_bp_of_its_seed_is_told_to_lack_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(attacks, "ATTACKS", SMALL)
    write(tmp_path / "runs", "nbp", 3)
    attacks.gathered(tmp_path / "table.csv", tmp_path / "runs", known())
    assert "no transfer, which needs bp with seed 3" in capsys.readouterr().out


def test_without_a_run_and_without_a_table_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such table, and no run with weights"):
        attacks.gathered(tmp_path / "table.csv", tmp_path, known())
