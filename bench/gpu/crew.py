"""Processes on one device: one that measures, several that train side by side."""

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.gpu import data, measure, train
from bench.gpu.plan import Cell, Training

GRACE = 20.0  # seconds in which a training may end the step it is in
Row = dict[str, Any]
Task = tuple[str, Training, int, float]  # what to do, of what, in how many epochs, until when


class Worker(NamedTuple):
    """A process, and this end of a pipe to it alone: one that is killed holds no lock that others wait for."""

    process: SpawnProcess
    pipe: Connection


def started(target: Callable[..., None], *arguments: object) -> Worker:
    """A process that runs `target` with its end of the pipe and `arguments`."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(there, *arguments), daemon=True)
    process.start()
    there.close()
    return Worker(process, here)


def measurements(cells: list[Cell], deadline: float) -> Iterator[Row]:
    """A row per cell, from a process that ends at `deadline`; after a cell by which it dies another goes on."""
    left = list(cells)
    while left and time.time() < deadline:
        process, pipe = started(measure_all, left)
        try:
            while left and pipe.poll(max(0.0, deadline - time.time())):
                row = pipe.recv()
                left.pop(0)
                yield row
        except (EOFError, OSError):
            process.join()
            died = f"its process died, exit code {process.exitcode}"
            yield {"kind": "step", "cell": title(left.pop(0)), "failed": died}
        else:
            return
        finally:
            process.kill()
            process.join()


def title(cell: Cell) -> str:
    """What tells a cell from the others of its plan."""
    size = f"{cell.model.input_size}x{cell.model.input_size}"
    return f"{cell.name} {size} width {cell.model.width} batch {cell.batch} {cell.precision} {cell.mode} {cell.form}"


def measure_all(pipe: Connection, cells: list[Cell]) -> None:
    """Measure one cell after the other; one that fails, or that needs CUDA where there is none, says so."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for cell in cells:
        row: Row = {"kind": "step", "cell": title(cell)}
        if device.type != "cuda" and cell.mode != "eager":
            pipe.send(row | {"failed": f"{cell.mode} needs CUDA"})
            continue
        try:
            pipe.send(row | measure.measured(cell, device))
        except Exception as error:  # whatever a compiler or a driver raises is the result of this cell alone
            pipe.send(row | {"failed": f"{type(error).__name__}: {error}".partition("\n")[0]})


class Crew:
    """Processes that train side by side on one device."""

    def __init__(self, size: int, faces: Path, out: Path) -> None:
        self.size, self.faces, self.out = size, faces, out
        self.workers: list[Worker] = []
        self.owners: dict[Worker, Training] = {}  # who trains what

    def __enter__(self) -> "Crew":
        self.workers = [started(serve, self.faces, self.out) for _ in range(self.size)]
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.process.kill()
            worker.process.join()

    def work(self, tasks: list[Task], deadline: float) -> Iterator[tuple[Training, Row]]:
        """Rows of all tasks as they come; a task that fails ends with a row `failed`, and the others go on."""
        left = list(tasks)
        while time.time() < deadline + GRACE:
            self.hand_out(left)
            if not self.owners:
                yield from ((task, {"failed": "all processes died before its turn"}) for _, task, *_ in left)
                return
            ready = wait([worker.pipe for worker in self.owners], timeout=1.0)
            for worker in [worker for worker in self.owners if worker.pipe in ready]:
                task, row = self.owners[worker], self.answer(worker)
                if row is not None:
                    yield task, row

    def hand_out(self, left: list[Task]) -> None:
        """Give every free process the next of the tasks that are left."""
        for worker in self.workers:
            if left and worker not in self.owners and worker.process.is_alive():
                self.owners[worker] = left[0][1]
                with contextlib.suppress(OSError):  # a process that has died since is told of by its answer
                    worker.pipe.send(left.pop(0))

    def answer(self, worker: Worker) -> Row | None:
        """The next row of a process; None where its task is done."""
        try:
            row: Row | None = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            del self.owners[worker]
            return {"failed": f"its process died, exit code {worker.process.exitcode}"}
        if row is None:
            del self.owners[worker]
        return row


def serve(pipe: Connection, faces: Path, out: Path) -> None:
    """Carry out one task after the other; None tells the end of one."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = {split: own.to(device) for split, own in data.load(faces).items()}
    while True:
        what, task, epochs, deadline = pipe.recv()
        try:
            if what == "probe":
                pipe.send({"step_seconds": train.probe(task, here, device)})
            else:
                for row in train.Run(task, epochs, out, device).rows(here, deadline):
                    pipe.send(row)
        except (RuntimeError, ValueError, OSError, FloatingPointError) as error:
            pipe.send({"failed": f"{type(error).__name__}: {error}"})
        pipe.send(None)
