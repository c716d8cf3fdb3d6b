"""The part about sweeps shows every setting and failure, says under which conditions, and refuses damaged tables."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pandas as pd
import pytest

from pipeline.page import curves, figures, sweeps
from pipeline.page.html import Picture, Section, Table, Text
from pipeline.page.sweeps import MODELS, RATE
from pipeline.process import InputError

ACTIVATIONS = [{"model.activation": "relu"}, {"model.activation": "tanh"}]
NETWORKS = [{MODELS: name, RATE: rate} for name in ("CFPN-NBP", "AlexNet") for rate in (0.001, 0.005)]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_sweep(root: Path, name: str, axes: list[dict[str, Any]], seeds: int = 2, **about: object) -> None:
    """Tables of a sweep of two epochs over the given settings, the later ones better; a seed adds 0.02."""
    rows, trials = [], []
    for i, axis in enumerate(axes):
        for epoch in (1, 2):
            spread = {
                "val/accuracy/mean": 0.3 + 0.1 * i,
                "val/accuracy/min": 0.1 * i,
                "val/accuracy/max": 0.4 + 0.1 * i,
            }
            rows.append({"setting": f"s{i}"} | axis | {"epoch": epoch, "n": seeds} | spread)
        for seed in range(seeds):
            trial = {"trial": f"s{i}-{seed}"} | axis | {"seed": seed, "status": "complete", "reason": ""}
            trials.append(trial | {"val/accuracy": 0.3 + 0.1 * i + 0.02 * seed})
    write(root, name, "curves", rows)
    write(root, name, "trials", trials)
    data = {key: digest(root / f"splits/{file}.parquet") for key, file in (("original", "train"), ("val", "val"))}
    space = {axis: [] for axis in sorted({"seed", *axes[0]})}
    known = {"space": space, "fixed": {}, "method": "nbp", "params": {"profile": "sample"}, "data": data}
    (root / "sweeps" / name / "sweep.json").write_text(json.dumps(known | about))


def write(root: Path, name: str, table: str, rows: list[dict[str, Any]]) -> None:
    (root / "sweeps" / name).mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(root / "sweeps" / name / f"{table}.csv", index=False)


def edit(root: Path, name: str, table: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = root / "sweeps" / name / f"{table}.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)


def write_networks(root: Path, name: str = "models") -> None:
    """A sweep of two networks at two learning rates with their accuracies."""
    write_sweep(root, name, NETWORKS)
    scores = {"n": 2, "failed": 0, "test/accuracy/mean": 0.625, "test/accuracy/std": 0.02, "parameters": 94000}
    kinds = [("common", 0.005), ("tuned", 0.001)]
    rows = [{MODELS: one[MODELS], "rate": kind, RATE: rate} | scores for one in NETWORKS[::2] for kind, rate in kinds]
    write(root, name, "models", rows)


def write_costs(root: Path, names: Sequence[str] = ("CFPN-NBP", "AlexNet"), parameters: int = 94000) -> None:
    """What a step of these networks costs."""
    about = {"input_size": 64, "batch": 32, "rounds": 12, "device": "CPU", "threads": 1}
    cost = {"parameters": parameters, "multiply_adds": 3000000, "step_ms": 12.5, "step_ratio": 1.5}
    cost |= {"step_ratio_low": 1.4, "step_ratio_high": 1.6, "peak_mib": 250.4}
    write(root, "models", "cost", [{MODELS: name} | cost | about for name in names])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Faces of the page, and no sweep yet."""
    (tmp_path / "splits").mkdir()
    for name in ("train", "val", "test"):
        (tmp_path / f"splits/{name}.parquet").write_text(name)
    return tmp_path


def sections(root: Path) -> list[Section]:
    page = SimpleNamespace(sweeps=sweeps.read(root / "sweeps", root / "splits", root / "augmented.parquet"))
    found = [sweeps.parameters_section(page), sweeps.networks_section(page)]
    return [section for section in found if section is not None]


def read(root: Path) -> str:
    """What a reader sees; the pictures are drawn and not encoded, for speed."""
    with mock.patch.object(figures, "_encode", return_value=b"picture"):
        return "\n".join(line for section in sections(root) for block in section.blocks for line in lines(block))


def lines(block: Picture | Table | Text) -> list[str]:
    if isinstance(block, Text):
        return [f"{block.mark}: {block.text}"]
    if isinstance(block, Picture):
        return [f"{block.name}: {block.caption}"]
    return [block.caption, *(" | ".join(row) for row in (block.header, *block.rows))]


def drawn(root: Path) -> list[dict[str, pd.DataFrame]]:
    """The panels of every picture of curves."""
    with mock.patch.object(curves, "sweep_curves", wraps=curves.sweep_curves) as draw:
        read(root)
    return [call.args[0] for call in draw.call_args_list]


def test_without_sweeps_there_is_no_section(root: Path) -> None:
    assert sections(root) == []


def test_a_setting_shows_mean_and_deviation_of_its_best_epochs(root: Path) -> None:
    write_sweep(root, "activation", ACTIVATIONS)
    text = read(root)
    assert "Activation | Validation accuracy, % | Trials\nrelu | 31.0 ± 1.4 | 2 complete\ntanh | 41.0 ± 1.4" in text
    assert "(paper Fig 9): validation accuracy over 2 epochs. Lines are means over seeds" in text


def test_one_seed_has_no_mean_and_no_deviation(root: Path) -> None:
    write_sweep(root, "activation", ACTIVATIONS, seeds=1)
    text = read(root)
    assert "1 seed per setting" in text and "relu | 30.0 | 1 complete" in text
    assert "means over seeds" not in text


def test_a_sweep_of_one_trial_is_a_sweep(root: Path) -> None:
    write_sweep(root, "activation", ACTIVATIONS[:1], seeds=1)
    assert read(root).endswith("\nrelu | 30.0 | 1 complete")


def test_the_conditions_of_a_sweep_stand_above_it(root: Path) -> None:
    write_sweep(root, "activation", ACTIVATIONS, fixed={"train.epochs": 2, "model": {"width": 8}}, method="bp")
    first = read(root).splitlines()[0]
    assert (
        "profile sample with train.epochs 2, model.width 8; method BP; 2 seeds per setting; the faces of this" in first
    )


def test_a_sweep_on_other_faces_says_so_in_a_box(root: Path) -> None:
    write_sweep(root, "activation", ACTIVATIONS)
    assert read(root).startswith(": ")
    (root / "splits/train.parquet").write_text("other")
    first = read(root).splitlines()[0]
    assert first.startswith("note: ") and "other faces than those of this page" in first


def test_a_sweep_on_augmented_faces_is_of_the_page_only_with_the_same_augmented_file(root: Path) -> None:
    (root / "augmented.parquet").write_text("seven")
    write_sweep(root, "activation", ACTIVATIONS, data={"augmented": digest(root / "augmented.parquet")})
    assert "the faces of this page" in read(root)
    (root / "augmented.parquet").unlink()
    assert "other faces" in read(root)


def test_a_sweep_of_any_name_is_shown_after_those_of_the_paper(root: Path) -> None:
    write_sweep(root, "a_width", [{"model.width": 32}])
    write_sweep(root, "beta", [{"methods.nbp.objective.dependence.beta": 10}])
    text = read(root)
    assert text.index("The weight beta") < text.index("Sweep a width")


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("curves", "setting"),
        ("curves", "model.activation"),
        ("curves", "val/accuracy/max"),
        ("trials", "model.activation"),
        ("trials", "seed"),
        ("trials", "status"),
    ],
)
def test_a_damaged_table_is_named_with_the_column_it_lacks(root: Path, table: str, column: str) -> None:
    write_sweep(root, "activation", ACTIVATIONS)
    edit(root, "activation", table, lambda rows: rows.drop(columns=column))
    with pytest.raises(InputError, match=rf"activation/{table}\.csv: no column {column}, found "):
        read(root)


@pytest.mark.parametrize("content", [None, "", 'a,b\n"1'])
def test_a_table_that_is_missing_or_no_table_is_named(root: Path, content: str | None) -> None:
    write_sweep(root, "activation", ACTIVATIONS)
    path = root / "sweeps/activation/trials.csv"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=r"activation/trials\.csv: "):
        read(root)


def test_a_sweep_json_without_a_needed_key_is_named(root: Path) -> None:
    write_sweep(root, "activation", ACTIVATIONS)
    (root / "sweeps/activation/sweep.json").write_text('{"space": {}}')
    with pytest.raises(InputError, match=r"sweep\.json: no key fixed"):
        read(root)


def test_null_and_none_are_values_and_not_missing_cells(root: Path) -> None:
    write_sweep(root, "pool", [{"pool": value} for value in ("null", "None", "NA")])
    text = read(root)
    assert all(f"\n{value} | " in text for value in ("null", "None", "NA"))
    assert [list(dict.fromkeys(panel[""]["label"])) for panel in drawn(root)] == [["null", "None", "NA"]]


def test_axes_keep_the_order_of_the_sweep_and_are_named_where_there_are_several(root: Path) -> None:
    write_sweep(root, "shape", [{"train.batch_size": 8, "model.width": 16}])
    assert "\nSetting | " in read(root) and "\nbatch size 8, width 16 | " in read(root)


def test_trials_that_failed_stand_beside_those_that_did_not(root: Path) -> None:
    write_sweep(root, "activation", ACTIVATIONS)
    statuses, accuracies = ["complete"] * 3 + ["diverged"], [0.3, 0.32, 0.4, None]
    edit(root, "activation", "trials", lambda rows: rows.assign(status=statuses, **{"val/accuracy": accuracies}))
    assert "tanh | 40.0 | 1 complete, 1 diverged" in read(root)


def test_a_sweep_of_failures_alone_has_a_table_and_no_picture(root: Path) -> None:
    write_sweep(root, "learning_rate", [{RATE: rate} for rate in (1, 10, 100)])
    write_networks(root)
    for name in ("learning_rate", "models"):
        edit(root, name, "curves", lambda rows: rows.iloc[:0])
        edit(root, name, "trials", lambda rows: rows.assign(status="failed", **{"val/accuracy": None}))
    text = read(root)
    assert "\n100 | – | 2 failed" in text and "paper Table II" in text
    assert ".svg" not in text


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.001, 0.01, 0.1], True),
        ([1, 10, 100], True),
        ([1, 10], False),
        ([0, 1, 2], False),
        (["a", "b", "c"], False),
        ([False, True], False),
    ],
)
def test_three_positive_numbers_get_a_picture_of_the_best_accuracy(root: Path, values: list[Any], shown: bool) -> None:
    write_sweep(root, "one", [{"x.some_name": value} for value in values])
    text = read(root)
    assert ("sweep-one-best.svg: Validation accuracy of the best epoch over some name" in text) is shown


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ([0.1], "The best mean, 60.0 %, is at rate 0.01. Trials failed or diverged at 0.1."),
        ([0.01, 0.1], "Trials failed or diverged at 0.01, 0.1."),
        ([], "The best mean, 65.0 %, is at rate 0.1."),
    ],
)
def test_a_value_at_which_a_trial_failed_is_not_called_the_best(lost: list[float], words: str) -> None:
    assert sweeps.best_words("rate", pd.Series({0.01: 0.6, 0.1: 0.65}), lost) == words


def test_a_value_at_which_every_trial_failed_does_not_stretch_the_picture_of_the_best(root: Path) -> None:
    write_sweep(root, "learning_rate", [{RATE: rate} for rate in (0.1, 0.2, 0.3, 1e30)])
    edit(root, "learning_rate", "trials", lambda rows: rows.assign(**{"val/accuracy": [0.5] * 6 + [None] * 2}))
    with mock.patch.object(curves, "best_over", wraps=curves.best_over) as draw:
        assert "\n1e+30 | – | " in read(root)
    assert draw.call_args.args[1].index.tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(("count", "said"), [(12, False), (14, True)])
def test_more_than_twelve_settings_are_listed_and_only_the_best_twelve_drawn(
    root: Path, count: int, said: bool
) -> None:
    write_sweep(root, "width", [{"model.width": 1 + i} for i in range(count)], seeds=1)
    text = read(root)
    assert (f"Of {count} settings the 12 best are drawn." in text) is said
    assert "\n1 | 30.0 | 1 complete\n2 | 40.0 | 1 complete\n3 | 50.0" in text  # fmt: skip
    (panels,) = drawn(root)
    assert panels[""]["model.width"].unique().tolist() == list(range(count - 11, count + 1))


def test_networks_are_drawn_at_the_common_and_at_their_own_learning_rate(root: Path) -> None:
    write_networks(root)
    (panels,) = drawn(root)
    assert {title: panel["label"].unique().tolist() for title, panel in panels.items()} == {
        "the common learning rate": ["CFPN-NBP, 0.005", "AlexNet, 0.005"],
        "each network's own learning rate": ["CFPN-NBP, 0.001", "AlexNet, 0.001"],
    }
    assert all(panel["tint"].tolist() == panel[MODELS].tolist() for panel in panels.values())


def test_table_2_has_accuracies_and_costs_of_each_network(root: Path) -> None:
    write_networks(root)
    write_costs(root)
    text = read(root)
    assert "AlexNet | common: 0.005 | 62.5 ± 2.0 | 12.5 | 1.50 (1.40 to 1.60) | 94,000 | 3,000,000 | 250" in text
    assert "AlexNet | tuned: 0.001 | 62.5 ± 2.0 | 12.5 | " in text
    assert "(batch 32, input size 64, rounds 12, device CPU, threads 1)" in text


def test_before_costs_are_measured_table_2_has_no_columns_for_them(root: Path) -> None:
    write_networks(root)
    text = read(root)
    assert "Network | Learning rate | Test accuracy, % | Parameters\n" in text
    assert "Times and memory" not in text


def test_a_network_without_costs_has_dashes(root: Path) -> None:
    write_networks(root)
    write_costs(root, ["AlexNet"])
    text = read(root)
    assert "CFPN-NBP | common: 0.005 | 62.5 ± 2.0 | – | – | 94,000 | – | –" in text
    assert "batch 32, input size 64" in text


def test_costs_of_another_network_of_the_same_name_are_refused(root: Path) -> None:
    write_networks(root)
    write_costs(root, parameters=95000)
    with pytest.raises(InputError, match=r"models/cost\.csv: of another CFPN-NBP than models\.csv"):
        read(root)


def test_a_network_that_failed_at_every_rate_has_its_count_and_no_accuracy(root: Path) -> None:
    write_networks(root)
    write_costs(root)
    columns = ["test/accuracy/mean", "test/accuracy/std", "parameters"]
    bad = {MODELS: "AlexNet", "n": 2, "failed": 2} | dict.fromkeys(columns)
    rows = pd.read_csv(root / "sweeps/models/models.csv").iloc[:2].to_dict("records")
    write(root, "models", "models", [*rows, bad | {"rate": "common", RATE: 0.005}, bad | {"rate": "tuned", RATE: None}])
    text = read(root)
    assert "\nAlexNet | common: 0.005 | – | 12.5 | 1.50 (1.40 to 1.60) | 94,000 | 3,000,000 | 250 | 2\n" in text
    assert "\nAlexNet | tuned: – | – | 12.5 |" in text


def test_where_the_rate_does_not_vary_each_network_has_one_row_and_one_panel(root: Path) -> None:
    write_networks(root)
    write_sweep(root, "models", [{MODELS: "CFPN-NBP"}, {MODELS: "AlexNet"}])
    text = read(root)
    assert "tuned" not in text and text.count("\nAlexNet | common") == 1
    assert [list(panels) for panels in drawn(root)] == [[""]]


def test_the_pictures_are_the_same_bytes_twice(root: Path) -> None:
    write_networks(root)
    write_sweep(root, "learning_rate", [{RATE: rate} for rate in (0.1, 0.2, 0.3)])
    assert sections(root) == sections(root)
    pictures = [block for section in sections(root) for block in section.blocks if isinstance(block, Picture)]
    assert [len(picture.content) > 1000 for picture in pictures] == [True] * 3


def test_a_tracked_sweep_has_a_row_per_setting_and_networks_at_one_rate_a_row_each(root: Path) -> None:
    write_sweep(root, "activation", ACTIVATIONS)
    assert sweeps.summary(root / "sweeps/activation")[1][1] == ["tanh", "41.0 ± 1.4", "2 complete"]
    write_networks(root)
    header, rows = sweeps.summary(root / "sweeps/models")
    assert [row[0] for row in rows] == ["CFPN-NBP, 0.001", "CFPN-NBP, 0.005", "AlexNet, 0.001", "AlexNet, 0.005"]
    write_sweep(root, "tuned", [{MODELS: "CFPN-NBP"}, {MODELS: "AlexNet"}])
    scores = {"rate": "tuned", RATE: 0.002, "parameters": 94000, "test/accuracy/mean": 0.5, "failed": 0}
    write(root, "tuned", "models", [{MODELS: name} | scores for name in ("CFPN-NBP", "AlexNet")])
    header, rows = sweeps.summary(root / "sweeps/tuned")
    assert [dict(zip(header, row, strict=True))["Learning rate"] for row in rows] == ["tuned: 0.002", "tuned: 0.002"]
    assert [line.get_label() for line in sweeps.picture(root / "sweeps/tuned").axes[0].lines] == ["CFPN-NBP", "AlexNet"]
