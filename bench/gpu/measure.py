"""Time and peak memory of training steps on one device."""

import statistics
import time
from collections.abc import Callable

import torch

from bench.gpu.plan import Cell
from cfpn import separable, training
from cfpn.recipe import Recipe
from cfpn.training import State
from pipeline.runs.session import first_state

WARM_UP, REPEATS, STEPS = 3, 5, 5
GENTLE = 1e-4  # learning rate at which no measured step diverges
MIB = 2**20


def measured(cell: Cell, device: torch.device) -> dict[str, object]:
    """Milliseconds of a step, and on CUDA its peak MiB beyond what stood before; raises RuntimeError where it fails."""
    own = separable.FORMS[device.type]
    if cell.form:
        separable.FORMS[device.type] = ((float("inf"), cell.form),)  # type: ignore[assignment]
    try:
        return of_step(cell, device)
    finally:
        separable.FORMS[device.type] = own


def of_step(cell: Cell, device: torch.device) -> dict[str, object]:
    """What `measured` says, with the form that is set."""
    torch.manual_seed(0)
    recipe = Recipe(batch=cell.batch, precision=cell.precision)  # type: ignore[arg-type]  # checked by Recipe
    state = first_state(cell.model, cell.method, recipe, 0, device)
    state.network.train()
    if cell.mode == "compiled":
        for node in (node for unit in state.network.units for node in unit.nodes):
            node.module.compile()
    step = stepping(cell, state, device)
    for _ in range(WARM_UP):
        step()
    peak = peak_mib(step) if device.type == "cuda" else None
    call = graphed(step) if cell.mode == "graph" else step
    times = [timed(call, device) for _ in range(REPEATS)]
    low, middle, high = statistics.quantiles(times, n=4)
    return {"step_ms": middle, "step_ms_low": low, "step_ms_high": high, "peak_mib": peak}


def stepping(cell: Cell, state: State, device: torch.device) -> Callable[[], object]:
    """A step on one fixed random batch, without any reading of losses."""
    size = cell.model.input_size
    images = torch.randn(cell.batch, cell.model.channels, size, size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(cell.batch, device=device) % cell.model.classes
    for learner in state.learners:
        for group in learner.own_optimizer.param_groups:
            group["capturable"] = cell.mode == "graph"
    rates = [GENTLE] * len(state.learners)
    return lambda: training.launch(state, cell.method, images, labels, rates)


def graphed(step: Callable[[], object]) -> Callable[[], object]:
    """The step as one CUDA graph, which the host starts with a single call."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def peak_mib(step: Callable[[], object]) -> float:
    """MiB that a step allocates at its peak beyond what was there before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Mean milliseconds of STEPS calls; on CUDA between two events."""
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(STEPS):
            call()
        return 1000 * (time.perf_counter() - begin) / STEPS
    begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin_event.record()
    for _ in range(STEPS):
        call()
    end_event.record()
    torch.cuda.synchronize()
    return float(begin_event.elapsed_time(end_event)) / STEPS
