"""The W&B workspace and report are built without an account; only saving needs one."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import params as parameters
from tune import dashboard, spaces, track
from tune.results import Outcome
from tune.spaces import Sweep
from tune.trial import Summary

pytest.importorskip("wandb_workspaces")
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")  # the package's own
NOWHERE = Path("no/sweep/ran/here")
RAW = parameters.read(Path(__file__).parents[2] / "params.yaml")


def test_the_papers_figures_come_first_and_every_sweep_has_one() -> None:
    shown = dashboard.figures(RAW, NOWHERE)
    assert [figure.title.partition(":")[0] for figure in shown[:4]] == ["Fig. 8", "Fig. 9", "Fig. 10", "Fig. 11"]
    assert {figure.sweep for figure in shown} == set(RAW["sweeps"])
    assert shown[0].shown["axes.models"] == ["CFPN-NBP", "CFPN-BP"]


def test_panels_show_the_mean_over_seeds_of_what_runs_log() -> None:
    for figure in dashboard.figures(RAW, NOWHERE):
        for panel in dashboard.panels(figure):
            assert panel.x == "epoch"
            assert panel.y[0] in ("val/accuracy", "val/loss", "train/loss")
            assert panel.groupby.name == f"axes.{figure.by}"
            assert (panel.groupby_aggfunc, panel.groupby_rangefunc) == ("mean", "stddev")


def test_each_figure_of_the_report_is_of_its_own_sweeps_runs() -> None:
    shown = dashboard.figures(RAW, NOWHERE)
    made = dashboard.report("team", "project", shown)
    grids = [block for block in made.blocks if hasattr(block, "runsets")]
    assert [grid.runsets[0].name for grid in grids] == [figure.sweep for figure in shown]
    for grid, figure in zip(grids, shown, strict=True):
        assert all(f'Config("{name}")' in str(grid.runsets[0].filters) for name in figure.shown)
        assert len(grid.panels) == 3


def test_lines_are_means_over_seeds_alone_and_never_over_learning_rates_or_profiles() -> None:
    for figure in dashboard.figures(RAW, NOWHERE):
        sweep = spaces.with_common_rate(spaces.read(RAW, figure.sweep, [], {}, None, 3))
        found = Counter()
        for profile in ("sample", "paper"):
            raw = RAW | {"profile": profile}
            found.update(lines(figure, replace(sweep, raw=raw)))
        assert found and set(found.values()) == {3}, figure


def lines(figure: dashboard.Figure, sweep: Sweep) -> list[object]:
    """The line of every trial of a sweep that a figure shows."""
    found = []
    for config in spaces.configs(sweep):
        one = Outcome(config, "complete", "", Summary([], 0, []), None)
        logged = flatten(track.config(sweep, {"sweep": sweep.name}, one, spaces.training(sweep, config, 1, "cpu")))
        wanted = {name: value if isinstance(value, list) else [value] for name, value in figure.shown.items()}
        if all(logged[name] in values for name, values in wanted.items()):
            found.append(logged[f"axes.{figure.by}"])
    return found


def flatten(value: dict[str, Any], start: str = "") -> dict[str, Any]:
    """Nested keys as W&B filters by them: with dots."""
    result = {}
    for key, inner in value.items():
        result |= flatten(inner, f"{start}{key}.") if isinstance(inner, dict) else {f"{start}{key}": inner}
    return result


def test_of_a_sweep_that_ran_here_its_last_runs_are_shown(tmp_path: Path) -> None:
    about = {"sweep": "models", "params": {"train": {"learning_rate": 0.25}}}
    (tmp_path / "models").mkdir()
    (tmp_path / "models/sweep.json").write_text(json.dumps(about))
    (figure,) = (one for one in dashboard.figures(RAW, tmp_path) if one.title.startswith("Fig. 11"))
    assert figure.shown == {"sweep_name": "models", "sweep_group": track.group(about), "train.learning_rate": 0.25}


def test_the_workspace_has_a_section_per_figure() -> None:
    shown = dashboard.figures(RAW, NOWHERE)
    made = dashboard.workspace("team", "project", shown)
    assert [section.name for section in made.sections] == [figure.title for figure in shown]
