"""Train several networks side by side on one GPU, in a given time, and measure training steps there.

It needs torch, numpy, pyarrow, safetensors and Pillow alone. The number of epochs is chosen so that all trainings end
in time, the same for all of them. The same command goes on where it was ended.
"""

import csv
import heapq
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.gpu import data, plan
from bench.gpu.crew import Crew, Row, measurements, title
from bench.gpu.plan import Plan, Training
from bench.gpu.train import finished, tested
from bench.origin import processor
from cfpn.learner import DivergedError
from pipeline.process import InputError, atomic, command_line, json_hash, only_one, run

EXAMPLE = """examples:
  python -m bench.gpu --write-plan strong                 # here: writes strong.json
  python -m bench.gpu strong.json --faces data/splits --minutes 8 --at-once 4 --out results/gpu   # where the GPU is
"""
SPARE = 1.25  # of the time that steps take: validation, and what a probe cannot know


@dataclass
class Table:
    """results.csv: what was measured, every epoch and every test; it is written anew with every row."""

    path: Path
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path.exists():
            with self.path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))

    def add(self, row: Row) -> None:
        """Append a row, tell it, and write the file."""
        self.rows.append(row)
        print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        names = list(dict.fromkeys(name for each in self.rows for name in each))
        with atomic(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def tested(self, run: str) -> bool:
        """Whether a run's score on the test faces stands there."""
        return any(row.get("run") == run and row.get("kind") == "test" for row in self.rows)

    def epochs(self) -> int:
        """The number of epochs that was chosen before, 0 where none was."""
        return max((int(row["epochs"]) for row in self.rows if row.get("epochs")), default=0)


def main() -> None:
    """Command line."""
    parser = command_line("python -m bench.gpu", __doc__, EXAMPLE)
    parser.add_argument("plan", type=Path, nargs="?", metavar="PLAN.json")
    parser.add_argument("--write-plan", choices=plan.OUTLINES, metavar="NAME", help=f"{', '.join(plan.OUTLINES)}")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="from which a plan is written")
    parser.add_argument("--faces", type=Path, default=Path("data/splits"), help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=8, help="after which trainings stop, at the end of their step")
    parser.add_argument("--at-once", type=int, default=4, help="trainings side by side")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    args = parser.parse_args()
    if args.write_plan:
        path = args.plan or Path(f"{args.write_plan}.json")
        plan.write(plan.outlined(args.write_plan, args.params), path)
        print(f"{path}: written; where the GPU is: python -m bench.gpu {path} --faces FACES --out OUT")
        return
    if args.plan is None or args.minutes <= 0 or args.at_once < 1:
        raise InputError("expected PLAN.json, and --minutes and --at-once of more than 0; see --help")
    with only_one(args.out):
        carry_out(plan.read(args.plan), args.faces, args.out, time.time() + 60 * args.minutes, args.at_once)


def carry_out(what: Plan, faces: Path, out: Path, deadline: float, at_once: int) -> None:
    """Measure and train as planned until `deadline` (time.time()); what earlier calls did is not done again."""
    splits = data.load(faces)
    if what.photographs and any(split.drawn for split in splits.values()):
        raise InputError(f"{faces}: drawn faces, but the plan {what.name} is for photographs")
    count, table = len(splits["train"]), Table(out / "results.csv")
    about = {"plan": what.name, "plan_hash": json_hash(plan.encoded(what)), "machine": machine()}
    about["faces"] = data.fingerprint(splits)
    check_plan(table, about)
    measure_steps(what, table, about, deadline)
    left = [task for task in what.trainings if not finished(out / f"{task.name}.safetensors")]
    for task in what.trainings:
        if task not in left and not table.tested(task.name):  # killed between the weights and their row
            table.add(about | {"kind": "test", "run": task.name, "seed": task.seed} | tested(out, task.name))
    if not left:
        return
    failed = set()
    with Crew(min(at_once, len(left)), faces, out) as crew:
        epochs = table.epochs() or chosen(crew, left, count, deadline)
        for task, row in crew.work([("train", task, epochs, deadline) for task in left], deadline):
            own = {"kind": kind(row), "run": task.name, "seed": task.seed}
            table.add(about | own | {"epochs": epochs, "at_once": crew.size} | row)
            failed |= {task.name} if "failed" in row else set()
    for task in left:
        if not finished(out / f"{task.name}.safetensors") and task.name not in failed:
            print(f"{task.name}: the time was over before its {epochs} epochs; the same command goes on with it")
    if failed:
        raise DivergedError(f"{', '.join(sorted(failed))}: failed; {table.path} says why")


def measure_steps(what: Plan, table: Table, about: Row, deadline: float) -> None:
    """Measure the plan's steps that no earlier call has measured, in their share of the time until `deadline`."""
    mine = [row for row in table.rows if not row.get("failed") or row.get("machine") == about["machine"]]
    done = {row["cell"] for row in mine if row.get("cell")}
    cells = [cell for cell in what.cells if title(cell) not in done]
    known = len(table.rows)
    for row in measurements(cells, time.time() + what.share * (deadline - time.time())):
        table.add(about | row)
    if missing := len(cells) - (len(table.rows) - known):
        print(f"{missing} steps were not measured in time; the same command goes on with them")


def check_plan(table: Table, about: Row) -> None:
    """Raise InputError where the table's rows are of another plan or other faces; runs may have the same names."""
    for key, kind in (("plan_hash", "another plan"), ("faces", "other faces")):
        if any(row.get(key, about[key]) != about[key] for row in table.rows):
            raise InputError(f"{table.path}: of {kind}; name another folder by --out")


def kind(row: Row) -> str:
    """What a training's row tells of."""
    return "failed" if "failed" in row else "test" if "test/accuracy" in row else "epoch"


def machine() -> str:
    """The card, or the processor, and torch's version."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return f"{card}, torch {torch.__version__}"


def chosen(crew: Crew, tasks: list[Training], faces: int, deadline: float) -> int:
    """The epochs, at least 1, that all trainings can have before `deadline`, from their first steps side by side."""
    probed = crew.work([("probe", task, 0, 0.0) for task in tasks], deadline)
    seconds = {}
    for task, row in probed:
        if "failed" in row:
            raise InputError(f"{task.name}: {row['failed']}")
        seconds[task.name] = row["step_seconds"]
    if len(seconds) < len(tasks):
        raise InputError("--minutes: the time was over before every training had made its first steps")
    steps = {task.name: faces // task.recipe.batch for task in tasks}
    ends = [0.0] * crew.size  # of the processes, if each takes the next training once it is free
    for task in tasks:
        heapq.heappush(ends, heapq.heappop(ends) + SPARE * seconds[task.name] * steps[task.name])
    longest = max(task.recipe.epochs for task in tasks)
    return max(1, min(longest, int((deadline - time.time()) / max(ends))))


if __name__ == "__main__":
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    run(main)
