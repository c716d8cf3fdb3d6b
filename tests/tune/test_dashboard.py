"""The W&B workspace and report are built without an account; only saving needs one."""

from pathlib import Path

import pytest

from pipeline import params as parameters
from tune import dashboard

pytest.importorskip("wandb_workspaces")
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")  # the package's own
RAW = parameters.read(Path(__file__).parents[2] / "params.yaml")


def test_the_papers_figures_come_first_and_every_sweep_has_one() -> None:
    shown = dashboard.figures(RAW)
    assert [figure.title.partition(":")[0] for figure in shown[:4]] == ["Fig. 8", "Fig. 9", "Fig. 10", "Fig. 11"]
    assert {figure.sweep for figure in shown} == set(RAW["sweeps"])
    assert shown[0].only == ("CFPN-NBP", "CFPN-BP")


def test_panels_show_the_mean_over_seeds_of_what_runs_log() -> None:
    for figure in dashboard.figures(RAW):
        for panel in dashboard.panels(figure):
            assert panel.x == "epoch"
            assert panel.y[0] in ("val/accuracy", "val/loss", "train/loss")
            assert panel.groupby.name == f"axes.{figure.by}"
            assert (panel.groupby_aggfunc, panel.groupby_rangefunc) == ("mean", "stddev")


def test_each_figure_of_the_report_is_of_its_own_sweeps_runs() -> None:
    shown = dashboard.figures(RAW)
    made = dashboard.report("team", "project", shown)
    grids = [block for block in made.blocks if hasattr(block, "runsets")]
    assert [grid.runsets[0].name for grid in grids] == [figure.sweep for figure in shown]
    for grid, figure in zip(grids, shown, strict=True):
        assert figure.sweep in str(grid.runsets[0].filters)
        assert len(grid.panels) == 3


def test_the_workspace_has_a_section_per_figure() -> None:
    shown = dashboard.figures(RAW)
    made = dashboard.workspace("team", "project", shown)
    assert [section.name for section in made.sections] == [figure.title for figure in shown]
