"""Build the project's W&B workspace and report from code: panels for Figs 8 to 11 (pip install wandb-workspaces).

The report shows every figure over the runs of its sweep as it was last run here, or of any with params.yaml's profile
where it was not; the workspace shows the same panels over the runs you select.
"""

import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline import params as parameters
from pipeline.process import InputError, command_line, run
from pipeline.runs import records
from tune import spaces, track
from tune.names import MODELS, RATE, SEED, short
from tune.spaces import Sweep

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2.interface import PanelGrid, Report
    from wandb_workspaces.workspaces import Workspace

EXAMPLE = """examples:
  wandb login && python -m tune.dashboard --entity my-team
  wandb sync --include-offline wandb/offline-run-*       uploads what was trained offline
  wandb leet wandb                                       the same runs in the terminal, without an account
"""
REPORT = (
    "Curves of the paper's figures from this project's sweeps: means over seeds, one standard deviation around them."
)
PANELS = (("Validation accuracy", "val/accuracy"), ("Validation loss", "val/loss"), ("Training loss", "train/loss"))


class Figure(NamedTuple):
    """A figure of the paper: runs of `sweep`, one line with its spread for each value of `by`, which every run logs.

    shown: what the configuration of its runs must hold, by name: a value, or a list of which it is one. With `by` it
    leaves the seed alone open, so that a line is a mean over seeds.
    """

    title: str
    sweep: str
    by: str
    shown: dict[str, Any]


def main() -> None:
    """Command line."""
    parser = command_line("python -m tune.dashboard", __doc__, EXAMPLE)
    parser.add_argument("--entity", help="of W&B (default: your own)")
    parser.add_argument("--project", help="of W&B (default: tracking.project of params.yaml)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--sweeps", type=Path, default=Path("sweeps/results"), help="tables of sweeps that ran here")
    args = parser.parse_args()
    own = logged_in()
    entity = args.entity or own
    params = parameters.load(args.params)
    project = args.project or params.tracking.project
    shown = figures(args.params, args.sweeps)
    for made in (workspace(entity, project, shown), report(entity, project, shown)):
        with answering():
            made.save()  # type: ignore[no-untyped-call]  # the package leaves it unannotated
        print(made.url)


def logged_in() -> str:
    """The user's own entity; raises InputError where nobody is logged in."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise InputError("not logged in: `wandb login` first; `wandb leet wandb` shows offline runs without an account")
    with answering():
        return wandb.Api(timeout=20).default_entity or ""


@contextmanager
def answering() -> Iterator[None]:
    """Raise InputError where W&B does not answer, or refuses what it is asked."""
    import wandb

    try:
        yield
    except (wandb.Error, OSError, ValueError) as error:
        raise InputError(f"W&B does not answer: {(str(error).strip() or repr(error)).splitlines()[0]}") from error


def figures(path: Path, tables: Path) -> list[Figure]:
    """Figs 8 to 11 and every other sweep, in the order of the paper.

    path: params.yaml, beside which sweeps/params.yaml lies. tables: of sweeps that ran.
    """
    known = {
        "activation": "Fig. 9: activation functions",
        "learning_rate": "Fig. 10: learning rates",
        MODELS: "Fig. 11: networks at the common learning rate",
    }
    result = []
    for name, entry in parameters.load_sweeps(path.parent / "sweeps" / "params.yaml").items():
        sweep = spaces.with_common_rate(spaces.read(path, name, [], {}, None, None))
        space, shown = conditions(sweep, tables)
        if entry.models:
            own = [label for label, one in entry.models.items() if one.model is None]
            title = "Fig. 8: with and without back-propagation"
            result.append(Figure(title, name, _line(space), shown | {f"axes.{MODELS}": own}))
        if entry.models and RATE not in shown:
            known |= {name: "Fig. 11: networks, each at its own learning rate"}
        result.append(Figure(known.get(name, f"Sweep of {name}"), name, _line(space), shown))
    return sorted(result, key=_place)


def _line(space: Collection[str]) -> str:
    """What the runs of one line have in common: their value on the one axis beside the seed, or their setting."""
    varying = [axis for axis in space if axis != SEED and not (MODELS in space and axis == RATE)]
    return "setting" if len(varying) > 1 else f"axes.{short(space)[(varying or [SEED])[0]]}"


def conditions(sweep: Sweep, tables: Path) -> tuple[list[str], dict[str, Any]]:
    """The axes of a sweep's figure, and what its runs share: their group if the sweep ran here, else the profile.

    Networks share a common rate too.
    """
    file = tables / sweep.name / "sweep.json"
    about = records.read_json(file) if file.exists() else {}
    if about:
        try:
            shown, rate = {"sweep_group": track.group(about)}, about["params"]["train"]["schedule"]["learning_rate"]
            space = list(about["space"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{file}: {error}; expected the file that tune/sweep.py writes") from error
    else:
        shown, rate = {"profile": sweep.files.common["profile"]}, spaces.common_rate(sweep)
        space = list(spaces.space(sweep))
    one_rate = sweep.models and not about.get("rates")
    return space, {"sweep_name": sweep.name} | shown | ({RATE: rate} if one_rate else {})


def _place(figure: Figure) -> int:
    number = re.match(r"Fig. (\d+)", figure.title)
    return int(number[1]) if number else 100


def panels(figure: Figure) -> list[Any]:
    """Curves over epochs, mean and standard deviation over seeds."""
    wr = _package("wandb_workspaces.reports.v2")
    return [
        wr.LinePlot(
            title=title,
            x="epoch",
            y=[metric],
            groupby=wr.Config(figure.by),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            smoothing_factor=0,
        )
        for title, metric in PANELS
    ]


def grid(entity: str, project: str, figure: Figure) -> "PanelGrid":
    """A figure's panels over its own runs alone."""
    wr, expr = _package("wandb_workspaces.reports.v2"), _package("wandb_workspaces.expr")
    filters = [
        expr.Config(name).isin(value) if isinstance(value, list) else expr.Config(name) == value
        for name, value in figure.shown.items()
    ]
    runs = wr.Runset(entity=entity, project=project, name=figure.sweep, filters=expr.And(*filters))
    made: PanelGrid = wr.PanelGrid(runsets=[runs], panels=panels(figure))
    return made


def workspace(entity: str, project: str, shown: list[Figure]) -> "Workspace":
    """A workspace with a section per figure, not yet saved."""
    ws = _package("wandb_workspaces.workspaces")
    sections = [ws.Section(name=figure.title, panels=panels(figure), is_open=True) for figure in shown]
    made: Workspace = ws.Workspace(entity=entity, project=project, name="CFPN-NBP", sections=sections)
    return made


def report(entity: str, project: str, shown: list[Figure]) -> "Report":
    """A report with a heading and a grid of panels per figure, not yet saved."""
    wr = _package("wandb_workspaces.reports.v2")
    blocks = [block for figure in shown for block in (wr.H2(figure.title), grid(entity, project, figure))]
    made: Report = wr.Report(project=project, entity=entity, title="CFPN-NBP", description=REPORT, blocks=blocks)
    return made


def _package(name: str) -> Any:  # noqa: ANN401
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        raise InputError("the package is missing: pip install wandb-workspaces") from error
    return sys.modules[name]


if __name__ == "__main__":
    run(main)
