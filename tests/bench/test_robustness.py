"""Claims about bench/robustness.py."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from bench import robustness
from cfpn import checkpoint, prediction, training
from cfpn.faces import Faces
from cfpn.network import CFPN, Network, build
from cfpn.recipe import Recipe
from cfpn.training import Method
from pipeline.process import InputError

MODEL = CFPN(input_size=48, width=16, layers=1, pyramids=1)


def faces(count: int = 20) -> Faces:
    pixels = torch.randint(0, 256, (count, 1, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Faces(pixels, torch.arange(count) % 7, torch.arange(count))


def untrained(seed: int) -> Network:
    return training.start(build(MODEL, seed), Method(units="network"), Recipe(), 48, 0, torch.device("cpu")).network


def write(runs: Path, method: str, seed: int) -> None:
    name = f"{method} of {seed}"  # says nothing: run.json does
    (runs / name).mkdir(parents=True)
    network = untrained(seed)
    tensors = {key: value.contiguous() for key, value in network.predicting().items()}
    save_file(tensors, runs / name / "model.safetensors", checkpoint.about(network, asdict(MODEL)))
    data = {"fingerprint": "f", "faces": 20, "drawn": False, "classes": ["a"]}
    run = {"method": method, "seed": seed, "profile": "sample", "parameters": {}, "data": data}
    (runs / name / "run.json").write_text(json.dumps(run))


def test_noise_has_the_deviation_asked_for() -> None:
    found = robustness.noise(torch.full((50, 1, 48, 48), 128.0), 16.0, torch.Generator().manual_seed(0)) - 128
    assert found.mean().item() == pytest.approx(0, abs=0.2)
    assert found.std().item() == pytest.approx(16, rel=0.02)


@pytest.mark.parametrize("side", [8, 24, 48])
def test_occlusion_covers_one_square_of_every_face(side: int) -> None:
    found = robustness.occlusion(torch.zeros(30, 1, 48, 48), float(side), torch.Generator().manual_seed(0))[:, 0] == 128
    assert (found.sum((1, 2)) == side * side).all()
    assert (found.any(1).sum(1) == side).all()
    assert (found.any(2).sum(1) == side).all()
    assert len({face.numpy().tobytes() for face in found}) > 1 or side == 48


def test_faces_smaller_than_what_covers_them_are_an_input_error() -> None:
    with pytest.raises(InputError, match="occlusion: expected faces of 24 pixels or more a side, found 20"):
        robustness.occlusion(torch.zeros(3, 1, 20, 20), 24.0, torch.Generator())


def test_contrast_moves_pixels_towards_mid_grey() -> None:
    found = robustness.contrast(torch.tensor([0.0, 128.0, 228.0]), 0.25, torch.Generator())
    assert found.tolist() == [96, 128, 153]


def test_damaged_faces_are_the_same_every_time_and_those_of_none_are_whole() -> None:
    first, second = list(robustness.damaged(faces())), list(robustness.damaged(faces()))
    assert all(torch.equal(a.pixels, b.pixels) for (*_, a), (*_, b) in zip(first, second, strict=True))
    whole = {name: found.pixels.equal(faces().pixels) for name, _, found in first}
    assert whole == {"none": True, "noise": False, "occlusion": False, "contrast": False}


def test_a_row_holds_the_accuracy_of_a_runs_weights(tmp_path: Path) -> None:
    write(tmp_path, "bp", 3)
    table = robustness.gathered(tmp_path / "table.csv", tmp_path, faces())
    own = prediction.validate(untrained(3), faces())["val/accuracy"]
    assert table.set_index("damage").loc["none", "accuracy"] == pytest.approx(own)
    assert set(table["method"]) == {"bp"}
    assert set(table["seed"]) == {3}


def test_a_table_keeps_its_runs_and_gains_new_ones(tmp_path: Path) -> None:
    write(tmp_path / "one", "bp", 0)
    write(tmp_path / "two", "nbp", 1)
    robustness.gathered(tmp_path / "table.csv", tmp_path / "one", faces())
    table = robustness.gathered(tmp_path / "table.csv", tmp_path / "two", faces())
    assert table.groupby("method").size().to_dict() == {"bp": 9, "nbp": 9}


def test_a_run_found_replaces_all_its_rows_and_no_others(tmp_path: Path) -> None:
    old = [{"method": "bp", "seed": seed, "damage": "old", "level": 1.0, "accuracy": 0.5} for seed in (0, 1)]
    pd.DataFrame(old).to_csv(tmp_path / "table.csv", index=False)
    write(tmp_path, "bp", 0)
    table = robustness.gathered(tmp_path / "table.csv", tmp_path, faces())
    assert set(table[table.seed == 0]["damage"]) == set(robustness.DAMAGES)
    assert table.loc[table.seed == 1, [*old[1]]].to_dict("records") == old[1:]


def test_a_run_of_other_parameters_does_not_join_a_table(tmp_path: Path) -> None:
    write(tmp_path / "one", "bp", 0)
    write(tmp_path / "two", "bp", 1)
    robustness.gathered(tmp_path / "table.csv", tmp_path / "one", faces())
    about = tmp_path / "two/bp of 1/run.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"parameters": {"train": {"epochs": 8}}}))
    for table, runs in (("table.csv", "two"), ("new.csv", ".")):
        (tmp_path / "bp of 0").mkdir(exist_ok=True)
        for run in ("one/bp of 0", "two/bp of 1"):
            shutil.copytree(tmp_path / run, tmp_path / run.partition("/")[2], dirs_exist_ok=True)
        with pytest.raises(InputError, match="data or parameters differ; they cannot stand in one table"):
            robustness.gathered(tmp_path / table, tmp_path / runs, faces())


def test_a_run_that_learnt_wrong_labels_does_not_replace_the_rows_of_others(tmp_path: Path) -> None:
    for runs, train in (("one", {"wrong_labels": 0.0}), ("two", {"wrong_labels": 0.4})):
        for seed in (0, 1):
            write(tmp_path / runs, "bp", seed)
            about = tmp_path / runs / f"bp of {seed}/run.json"
            about.write_text(json.dumps(json.loads(about.read_text()) | {"parameters": {"train": train}}))
    robustness.gathered(tmp_path / "table.csv", tmp_path / "one", faces())
    before = (tmp_path / "table.csv").read_text()
    shutil.rmtree(tmp_path / "two/bp of 1")
    with pytest.raises(InputError, match="data or parameters differ; they cannot stand in one table"):
        robustness.gathered(tmp_path / "table.csv", tmp_path / "two", faces())
    assert (tmp_path / "table.csv").read_text() == before


def test_a_run_of_photographs_is_not_measured_on_drawn_faces(tmp_path: Path) -> None:
    write(tmp_path, "bp", 0)
    with pytest.raises(InputError, match="bp of 0: learnt from photographs, and --splits holds drawn faces"):
        robustness.gathered(tmp_path / "table.csv", tmp_path, replace(faces(), drawn=True))
    assert not (tmp_path / "table.csv").exists()


def test_a_run_of_other_classes_or_channels_is_not_measured(tmp_path: Path) -> None:
    write(tmp_path, "bp", 0)
    for other in ({"classes": tuple("abcdefg")}, {"pixels": faces().pixels.expand(-1, 3, -1, -1)}):
        with pytest.raises(InputError, match=r"bp of 0: trained on anger, .*; 1 channels; the test split has "):
            robustness.gathered(tmp_path / "table.csv", tmp_path, replace(faces(), **other))
    assert not (tmp_path / "table.csv").exists()


def test_a_run_trained_anew_with_other_parameters_replaces_its_own_rows(tmp_path: Path) -> None:
    write(tmp_path, "bp", 0)
    robustness.gathered(tmp_path / "table.csv", tmp_path, faces())
    about = tmp_path / "bp of 0/run.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"parameters": {"train": {"epochs": 8}}}))
    table = robustness.gathered(tmp_path / "table.csv", tmp_path, faces())
    assert (len(table), table["conditions"].nunique()) == (9, 1)


def test_a_run_that_is_done_stands_in_the_table_when_the_next_one_fails(tmp_path: Path) -> None:
    old = [{"method": "bp", "seed": seed, "damage": "old", "level": 1.0, "accuracy": 0.5} for seed in (1, 2)]
    pd.DataFrame(old).to_csv(tmp_path / "table.csv", index=False)
    write(tmp_path, "bp", 0)
    write(tmp_path, "bp", 1)
    (tmp_path / "bp of 1/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="bp of 1"):
        robustness.gathered(tmp_path / "table.csv", tmp_path, faces())
    table = pd.read_csv(tmp_path / "table.csv")
    assert table.groupby("seed").size().to_dict() == {0: 9, 2: 1}  # rows of a run to be replaced mix with no new ones


@pytest.mark.parametrize("text", ["", "method,seed,attack,eps,accuracy\nbp,0,pgd,1,0.5\n", "a,b\n1,2\n"])
def test_another_table_is_refused_and_keeps_its_rows(tmp_path: Path, text: str) -> None:
    write(tmp_path / "runs", "bp", 0)
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(InputError, match=r"table\.csv"):
        robustness.gathered(tmp_path / "table.csv", tmp_path / "runs", faces())


def test_two_runs_of_one_method_and_seed_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "bp", 0)
    (tmp_path / "bp of 0").rename(tmp_path / "other")
    write(tmp_path, "bp", 0)
    with pytest.raises(InputError, match="both are bp with seed 0"):
        robustness.gathered(tmp_path / "table.csv", tmp_path, faces())


def test_a_folder_without_runs_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such table, and no run with weights"):
        robustness.gathered(tmp_path / "table.csv", tmp_path, faces())
