"""Processes on one device: one that measures, several that train side by side."""

import multiprocessing
import os
import queue
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch

from bench.gpu import data, measure, train
from bench.gpu.plan import Cell, Training

GRACE = 20.0  # seconds in which a training may end the step it is in
Row = dict[str, Any]


def measurements(cells: list[Cell], deadline: float) -> Iterator[Row]:
    """A row per cell, from a process that ends at `deadline`."""
    answers: Queue[Row] = multiprocessing.get_context("spawn").Queue()
    process = multiprocessing.get_context("spawn").Process(target=measure_all, args=(cells, answers), daemon=True)
    process.start()
    yield from collected(answers, len(cells), [process], deadline)
    process.kill()
    process.join()


def collected(answers: "Queue[Any]", count: int, processes: list[Any], deadline: float) -> Iterator[Any]:
    """Answers as they come, `count` at most, until `deadline` or until all processes have ended."""
    while count and time.time() < deadline:
        try:
            yield answers.get(timeout=min(1.0, max(0.01, deadline - time.time())))
            count -= 1
        except queue.Empty:
            if not any(process.is_alive() for process in processes):
                return


def title(cell: Cell) -> str:
    """What tells a cell from the others of its plan."""
    size = f"{cell.model.input_size}x{cell.model.input_size}"
    return f"{cell.name} {size} width {cell.model.width} batch {cell.batch} {cell.precision} {cell.mode} {cell.form}"


def measure_all(cells: list[Cell], answers: "Queue[Row]") -> None:
    """Measure one cell after the other; one that fails, or that needs CUDA where there is none, says so."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for cell in cells:
        row: Row = {"kind": "step", "cell": title(cell)}
        if device.type != "cuda" and cell.mode != "eager":
            answers.put(row | {"failed": f"{cell.mode} needs CUDA"})
            continue
        try:
            answers.put(row | measure.measured(cell, device))
        except Exception as error:  # whatever a compiler or a driver raises is the result of this cell alone
            answers.put(row | {"failed": f"{type(error).__name__}: {error}".partition("\n")[0]})


class Crew:
    """Processes that train side by side on one device."""

    def __init__(self, size: int, faces: Path, out: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.size, self.tasks, self.answers = size, context.Queue(), context.Queue()
        arguments = (self.tasks, self.answers, faces, out)
        self.owners: dict[int | None, Training] = {}  # who trains what, by process
        self.processes = [context.Process(target=serve, args=arguments, daemon=True) for _ in range(size)]

    def __enter__(self) -> "Crew":
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def work(self, tasks: list[tuple[str, Training, int, float]], deadline: float) -> Iterator[tuple[Training, Row]]:
        """Rows of all tasks as they come; a task that fails ends with a row `failed`, and the others go on."""
        for task in tasks:
            self.tasks.put(task)
        open_tasks = len(tasks)
        while open_tasks and time.time() < deadline + GRACE:
            try:
                pid, task, row = self.answers.get(timeout=1.0)
            except queue.Empty:
                for process in self.processes:
                    if process.exitcode is not None and process.pid in self.owners:
                        open_tasks -= 1
                        yield (
                            self.owners.pop(process.pid),
                            {"failed": f"its process died, exit code {process.exitcode}"},
                        )
                if not any(process.is_alive() for process in self.processes):
                    return
                continue
            if row is None:
                open_tasks -= 1
                del self.owners[pid]
            elif row:
                yield task, row
            else:
                self.owners[pid] = task


def serve(tasks: "Queue[Any]", answers: "Queue[Any]", faces: Path, out: Path) -> None:
    """Take one task after the other; an empty row tells the begin of one, None its end."""
    torch.set_num_threads(1)
    pid = os.getpid()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = {split: own.to(device) for split, own in data.load(faces).items()}
    while True:
        what, task, epochs, deadline = tasks.get()
        answers.put((pid, task, {}))
        try:
            if what == "probe":
                answers.put((pid, task, {"step_seconds": train.probe(task, here, device)}))
            else:
                for row in train.Run(task, epochs, out, device).rows(here, deadline):
                    answers.put((pid, task, row))
        except (RuntimeError, ValueError, OSError, FloatingPointError) as error:
            answers.put((pid, task, {"failed": f"{type(error).__name__}: {error}"}))
        answers.put((pid, task, None))
