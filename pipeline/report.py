"""Stage `report`: everything the workflow found out -> one self-contained HTML page, its pictures, and README.md.

`python -m pipeline.report OUT_DIR` reads the runs, their evaluations, the splits with their audit, the augmented faces,
the comparison and the measurements. It writes OUT_DIR/index.html with every picture beside it as a file of its own, and
README.md, the same for git hosts. The same input on the same day gives the same bytes. Runs are those that params.yaml
names under `run`, of its profile. Others in the folder are left out, so that a page never mixes settings.

A section is a function `Inputs -> Section | None` in SECTIONS; None leaves it out.
"""

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from pipeline.page import architecture, audit, comparison, costs, faces, heading, results, sweeps, workers, yardsticks
from pipeline.page.html import Picture, render
from pipeline.page.inputs import Inputs, Paths, read_inputs
from pipeline.page.markdown import markdown
from pipeline.process import InputError, atomic, command_line, only_one, run

SECTIONS = (
    results.results_section,
    architecture.network_section,
    results.units_section,
    comparison.comparison_section,
    costs.training_section,
    costs.answers_section,
    costs.step_section,
    workers.workers_section,
    results.curves_section,
    results.recall_section,
    results.confusion_section,
    faces.predictions_section,
    results.plane_section,
    sweeps.parameters_section,
    sweeps.networks_section,
    costs.figures_note,
    yardsticks.yardsticks_section,
    faces.data_section,
    faces.augmentation_section,
    audit.audit_section,
    heading.settings_section,
)
PATHS = {
    "runs": "folder of the runs",
    "evaluations": "folder of their evaluations",
    "splits": "folder of the three splits and audit.json",
    "augmented": "file of the augment stage; may be missing",
    "bench": "measured step times and memory; may be missing",
    "comparison": "the file of the compare stage; may be missing",
    "params": "the parameters of the workflow",
}


def report(out: Path, inputs: Inputs) -> None:
    """Write index.html, README.md and the pictures into `out`: all of them or none.

    Raises InputError where another README.md is there.
    """
    if (out / "README.md").exists() and not (out / "index.html").exists():
        raise InputError(f"{out}: has a README.md of its own; another folder is needed")
    sections = [section for build in SECTIONS if (section := build(inputs)) is not None]
    pictures = [block for section in sections for block in section.blocks if isinstance(block, Picture)]
    head = heading.heading(inputs)
    pages = {"index.html": render(head=head, sections=sections), "README.md": markdown(head, sections)}
    with only_one(out), ExitStack() as outputs:
        for picture in pictures:
            outputs.enter_context(atomic(out / picture.name)).write_bytes(picture.content)
        for name, page in pages.items():
            outputs.enter_context(atomic(out / name)).write_text(page, encoding="utf-8", newline="\n")


def main() -> None:
    """Command line of the stage."""
    parser = command_line(
        "python -m pipeline.report",
        "Write one self-contained HTML page about data, training and results, its pictures, and README.md.",
        "example: python -m pipeline.report results/report --runs runs --evaluations results/evaluate",
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="where they go")
    for name, text in PATHS.items():
        default = Paths._field_defaults[name]
        parser.add_argument(f"--{name}", type=Path, default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--sweeps", type=Path, help="folder of the tables of sweeps, to show these too")
    parser.add_argument("--date", default=datetime.now(UTC).date().isoformat(), help="of the page (default: today)")
    arguments = vars(parser.parse_args())
    out, date = arguments.pop("out"), arguments.pop("date")
    report(out, read_inputs(Paths(**arguments), date))
    print(out / "index.html")


if __name__ == "__main__":
    run(main)
