"""Units on several workers beside every other way to use the same cores: faces per second, memory, time to an accuracy.

Every row trains the same CFPN, with the heads of its method, on the same random faces for the same number of steps, in
processes of its own. The rows take turns, for several rounds, so that a slow minute of the machine does not fall on one
row alone. Run it on an otherwise idle machine.

A row is a method, then optionally where it is cut ("balanced:3"), then how it uses the cores: "2 workers", "2 threads",
or "twice", which is two seeds at once. METHOD_ddp is data parallelism (torch DDP, gloo) by the method's own losses:
each worker has half of a batch, and its batch norm and its HSIC see that half alone. Where gradients stop at units, the
losses of all units share one backward pass, so that DDP sends the gradients of one while it computes those of others.

JSON: rows, each of the round that is its median in speed (of an even number the slower of the two), with
- row, units (null: those of the method), cores.
- faces_per_second; step_ms of what is one training. rounds: faces per second of every round.
- start_s: seconds from the beginning to the first step, with Ray and its workers where there are any.
- peak_mib: memory of each process at most; that of workers stands in `workers`.
- workers: of units on several workers, as timing.json has them (see `pipeline.runs.workers.timetable`).
- steps: to the accuracy, see `--histories`; null where a seed of that method and those units does not reach it, or the
  study has none. The runs are of one process: that data parallelism needs as many is assumed, not measured.
"""

import multiprocessing
import os
import re
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from bench.step import MIB, add_parameters
from cfpn import faces as data
from cfpn import training
from cfpn.allocator import keep_freed_memory
from cfpn.averaging import average
from cfpn.diagnostics import FEWEST_FACES
from cfpn.faces import Faces
from cfpn.graph import IMAGE, Cuts, walk
from cfpn.learner import unit_loss, weigh
from cfpn.training import Method
from pipeline import params as parameters
from pipeline.params import Params
from pipeline.process import InputError, command_line, run, write_json
from pipeline.runs import segment, study
from pipeline.runs import session as sessions

EXAMPLE = """examples:
  python -m bench.parallel --set profile=fer2013-cpu --out results/parallel.json
  python -m bench.parallel --rows bp nbp 'nbp 2 workers' --histories docs/study/main.csv --after 16
"""
WARM_UP = 3  # steps that do not count
BALANCED = tuple(f"nbp balanced:{parts}{way}" for parts in (2, 3, 4) for way in ("", " 2 workers"))
TWO_LAYERS = "nbp_two_layer_heads"
ROWS = ("bp", "bp 2 threads", "bp_ddp", "nbp", "nbp 2 workers", "nbp_ddp", "nbp twice", *BALANCED,
        "deep_supervision", "deep_supervision 2 threads", "deep_supervision_ddp")  # fmt: skip


class Row(NamedTuple):
    """What a row trains, and how: units None are the method's own; way is workers, threads, twice, ddp or nothing."""

    method: str
    units: str | None = None
    cores: int = 1
    way: str = ""


def main() -> None:
    """Command line."""
    parser = command_line("python -m bench.parallel", __doc__, EXAMPLE)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help="what to measure (default: all of the table)")
    add_parameters(parser)
    parser.add_argument("--steps", type=int, default=20, help="measured steps of each row (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each row is measured (default: %(default)s)")
    parser.add_argument("--histories", type=Path, metavar="CSV", help="of a study whose runs have this network")
    parser.add_argument("--after", type=int, default=8, help="epoch of bp in the study whose accuracy is to be "
                        "reached (default: %(default)s)")  # fmt: skip
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    for name in ("steps", "rounds"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}: expected 1 or more, found {getattr(args, name)}")
    params = parameters.load(args.params, parameters.assignments(args.set))
    known = {text: parsed(text, params) for text in args.rows}
    steps = steps_to_accuracy(study.read(args.histories), args.after) if args.histories else {}
    about = {"batch": params.train.batch, "steps": args.steps, "width": getattr(params.model, "width", None),
             "input_size": params.model.input_size, "cores": len(os.sched_getaffinity(0)),
             "histories": args.histories.name if args.histories else None, "after": args.after}  # fmt: skip
    for rows in in_turns(params, known, args.steps, args.rounds):
        if args.out:
            write_json(args.out, about | {"rows": [row | {"steps": steps.get(name)} for name, row in rows]})


def in_turns(
    params: Params, known: Mapping[str, Row], steps: int, rounds: int
) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """After each round, every row by what a study calls it: of the round that is its median so far."""
    found: dict[str, list[dict[str, Any]]] = {text: [] for text in known}
    for _ in range(rounds):
        for text, row in known.items():
            found[text].append(in_a_process(measured_row, params, row, steps))
            print(f"{text}: {found[text][-1]['faces_per_second']:,.0f} faces per second", flush=True)
        yield [
            (study_name(row), {"row": text, "units": row.units, "cores": row.cores} | median(found[text]))
            for text, row in known.items()
        ]


def parsed(text: str, params: Params) -> Row:
    """A row from its text; raises InputError where it is none."""
    method, *words = text.split() or [""]
    units = words.pop(0) if words and words[0].startswith("balanced:") else None
    if units is not None and not re.fullmatch(r"balanced:[1-9]\d*", units):
        raise InputError(f"--rows: expected balanced:K with a number of units, found {text!r}")
    row = Row(method, units)
    if method.endswith("_ddp") and not words:
        row = Row(method.removesuffix("_ddp"), units, 2, "ddp")
    elif words == ["twice"]:
        row = Row(method, units, 2, "twice")
    elif len(words) == 2 and words[0].isdecimal() and words[1] in ("workers", "threads"):
        row = Row(method, units, int(words[0]), words[1])
    elif words:
        raise InputError(f"--rows: expected METHOD [balanced:K] [N workers | N threads | twice], found {text!r}")
    if row.method not in params.methods:
        raise InputError(f"--rows: expected a method of {', '.join(params.methods)} first, found {text!r}")
    how = params.methods[row.method]
    own = how if units is None else replace(how, units=cast(Cuts, units))
    wanted = params.model_copy(update={"compute": replace(params.compute, workers=row.cores)})
    if row.cores < 1 or (row.way == "workers" and row.cores != sessions.workers_of(wanted, own)):
        raise InputError(f"--rows: expected no more workers than units that learn by themselves, found {text!r}")
    if row.way == "ddp" and params.train.batch // row.cores < FEWEST_FACES:
        raise InputError(f"--rows: expected {FEWEST_FACES} faces of a batch or more for each worker, found {text!r}")
    if row.way == "ddp" and how.schedule.rests:
        raise InputError(f"--rows: expected a method whose units learn in every step before _ddp, found {text!r}")
    return row


def study_name(row: Row) -> str:
    """What a study calls the method of a row: nbp_balanced_3 is nbp_two_layer_heads whose units are balanced:3."""
    if row.units is None:
        return row.method
    return f"nbp_{row.units.replace(':', '_')}" if row.method == TWO_LAYERS else f"{row.method} {row.units}"


def steps_to_accuracy(outcomes: list[study.Outcome], after: int) -> dict[str, float | None]:
    """Steps, by method, to the validation accuracy that bp of the same seed has after an epoch; the mean over seeds.

    None where a seed does not reach it. Raises InputError where there is no such epoch of bp.
    """
    goals: dict[int, float] = {}
    for one in outcomes:
        accuracies = one.history.set_index("epoch")["val/accuracy"]
        if one.method == "bp" and after in accuracies:
            goals[one.seed] = accuracies[after]
    if not goals:
        raise InputError(f"--after: expected an epoch of bp in the study, found {after}")
    found: dict[str, list[float | None]] = {}
    for one in outcomes:
        if one.seed in goals:
            found.setdefault(one.method, []).append(one.steps_to(goals[one.seed]))
    whole = {name: len(steps) == len(goals) and all(steps) for name, steps in found.items()}
    return {name: statistics.fmean(filter(None, steps)) if whole[name] else None for name, steps in found.items()}


def in_a_process(task: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """What a function returns that runs in a fresh process, so that no row warms up another.

    Raises InputError where the process was killed, as the system does when memory is short.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(task, *arguments).result()
        except BrokenProcessPool as error:
            raise InputError("a process of this row was killed; expected memory enough for it") from error


def median(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The round of a row whose speed is the median, with the faces per second of all of them."""
    rates = [one["faces_per_second"] for one in rounds]
    return rounds[rates.index(statistics.median_low(rates))] | {"rounds": rates}


def measured_row(params: Params, row: Row, steps: int) -> dict[str, Any]:
    """What a row says of itself but for its text."""
    if row.units is not None:
        method = replace(params.methods[row.method], units=cast(Cuts, row.units))
        params = params.model_copy(update={"methods": params.methods | {row.method: method}})
    more: dict[str, Any] = {row.way: row.cores} if row.way in ("workers", "threads") else {}
    compute = replace(replace(params.compute, device="cpu", threads=1, workers=1), **more)
    params = params.model_copy(update={"compute": compute})
    if row.way in ("ddp", "twice"):
        task = data_parallel if row.way == "ddp" else one_of_several
        found = side_by_side(task, row.cores, params, row.method, steps)
        rates, peaks = zip(*((one["faces_per_second"], *one["peak_mib"]) for one in found), strict=True)
        return {"faces_per_second": len(rates) * min(rates), "peak_mib": list(peaks)}
    return timed_training(params, row.method, 0, steps)


def random_faces(params: Params, steps: int) -> Faces:
    """Faces of random pixels for one epoch of `steps` steps and the warm-up."""
    count = params.train.batch * (steps + WARM_UP)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, 48, 48), generator=random, dtype=torch.uint8)
    return Faces(pixels, torch.arange(count) % 7, torch.arange(count))


def timed_training(
    params: Params, name: str, seed: int, steps: int, meet: Callable[[], object] | None = None
) -> dict[str, Any]:
    """A training as the train stage makes it, timed after the warm-up; meet: waits there for those beside it."""
    torch.set_num_threads(params.compute.threads)
    keep_freed_memory()
    own = params.model_copy(update={"train": replace(params.train, epochs=1)})
    faces, method = random_faces(own, steps), own.methods[name]
    session = sessions.begin(own, method, seed, faces)
    begin, start = time.perf_counter(), 0.0
    moments: list[float] = []
    for record in sessions.advance(session, own, method, seed, faces, faces.first(8)):
        if meet is not None and len(moments) == WARM_UP - 1:
            meet()
        moments.append(time.perf_counter())
        start = start or moments[0] - begin - record.seconds
        if len(moments) == steps + WARM_UP:  # before the validation, whose memory is not that of a step
            break
    # Of pipelined steps the first answers come late: only what lies between two answers is a step's time.
    seconds = moments[-1] - moments[WARM_UP - 1]
    result = {"faces_per_second": steps * own.train.batch / seconds, "step_ms": 1000 * seconds / steps,
              "start_s": start, "peak_mib": [peak_mib()]}  # fmt: skip
    return result | by_worker(session)


def by_worker(session: sessions.Session) -> dict[str, Any]:
    """Who worked when after the warm-up, where units learnt on several workers."""
    if not session.log:
        return {}
    from pipeline.runs import workers  # Ray takes a second to import

    return {"workers": workers.timetable(session.state, session.log, WARM_UP)}


def peak_mib() -> float:
    """MiB of memory of this process at most."""
    return segment.peak(torch.device("cpu")) / MIB


def side_by_side(task: Callable[..., dict[str, Any]], count: int, *arguments: object) -> list[dict[str, Any]]:
    """What `count` processes return that run at the same time; each is told its place and a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        return [job.result() for job in [pool.submit(task, i, count, port, *arguments) for i in range(count)]]


@contextmanager
def group(place: int, count: int, port: int) -> Iterator[None]:
    """A group of `count` processes of this machine that can wait for each other, as long as the block lasts."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=place, world_size=count)
    try:
        yield
    finally:  # else the others wait for one that has failed
        torch.distributed.destroy_process_group()


def one_of_several(place: int, count: int, port: int, params: Params, name: str, steps: int) -> dict[str, Any]:
    """One of several trainings with seeds of their own, whose measured steps begin together."""
    with group(place, count, port):
        return timed_training(params, name, place, steps, torch.distributed.barrier)


def data_parallel(place: int, count: int, port: int, params: Params, name: str, steps: int) -> dict[str, Any]:
    """One worker of data parallelism. Only its speed is read: the learning rate stays as it was given."""
    torch.set_num_threads(params.compute.threads)
    keep_freed_memory()
    with group(place, count, port):
        moments = list(shared_steps(place, count, params, params.methods[name], steps))
    rate = params.train.batch // count * steps / (moments[-1] - moments[WARM_UP - 1])
    return {"faces_per_second": rate, "peak_mib": [peak_mib()]}


def shared_steps(place: int, count: int, params: Params, method: Method, steps: int) -> Iterator[float]:
    """The moment at which each step ends, warm-up first, of a worker that has its part of every batch."""
    model, faces = params.model, random_faces(params, steps)
    state = sessions.first_state(model, method, params.train.recipe, 0, torch.device("cpu"))
    weigh(state.learners, params.train.class_weights, faces.labels, model.classes)
    # A classifier that its method does not train has no gradient.
    parallel = nn.parallel.DistributedDataParallel(SummedLoss(state, method), find_unused_parameters=True)
    batch = params.train.batch // count
    parallel.train()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    for i, (pixels, labels) in enumerate(data.batches(faces, params.train.batch, 0, 0)):
        here = slice(place * batch, (place + 1) * batch)
        random = data.generator(0, training.SEED_AUGMENTATION, 0, i)
        images = data.images(pixels, model.input_size)
        # The whole batch, so that the halves are augmented as in one process.
        images = data.augment(images, params.train.augmentation, random, faces.side)[here]
        torch.autograd.backward([parallel(images, labels[here])])
        for learner in state.learners:
            learner.own_optimizer.step()
            learner.own_optimizer.zero_grad()
        if params.train.average:
            average(state.averaged, state.network, params.train.average, i)
        yield time.perf_counter()


class SummedLoss(nn.Module):
    """The sum of the losses of all units, as one module whose gradients DDP averages."""

    def __init__(self, state: training.State, method: Method) -> None:
        super().__init__()
        self.network, self.learners, self.method = state.network, state.learners, method

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The sum for images (n, c, h, w) and labels (n,)."""
        targets = self.method.local_loss.targets(images, labels, self.network.classes)
        total, walking = torch.zeros(()), walk(self.network.units, {IMAGE: images})
        for (_, inputs), one in zip(walking, self.learners, strict=True):
            outputs, loss = unit_loss(one, inputs, targets)
            if self.method.gradients == "stop":
                outputs = {name: feature.detach() for name, feature in outputs.items()}
            walking.send(outputs)
            total = total + loss
        return total


if __name__ == "__main__":
    run(main)
