"""The picture of accuracy over minutes and memory tells what the tables of the studies say."""

import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline.page import resources
from pipeline.page.html import method_name

METHODS = ("bp", "deep_supervision", "nbp")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two seeds of three methods, two epochs of 60 steps; the n-th of WAYS learns from 100 n faces a second."""
    rows = [
        {"method": method, "seed": seed, "epoch": epoch, "step": 60 * epoch, "val/accuracy": 0.2 * epoch + 0.1 * seed}
        | {"best_epoch": 2, "test/accuracy": 0.5 + 0.1 * seed, "test/test_faces": 10}
        for method in METHODS
        for seed in (0, 1)
        for epoch in (1, 2)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "main.csv", index=False)
    rates = [{"row": row, "faces_per_second": 100 * place} for place, row in enumerate(resources.WAYS, 1)]
    (tmp_path / "parallel.json").write_text(json.dumps({"batch": 50, "rows": rates}))
    steps = [{"method": name, "peak_mib": 100.0 + place} for place, name in enumerate((*METHODS, "layers"))]
    (tmp_path / "step.json").write_text(json.dumps({"rows": steps}))
    return tmp_path


def test_a_line_ends_when_its_faces_have_been_learnt_from_at_its_speed(folder: Path) -> None:
    lines = resources.resources(folder).axes[0].get_lines()
    assert len(lines) == len(resources.WAYS)
    for place, (line, (method, *_)) in enumerate(zip(lines, resources.WAYS.values(), strict=True), 1):
        assert str(line.get_label()).startswith(method_name(method))
        assert line.get_xdata() == pytest.approx([60 * epoch * 50 / (100 * place) / 60 for epoch in (1, 2)])
        assert line.get_ydata() == pytest.approx([0.25, 0.45])  # means over seeds


def test_a_point_stands_at_memory_and_mean_accuracy_of_a_method_of_both_tables(folder: Path) -> None:
    axes = resources.resources(folder).axes[1]
    points = [container.lines[0].get_xydata()[0].tolist() for container in axes.containers]
    assert points == [pytest.approx([100 + place, 0.55]) for place in range(3)]


def test_a_method_has_one_colour_in_both_halves_whatever_else_the_study_holds(folder: Path) -> None:
    study = pd.read_csv(folder / "main.csv")
    other = study[study["method"] == "bp"].replace({"bp": "aaa"})
    pd.concat([other, study]).to_csv(folder / "main.csv", index=False)
    time, memory = resources.resources(folder).axes
    lines = {str(line.get_label()).partition(",")[0]: line.get_color() for line in time.get_lines()}
    points = {str(one.get_label()): one.lines[0].get_color() for one in memory.containers}
    assert {name: lines[name] for name in points} == points


def test_partitions_are_drawn_where_both_tables_have_them(folder: Path) -> None:
    pd.read_csv(folder / "main.csv").replace({"deep_supervision": "nbp_layer"}).to_csv(folder / "partition.csv")
    rows = [{"method": name, "peak_mib": mib} for name, mib in (("bp", 90.0), ("nbp_layer", 30.0), ("layers", 20.0))]
    (folder / "step48.json").write_text(json.dumps({"rows": rows}))
    (axes,) = resources.partitions(folder).axes
    points = [container.lines[0].get_xydata()[0].tolist() for container in axes.containers]
    assert points == [pytest.approx([90, 0.55]), pytest.approx([30, 0.55])]
