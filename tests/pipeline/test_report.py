"""The page stands alone, says what its numbers are, and is the same bytes for the same inputs."""

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from cfpn import schema
from cfpn.schema import EXPRESSIONS, Description
from pipeline.metrics import METRICS
from pipeline.page import audit, figures, inputs
from pipeline.page.html import flatten
from pipeline.process import InputError
from pipeline.report import report
from tests.pipeline.page.written import (
    DRAWN,
    TRANSFORMS,
    build,
    write_augmented,
    write_everything,
    write_json,
    write_params,
    write_run,
    write_split,
    write_splits,
)

SPREAD = ("mean", "min", "max")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Splits with an audit, parameters, an NBP run and a BP run."""
    write_everything(tmp_path)
    return tmp_path


def read(root: Path) -> str:
    """What a reader sees of the page, without mark-up; the pictures are not drawn, for speed."""
    with mock.patch.object(figures, "_encode", return_value=b"picture"):
        page = build(root)
    return " ".join(unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).split())


class References(HTMLParser):
    """Collects what a page points to, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset", "poster") and value]
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_beside_it(root: Path) -> None:
    page, parser = build(root), References()
    parser.feed(page)
    assert parser.open == []
    beside = [target for target in parser.found if not target.startswith(("data:", "#"))]
    assert beside == ["../sweeps/report/index.html"], "the page of the sweeps, which the page can do without"
    assert {target[1:] for target in parser.found if target.startswith("#")} <= set(parser.ids)
    assert not re.search(r"@import|url\(|<script|https?://", re.sub(r'"data:[^"]*"', "", page))


def test_every_picture_is_a_file_too_and_two_reports_are_the_same_bytes(root: Path) -> None:
    write_augmented(root / "augmented.parquet", blockwise=False)
    page = build(root, "a")
    assert build(root, "b") == page
    names = sorted(path.name for path in (root / "a").iterdir())
    for name in names:
        assert (root / "a" / name).read_bytes() == (root / "b" / name).read_bytes()
    assert page.count('<figure class="picture') == len(names) - 2
    assert {"learning-curves.svg", "confusion-bp-0.svg", "predictions-nbp-0.png", "augmentation.png"} <= set(names)


def test_the_page_as_markdown_has_the_same_tables_and_the_pictures_beside_it(root: Path) -> None:
    page = build(root)
    text = (root / "out/README.md").read_text()
    headings = re.findall(r"<h[12]>(.*?)</h[12]>", page)
    assert [unescape(one) for one in headings] == [
        unescape(one) for one in re.findall(r"^##? (.*)$", text, re.MULTILINE)
    ]
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", text)
    assert sorted([*pictures, "README.md", "index.html"]) == sorted(path.name for path in (root / "out").iterdir())
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == page.count("<thead>") + 1
    assert all(len({line.replace("\\|", "").count("|") for line in rows}) == 1 for rows in tables)


def test_figures_4_to_8_of_the_paper_are_named(root: Path) -> None:
    text = read(root)
    for number in range(4, 9):
        assert f"(paper Fig {number})" in text


def test_generated_faces_are_named_as_such(root: Path) -> None:
    text = read(root)
    assert "The faces on this page are generated" in text
    assert "not FER2013 results" in text


def test_real_faces_are_not_called_generated(root: Path) -> None:
    write_splits(root, Description())
    write_params(root, source="data/sample_x.csv")
    text = read(root)
    assert "generated" not in text
    assert "data/sample_x.csv" in text


def test_the_page_says_which_split_did_what_and_does_not_quote_the_training_accuracy_as_a_score(root: Path) -> None:
    text = read(root)
    assert "epoch chosen on PublicTest (21), reported once on PrivateTest (30)" in text
    assert "0.9946 is not quoted as a test score" in text
    assert "Pramerdorfer & Kampel 2016" in text


def test_the_result_table_holds_the_numbers_of_the_evaluation(root: Path) -> None:
    scores = json.loads((root / "evaluate/nbp-0/metrics.json").read_text())
    text = read(root)
    first, *others = (metric.text(scores[metric.name]) for metric in METRICS)
    error = f"{100 * scores['accuracy_standard_error']:.1f}"
    assert f"NBP 0 12,345 {first} ± {error} {' '.join(others)} " in text


def test_runs_whose_units_classify_get_a_table_of_them(root: Path) -> None:
    assert "every unit's own classifier" not in read(root)
    path = root / "evaluate/nbp-0/metrics.json"
    units = {"accuracy_by_unit": {"block1": 0.123, "the rest": 0.234}, "accuracy_of_vote": 0.345}
    write_json(path, json.loads(path.read_text()) | units)
    assert "Run block1 the rest vote nbp-0 12.3 % 23.4 % 34.5 %" in read(root)


def test_several_seeds_get_a_mean_with_the_deviation_between_them(root: Path) -> None:
    write_params(root, seeds="[0, 10]")
    write_run(root, "nbp", 10)
    scores = [json.loads((root / f"evaluate/nbp-{seed}/metrics.json").read_text())["accuracy"] for seed in (0, 10)]
    assert f"NBP mean of 2 {100 * np.mean(scores):.1f} ± {100 * np.std(scores, ddof=1):.1f}" in read(root)


def test_a_collapsed_run_is_flagged_before_the_results(root: Path) -> None:
    write_params(root, seeds="[0, 1]")
    write_run(root, "bp", 1, collapsed=True)
    text = read(root)
    assert text.index("bp-1 has collapsed") < text.index("NBP against BP on the test split")
    assert "BP – collapsed 1" in text
    assert "nbp-0 has collapsed" not in text


def test_runs_that_the_parameters_do_not_name_are_left_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(root, "bp", 7)
    text = read(root)
    assert "bp-7" not in text
    assert "bp-7" in capsys.readouterr().err


def test_a_single_method_without_evaluation_audit_or_measurements_gives_a_page(root: Path) -> None:
    write_params(root, methods="[bp]")
    (root / "evaluate/bp-0/metrics.json").unlink()
    (root / "splits/audit.json").unlink()
    text = read(root)
    for absent in ("Speed and memory", "Audit", "Augmentation", "Confusion", "Information plane", "NBP 0"):
        assert absent not in text
    assert "BP 0 12,345 –" in text


@pytest.mark.parametrize("blockwise", [True, False])
def test_the_variants_of_one_face_are_found_in_either_order(root: Path, blockwise: bool) -> None:
    write_augmented(root / "augmented.parquet", blockwise)
    variants = inputs.read_transforms(root / "augmented.parquet")
    assert tuple(variants) == TRANSFORMS
    assert [face[0, 0, 0] for face in variants.values()] == list(range(40, 47))


def test_measured_times_and_memory_become_a_table(root: Path) -> None:
    row = {"method": "nbp", "step_ms": 588.1, "step_ratio": 0.963, "step_ratio_quartiles": [0.691, 1.177]}
    row |= {"peak_mib": 1402.5, "peak_ratio": 0.44}
    write_json(root / "bench.json", {"rows": [row], "batch": 128, "input_size": 48, "device": "CPU"})
    text = read(root)
    assert "batch 128, input size 48, device CPU" in text
    assert "NBP 588 0.96 0.69 to 1.18 1,402 0.44" in text
    assert "quartiles" in text and "step_ratio" not in text


def test_sweeps_and_networks_have_sections_of_their_own_where_there_are_any(root: Path) -> None:
    assert "Sweeps" not in (text := read(root)) and "Networks compared" not in text
    about = {"space": {}, "fixed": {}, "method": "nbp", "params": {"profile": "sample"}, "data": {}}
    for name, axis in (("activation", "model.activation"), ("models", "models")):
        (root / "sweeps" / name).mkdir(parents=True)
        write_json(root / f"sweeps/{name}/sweep.json", about | {"space": {axis: ["relu"], "seed": [0]}})
        row = {axis: "relu", "seed": 0, "status": "complete", "val/accuracy": 0.5}
        pd.DataFrame([row]).to_csv(root / f"sweeps/{name}/trials.csv")
        row = {"setting": "relu", axis: "relu", "epoch": 1, "n": 1} | {f"val/accuracy/{how}": 0.5 for how in SPREAD}
        pd.DataFrame([row]).to_csv(root / f"sweeps/{name}/curves.csv")
    row = {"models": "relu", "rate": "common", "train.schedule.learning_rate": 0.1, "parameters": 5}
    pd.DataFrame([row]).to_csv(root / "sweeps/models/models.csv")
    text = read(root)
    assert "Sweeps Activation functions (paper Fig 9): profile sample" in text
    assert "Networks compared Networks (paper Fig 11): profile sample" in text
    assert "commands of their own: make sweep NAME=learning_rate. Then" in text
    assert "../sweeps" not in text


def test_the_page_names_the_commands_for_the_figures_that_it_lacks_and_links_their_page(root: Path) -> None:
    text = read(root)
    stages = (Path(__file__).parents[2] / "sweeps/dvc.yaml").read_text()
    for name in ("activation", "learning_rate", "models"):
        assert f"make sweep NAME={name}" in text and name in stages
    assert "make sweep NAME=report writes a page like this one with their figures: ../sweeps/report/index.html" in text


def test_the_audit_shows_every_count_of_the_file(root: Path) -> None:
    page = read(root)
    section = page[page.rindex("Audit of the data") : page.rindex("Settings")]
    for _, value in flatten(json.loads((root / "splits/audit.json").read_text())):
        assert re.search(rf"\b{int(value):,}\b", section)
    for title in ("Constant faces", "Identical faces", "groups with conflicting labels", "duplicates"):
        assert title in section


@pytest.mark.parametrize(
    "nested",
    [
        {"rows": 5},
        {"a": {"b": 11, "c": 12}},
        {"a": {"b": {"x": 11, "y": 12}, "c": {"x": 13}}},
        {"a": {"total": 10, "b": {"x": 11}}, "d": 14},
        {"a": {"n": 10, "b": {"x": {"p": 11, "q": 12}}, "c": {"y": 13}}},
    ],
)
def test_an_audit_of_any_shape_loses_no_count(nested: dict[str, Any]) -> None:
    tables = list(audit.audit_tables(nested))
    shown = " ".join(
        [table.caption for table in tables] + [cell for table in tables for row in table.rows for cell in row]
    )
    for _, number in flatten(nested):
        assert re.search(rf"\b{number}\b", shown), number


def test_texts_of_the_inputs_are_escaped(root: Path) -> None:
    write_params(root, source='"<b>x</b>.csv"')
    assert "&lt;b&gt;x&lt;/b&gt;.csv" in build(root)


def test_an_expression_that_a_split_lacks_leaves_a_gap_only(root: Path) -> None:
    train = inputs.read_split(root / "splits/train.parquet")
    kept = train.labels != 1
    schema.write(root / "splits/train.parquet", train.pixels[kept], train.labels[kept], train.rows[kept], DRAWN)
    assert "disgust" in read(root)


@pytest.mark.parametrize(("name", "value"), [("seeds", "0"), ("methods", "nbp"), ("seeds", "{a: 1}")])
def test_methods_and_seeds_that_are_no_lists_are_refused_by_name(root: Path, name: str, value: str) -> None:
    write_params(root, **{name: value})
    with pytest.raises(InputError, match=rf"params\.yaml: run\.{name}: expected a list, found "):
        build(root)


def test_nothing_is_written_where_an_input_is_missing(root: Path) -> None:
    (root / "splits/val.parquet").unlink()
    with pytest.raises(InputError, match=r"val\.parquet"):
        build(root)
    assert not (root / "out").exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", "NaN"])
def test_a_damaged_json_file_is_an_error_that_names_it(root: Path, content: str) -> None:
    (root / "bench.json").write_text(content)
    with pytest.raises(InputError, match=r"bench\.json"):
        build(root)


def test_no_finished_run_is_an_error_that_says_what_was_looked_for(root: Path) -> None:
    write_params(root, seeds="[5]")
    with pytest.raises(InputError, match=r"runs: no finished run; expected folders with run\.json"):
        build(root)


def test_predictions_of_another_test_split_are_refused(root: Path) -> None:
    write_split(root / "splits/test.parquet", 28, 9, 500)
    with pytest.raises(InputError, match="evaluate again"):
        build(root)


def test_all_seven_expressions_have_a_recall_column(root: Path) -> None:
    assert " ".join(("Run", *EXPRESSIONS)) in read(root)


def test_a_readme_that_is_no_reports_is_not_replaced(root: Path) -> None:
    (root / "own").mkdir()
    (root / "own/README.md").write_text("mine")
    with pytest.raises(InputError, match=r"own: has a README\.md of its own"):
        report(root / "own", mock.Mock())
    assert [path.read_text() for path in (root / "own").iterdir()] == ["mine"]
