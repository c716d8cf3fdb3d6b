"""Units on several workers beside every other way to use the same cores: faces per second, all in one run.

Every row trains the same network on the same random faces for the same number of steps, in processes of its own, one
row after the other. Run it on an otherwise idle machine. `bp_ddp` is back-propagation by data parallelism (torch DDP,
gloo): each worker has half of a batch, and its batch norm sees that half alone.
"""

import argparse
import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cfpn import faces as data
from cfpn import training
from cfpn.allocator import keep_freed_memory
from cfpn.averaging import average
from cfpn.faces import Faces
from pipeline import networks
from pipeline import params as parameters
from pipeline.params import Params
from pipeline.process import InputError, run, write_json
from pipeline.runs import session as sessions

EXAMPLE = """example:
  python -m bench.parallel --set profile=fer2013-cpu --steps 30 --out results/parallel.json
"""
WARM_UP = 3  # steps that do not count
ROWS = ("bp", "bp 2 threads", "bp_ddp", "nbp", "nbp 2 workers", "nbp twice",
        "deep_supervision", "deep_supervision 2 threads")  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.parallel",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help="a method, and how it uses the cores")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="dotted parameters to change")
    parser.add_argument("--steps", type=int, default=30, help="measured steps of each row (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    params = parameters.load(args.params, parameters.assignments(args.set))
    wrong = [row for row in args.rows if row.split()[0].removesuffix("_ddp") not in params.methods]
    if wrong:
        raise InputError(f"--rows: expected a method of {', '.join(params.methods)} first, found {wrong[0]!r}")
    rows = []
    for row in args.rows:
        rows.append({"row": row} | in_a_process(measured, params, row, args.steps))
        print(json.dumps(rows[-1]), flush=True)
    if args.out:
        write_json(args.out, {"rows": rows, "batch": params.train.batch, "steps": args.steps})


def in_a_process(task: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """What a function returns that runs in a fresh process, so that no row warms up another."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(task, *arguments).result()


def measured(params: Params, row: str, steps: int) -> dict[str, Any]:
    """Faces per second of a row, and where units learn on workers the bound that their busy times give."""
    method, _, way = row.partition(" ")
    if method == "bp_ddp":
        return {"faces_per_second": together(ddp_rate, 2, params, steps)}
    if way == "twice":
        return {"faces_per_second": together(seeded_rate, 2, params, method, steps)}
    words = way.split()
    count = int(words[0]) if words else 1
    more: dict[str, Any] = {words[1]: count} if words else {}
    compute = replace(params.compute, device="cpu", **more)
    return alone(params.model_copy(update={"compute": compute}), method, 0, steps)


def random_faces(params: Params, steps: int) -> Faces:
    """Faces of random pixels for one epoch of `steps` steps and the warm-up."""
    count = params.train.batch * (steps + WARM_UP)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, 48, 48), generator=random, dtype=torch.uint8)
    return Faces(pixels, torch.arange(count) % 7, torch.arange(count))


def alone(params: Params, name: str, seed: int, steps: int) -> dict[str, Any]:
    """A training as the train stage makes it, timed after the warm-up."""
    torch.set_num_threads(params.compute.threads)
    keep_freed_memory()
    own = params.model_copy(update={"train": replace(params.train, epochs=1)})
    faces, method = random_faces(own, steps), own.methods[name]
    session = sessions.begin(own, method, seed, faces)
    moments = []
    for record in sessions.advance(session, own, method, seed, faces, faces.first(8)):
        if record.complete:
            break
        moments.append(time.perf_counter())
    # Of pipelined steps the first answers come late: only what lies between two answers is a step's time.
    seconds = moments[-1] - moments[WARM_UP - 1]
    result = {"faces_per_second": steps * own.train.batch / seconds, "step_ms": 1000 * seconds / steps}
    return result | (busy(session.log, steps) if session.log else {})


def busy(log: list[dict[str, float]], steps: int) -> dict[str, Any]:
    """Milliseconds that each worker works for a step, and the bytes that it hands on."""
    late = [span for span in log if span["step"] >= WARM_UP]
    workers = range(1 + int(max(span["worker"] for span in log)))
    spans = [[span for span in late if span["worker"] == worker] for worker in workers]
    return {
        "busy_ms": [1000 * sum(span["end"] - span["begin"] for span in own) / steps for own in spans],
        "sent_mib": [sum(span["sent"] for span in own) / steps / 2**20 for own in spans],
    }


def together(task: Callable[..., float], count: int, *arguments: object) -> float:
    """The sum of what `count` processes reach at the same time; each is told its place and a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        return sum([job.result() for job in [pool.submit(task, i, count, port, *arguments) for i in range(count)]])


def seeded_rate(place: int, count: int, port: int, params: Params, name: str, steps: int) -> float:
    """Faces per second of one of several trainings with seeds of their own."""
    return float(alone(params, name, place, steps)["faces_per_second"])


def ddp_rate(place: int, count: int, port: int, params: Params, steps: int) -> float:
    """Faces per second of one worker of back-propagation by data parallelism."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(params.compute.threads)
    keep_freed_memory()
    torch.distributed.init_process_group("gloo", rank=place, world_size=count)
    method, model = params.methods["bp"], params.model
    state = training.start(networks.build(model, 0), method, params.train.recipe, model.input_size, 0,
                           torch.device("cpu"))  # fmt: skip
    parallel = nn.parallel.DistributedDataParallel(state.network, find_unused_parameters=True)
    optimizer, batch = state.learners[0].adam, params.train.batch // count
    faces, moments = random_faces(params, steps), []
    parallel.train()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    for i, (pixels, labels) in enumerate(data.batches(faces, params.train.batch, 0, 0)):
        here = slice(place * batch, (place + 1) * batch)
        random = data.generator(0, training.SEED_AUGMENTATION, 0, i)
        images = data.images(pixels, model.input_size)
        images = data.augment(images, params.train.augmentation, random, faces.side)[here]
        torch.autograd.backward(F.cross_entropy(next(iter(parallel(images).values())), labels[here]))
        optimizer.step()
        optimizer.zero_grad()
        average(state.averaged, state.network, params.train.average, i)
        moments.append(time.perf_counter())
    torch.distributed.destroy_process_group()
    return batch * steps / (moments[-1] - moments[WARM_UP - 1])


if __name__ == "__main__":
    run(main)
