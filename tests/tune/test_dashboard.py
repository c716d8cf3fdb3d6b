"""The W&B workspace and report are built without an account; only saving needs one."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline import params as parameters
from pipeline.process import InputError
from tune import dashboard, spaces, track
from tune.spaces import Sweep

pytest.importorskip("wandb_workspaces")
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")  # the package's own
NOWHERE = Path("no/sweep/ran/here")
PARAMS = Path(__file__).parents[2] / "params.yaml"


def test_the_papers_figures_come_first_and_every_sweep_has_one() -> None:
    shown = dashboard.figures(PARAMS, NOWHERE)
    assert [figure.title.partition(":")[0] for figure in shown[:4]] == ["Fig. 8", "Fig. 9", "Fig. 10", "Fig. 11"]
    assert {figure.sweep for figure in shown} == set(parameters.load_sweeps(PARAMS.parent / "sweeps/params.yaml"))
    assert shown[0].shown["axes.models"] == ["CFPN-NBP", "CFPN-BP", "CFPN-DS"]


@pytest.mark.parametrize(("space", "by"), [
    ("{}", "axes.seed"),
    ("{train.epochs: [3], model.width: [16, 32]}", "axes.width"),
    ("{model.layers: [1, 2], model.width: [16, 32]}", "setting"),
])  # fmt: skip
def test_a_sweep_has_a_figure_by_what_varies_and_one_line_is_no_mean_over_another_axis(
    tmp_path: Path, space: str, by: str
) -> None:
    for name in ("params.yaml", "methods.yaml", "profiles"):
        (tmp_path / name).symlink_to(PARAMS.parent / name)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/params.yaml").write_text(f"own:\n  method: nbp\n  seeds: 5\n  space: {space}\n")
    (figure,) = dashboard.figures(tmp_path / "params.yaml", NOWHERE)
    assert figure.by == by


def test_panels_show_the_mean_over_seeds_of_what_runs_log() -> None:
    for figure in dashboard.figures(PARAMS, NOWHERE):
        for panel in dashboard.panels(figure):
            assert panel.x == "epoch"
            assert panel.y[0] in ("val/accuracy", "val/loss", "train/loss")
            assert panel.groupby.name == figure.by
            assert (panel.groupby_aggfunc, panel.groupby_rangefunc) == ("mean", "stddev")


def test_each_figure_of_the_report_is_of_its_own_sweeps_runs() -> None:
    shown = dashboard.figures(PARAMS, NOWHERE)
    made = dashboard.report("team", "project", shown)
    grids = [block for block in made.blocks if hasattr(block, "runsets")]
    assert [grid.runsets[0].name for grid in grids] == [figure.sweep for figure in shown]
    for grid, figure in zip(grids, shown, strict=True):
        assert all(f'Config("{name}")' in str(grid.runsets[0].filters) for name in figure.shown)
        assert len(grid.panels) == 3


def test_lines_are_means_over_seeds_alone_and_never_over_learning_rates_or_profiles() -> None:
    for figure in dashboard.figures(PARAMS, NOWHERE):
        found = Counter()
        for profile in ("sample", "paper"):
            read = spaces.read(PARAMS, figure.sweep, [f"profile={profile}"], {}, None, 3)
            found.update(lines(figure, spaces.with_common_rate(read)))
        assert found and set(found.values()) == {3}, figure


def lines(figure: dashboard.Figure, sweep: Sweep) -> list[object]:
    """The line of every trial of a sweep that a figure shows."""
    found = []
    for config in spaces.configs(sweep):
        what = spaces.training(sweep, config, 1, "cpu")
        logged = flatten(track.settings(sweep, {"sweep": sweep.name}, config, what))
        wanted = {name: value if isinstance(value, list) else [value] for name, value in figure.shown.items()}
        if all(logged[name] in values for name, values in wanted.items()):
            found.append(logged[figure.by])
    return found


def flatten(value: dict[str, Any], start: str = "") -> dict[str, Any]:
    """Nested keys as W&B filters by them: with dots."""
    result = {}
    for key, inner in value.items():
        result |= flatten(inner, f"{start}{key}.") if isinstance(inner, dict) else {f"{start}{key}": inner}
    return result


RATE_OF_ALL = {"params": {"train": {"schedule": {"learning_rate": 0.25}}}}


@pytest.mark.parametrize(
    ("space", "by"),
    [
        ({"seed": [0, 1], "model.activation": ["relu", "elu"], "model.width": [16, 32]}, "setting"),
        ({"seed": [0, 1], "model.width": [16, 32]}, "axes.width"),
        ({"seed": [0, 1], "method": ["nbp", "bp"]}, "axes.method"),
        ({"seed": [0, 1]}, "axes.seed"),
    ],
)
def test_the_lines_of_a_sweep_that_ran_here_are_by_the_axes_that_it_had(
    tmp_path: Path, space: dict[str, list[object]], by: str
) -> None:
    (tmp_path / "activation").mkdir()
    about = {"sweep": "activation", "space": space, **RATE_OF_ALL}
    (tmp_path / "activation/sweep.json").write_text(json.dumps(about))
    (figure,) = (one for one in dashboard.figures(PARAMS, tmp_path) if one.sweep == "activation")
    assert figure.by == by


def test_of_a_sweep_that_ran_here_its_last_runs_are_shown(tmp_path: Path) -> None:
    about = {"sweep": "models", "space": {"seed": [0], "models": ["A"]}, **RATE_OF_ALL}
    (tmp_path / "models").mkdir()
    (tmp_path / "models/sweep.json").write_text(json.dumps(about))
    (figure,) = (one for one in dashboard.figures(PARAMS, tmp_path) if one.title.startswith("Fig. 11"))
    assert figure.shown == {
        "sweep_name": "models",
        "sweep_group": track.group(about),
        "train.schedule.learning_rate": 0.25,
    }


def test_networks_at_rates_of_their_own_are_shown_at_every_rate(tmp_path: Path) -> None:
    about = {"sweep": "models", "space": {"seed": [0], "models": ["A"]}, "rates": {"A": 0.5}, **RATE_OF_ALL}
    (tmp_path / "models").mkdir()
    (tmp_path / "models/sweep.json").write_text(json.dumps(about))
    (figure,) = (one for one in dashboard.figures(PARAMS, tmp_path) if one.title.startswith("Fig. 11"))
    assert set(figure.shown) == {"sweep_name", "sweep_group"}
    assert figure.title == "Fig. 11: networks, each at its own learning rate"


def test_the_workspace_has_a_section_per_figure() -> None:
    shown = dashboard.figures(PARAMS, NOWHERE)
    made = dashboard.workspace("team", "project", shown)
    assert [section.name for section in made.sections] == [figure.title for figure in shown]


def test_without_a_login_the_command_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setattr(wandb, "login", lambda **_: False)
    monkeypatch.setattr(sys, "argv", ["dashboard", "--entity", "team"])
    with pytest.raises(InputError, match="not logged in"):
        dashboard.main()


@pytest.mark.parametrize("content", ["", "[]", '{"search": "grid"}', '{"params": {}}'])
def test_a_damaged_description_of_a_sweep_is_an_input_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/sweep.json").write_text(content)
    with pytest.raises(InputError, match=r"models/sweep\.json: "):
        dashboard.figures(PARAMS, tmp_path)
