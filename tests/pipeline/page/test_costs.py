"""Costs of a training: steps, time, and why the sample profile's ratios are not README's."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench import step
from pipeline import params as parameters
from pipeline.page import costs, inputs
from pipeline.page.html import Section
from pipeline.params import Compute
from tests.pipeline.page.test_comparison import write_comparison
from tests.pipeline.page.written import paths, write_everything, write_json, write_params, write_run

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_everything(tmp_path)
    return tmp_path


def read(root: Path) -> inputs.Inputs:
    return inputs.read_inputs(paths(root), "2026-01-31")


def texts(section: Section) -> str:
    return " ".join(getattr(block, "text", "") for block in section.blocks)


def test_a_training_has_its_steps_and_its_time(root: Path) -> None:
    write_comparison(root)
    table = costs.training_section(read(root)).blocks[0]
    assert list(table.header) == [
        "Method",
        "Steps",
        "Steps to BP's accuracy",
        "Training time",
        "its ratio to BP",
        "An epoch",
    ]
    assert [list(row) for row in table.rows] == [
        ["NBP", "15", "1.00 (1 of 1)", "3 min", "1.00", "61 s"],
        ["BP", "15", "1.00 (1 of 1)", "3 min", "–", "61 s"],
    ]


def test_steps_to_the_accuracy_of_bp_come_from_the_comparison(root: Path) -> None:
    write_comparison(root)
    section = costs.training_section(read(root))
    row = dict(zip(section.blocks[0].header, section.blocks[0].rows[0], strict=True))
    assert row["Steps to BP's accuracy"] == "1.00 (1 of 1)"
    assert "share of BP's steps" in texts(section)


def test_shares_of_another_methods_steps_are_not_shown_as_those_of_bp(root: Path) -> None:
    write_comparison(root)
    found = json.loads((root / "compare.json").read_text())
    write_json(root / "compare.json", found | {"reference": "nbp"})
    section = costs.training_section(read(root))
    assert "Steps to BP's accuracy" not in section.blocks[0].header
    assert "share of BP's steps" not in texts(section)


def test_an_answer_by_exits_costs_and_scores_the_mean_over_seeds(root: Path) -> None:
    write_params(root, seeds="[0, 1]")
    for method in ("nbp", "bp"):
        write_run(root, method, seed=1)
    for number, path in enumerate(sorted(root.glob("evaluate/nbp-*/metrics.json"))):
        early = [{"exit": 0.4, "accuracy": 0.5 + number / 10, "multiply_adds": 2e6 * (number + 1)}]
        write_json(path, json.loads(path.read_text()) | {"multiply_adds": 8e6, "accuracy": 0.75, "early": early})
    assert costs.answers(read(root).of("nbp")) == pytest.approx(np.array([[3, 55], [8, 75]]))
    picture = costs.answers_section(read(root)).blocks[0]
    assert "8.0 million multiply-adds and is right in 75.0 %, at the first exit with 3.0 million" in picture.alt
    assert picture.content.startswith(b"<?xml")


def test_without_exits_the_page_has_no_section_about_them(root: Path) -> None:
    assert costs.answers_section(read(root)) is None


@pytest.mark.parametrize(("profile", "said"), [("sample", True), ("fer2013-cpu", False)])
def test_only_the_sample_profile_explains_why_its_ratios_differ(root: Path, profile: str, said: bool) -> None:
    for path in [*root.glob("*/*/run.json"), root / "params.yaml"]:
        path.write_text(path.read_text().replace("sample", profile))
    write_json(root / "bench.json", {"rows": [{"method": "nbp", "step_ms": 1.5}]})
    found = texts(costs.step_section(read(root)))
    assert ("These ratios differ from those in README" in found) is said
    assert ("% of the parameters" in found) is said


def test_heads_that_hold_less_than_at_width_96_are_not_said_to_take_more(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(root / "bench.json", {"rows": [{"method": "nbp", "step_ms": 1.5}]})
    for share, said in ((0.3, False), (0.6, True)):
        monkeypatch.setattr(costs, "head_share", lambda _, share=share: share)
        found = texts(costs.step_section(read(root)))
        assert f"{share:.0%} of the parameters" in found
        assert ("a larger part of a step here" in found) is said


def test_the_share_of_the_heads_in_the_network_of_readme_is_that_of_the_networks_parameters() -> None:
    params = parameters.load(ROOT / "params.yaml", {"profile": "fer2013-cpu"})
    cpu = params.model_copy(update={"compute": Compute("cpu")})
    nbp, bp = (step.begin(cpu, params.methods[name]).network.count() for name in ("nbp", "bp"))
    assert pytest.approx(1 - bp / nbp, abs=0.005) == costs.WIDE_HEADS


def test_the_ratio_to_bp_is_of_runs_in_like_places_alone(root: Path) -> None:
    path = root / "runs/nbp-0/run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"workers": 2}))
    evaluated = root / "evaluate/nbp-0/run.json"
    if evaluated.exists():
        evaluated.write_text(path.read_text())
    write_comparison(root)
    assert "its ratio to BP" not in costs.training_section(read(root)).blocks[0].header
