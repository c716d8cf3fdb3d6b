"""Units that learn on several Ray workers give the numbers of one, bit for bit, whatever happens to a worker."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from cfpn import checkpoint
from cfpn.faces import Augmentation, Faces
from cfpn.graph import Cuts
from cfpn.network import CFPN
from cfpn.recipe import Optimizer
from cfpn.schedule import Schedule
from cfpn.training import DivergedError, Method
from pipeline.params import Compute, Params, Training, Transport
from pipeline.process import InputError
from pipeline.runs import cluster, session, workers
from pipeline.runs.session import Session, advance, begin

RATES = Schedule(0.01, "one_cycle", first_unit_stops_at=0.65)
PARAMS = Params(
    profile="test",
    model=CFPN(input_size=48, width=16, layers=2, pyramids=1),
    train=Training(epochs=3, batch=16, average=0.9, augmentation=Augmentation(flip=True, shift=2)),
    methods={
        "nbp": Method(["block1", "block2", "block3"], schedule=RATES, vote=True),
        "bp": Method("network"),
        "balanced": Method("balanced:4", schedule=replace(RATES, update_every=2), vote=True),
    },
    compute=Compute(device="cpu"),
)

SOFT = {
    "label_smoothing": 0.1,
    "optimizer": Optimizer("sgd", 1e-4),
    "augmentation": Augmentation(flip=True, erasing=0.5),
    "precision": "bfloat16",
}


def faces(number: int, seed: int) -> Faces:
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 7
    pixels = torch.randint(0, 100, (number, 1, 48, 48), generator=random) + 20 * labels[:, None, None, None]
    return Faces(pixels.to(torch.uint8), labels, torch.arange(1, number + 1))


def parameters(workers: int, transport: Transport = "object_store", **changes: object) -> Params:
    return PARAMS.model_copy(update={"compute": Compute("cpu", workers=workers, transport=transport)} | changes)


def trained(
    workers: int, method: str = "nbp", epochs: int = 3, transport: Transport = "object_store", **changes: object
) -> Session:
    params = parameters(workers, transport, **changes)
    own = begin(params, params.methods[method], 0, faces(80, 1))
    go_on(own, params, method, epochs)
    return own


def go_on(own: Session, params: Params, method: str = "nbp", epochs: int = 3) -> None:
    for record in advance(own, params, params.methods[method], 0, faces(80, 1), faces(21, 2)):
        if record.complete and record.epoch == epochs:
            break


def assert_equal(one: Session, other: Session) -> None:
    assert one.history == other.history
    ours, theirs = checkpoint.tensors(one.state), checkpoint.tensors(other.state)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(torch.equal(one.best[name], other.best[name]) for name in one.best)


@pytest.fixture(scope="module")
def alone() -> Session:
    return trained(1)


@pytest.fixture
def connected() -> Iterator[None]:
    with cluster.connected(None, 4):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4, 9])  # there are four units, and places for four workers
def test_several_workers_give_the_bits_of_one(workers: int, alone: Session, connected: None) -> None:
    assert_equal(trained(workers), alone)


@pytest.mark.slow
def test_units_cut_inside_a_block_that_rest_give_the_bits_of_one(connected: None) -> None:
    assert_equal(trained(2, "balanced"), trained(1, "balanced"))


@pytest.mark.slow
@pytest.mark.parametrize("other", [{"class_weights": "balanced"}, SOFT], ids=["balanced", "soft"])
def test_another_recipe_gives_the_bits_of_one_worker(alone: Session, connected: None, other: dict[str, Any]) -> None:
    train = replace(PARAMS.train, epochs=1, **other)
    one = trained(1, train=train, epochs=1)
    assert_equal(trained(2, train=train, epochs=1), one)
    assert one.history[0]["train/loss"] != alone.history[0]["train/loss"]


@pytest.mark.slow
def test_features_in_bfloat16_reach_the_next_worker_bit_for_bit(connected: None) -> None:
    train = replace(PARAMS.train, precision="bfloat16", epochs=1)
    assert_equal(trained(2, train=train, epochs=1), trained(1, train=train, epochs=1))


@pytest.mark.slow
def test_a_run_begun_on_one_worker_goes_on_with_four(alone: Session, connected: None, tmp_path: Path) -> None:
    session.save(trained(1, epochs=1), tmp_path / "checkpoint")
    params = parameters(4)
    own = begin(params, params.methods["nbp"], 5, faces(80, 1))
    session.restore(own, tmp_path / "checkpoint")
    go_on(own, params)
    assert_equal(own, alone)


@pytest.mark.slow
def test_a_worker_killed_in_mid_epoch_changes_no_bit(
    alone: Session, connected: None, capfd: pytest.CaptureFixture[str]
) -> None:
    own = trained_although_a_worker_is_killed("object_store")
    assert "a worker died; the epoch begins again" in capfd.readouterr().err
    assert_equal(own, alone)
    steps = [(row["worker"], row["step"]) for row in own.log]
    assert len(steps) == len(set(steps)), "a step of the epoch that was cut off is told twice"


def trained_although_a_worker_is_killed(transport: Transport) -> Session:
    params, killed = parameters(2, transport), []
    own = begin(params, params.methods["nbp"], 0, faces(80, 1))
    for record in advance(own, params, params.methods["nbp"], 0, faces(80, 1), faces(21, 2)):
        if record.step == 7 and not record.complete and not killed:
            killed = worker_processes()
            os.kill(killed[-1], signal.SIGKILL)
    assert len(killed) == 2
    return own


def worker_processes() -> list[int]:
    """Process numbers of the segments' workers in the Ray that this process started, not in another on the machine."""
    own = psutil.Process().children(recursive=True)
    return sorted(child.pid for child in own if child.is_running() and "ray::Segment" in child.name())


@pytest.mark.slow
def test_a_unit_that_diverges_ends_the_run_with_unit_and_step(connected: None) -> None:
    diverge("object_store")


def diverge(transport: Transport) -> None:
    method = replace(PARAMS.methods["nbp"], schedule=Schedule(1e30))
    params = parameters(2, transport, methods={"nbp": method})
    own = begin(params, method, 0, faces(80, 1))
    with pytest.raises(DivergedError, match=r"^step \d+: the loss of unit block\S+ is (nan|inf)$"):
        go_on(own, params)


# Each in a process of its own: a thread of Ray's that watches direct transfers outlives the connection to Ray.
@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [
        "assert_equal(trained(2, transport='gloo'), trained(1))",
        "assert_equal(trained(4, transport='gloo'), trained(1))",
        "assert_equal(trained_although_a_worker_is_killed('gloo'), trained(1))",
        "diverge('gloo')",
    ],
)
def test_direct_transport_gives_the_bits_of_one_worker_and_bears_the_same_faults(check: str) -> None:
    script = f"from test_workers import *\ntorch.set_num_threads(1)\nwith cluster.connected(None, 4):\n    {check}"
    places = os.pathsep.join(map(str, (Path.cwd(), Path(__file__).parent)))
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": places}, timeout=300)
    assert done.returncode == 0


@pytest.mark.parametrize(("transport", "wanted"), [("nccl", "cuda"), ("gloo", "cpu")])
def test_a_transport_that_does_not_fit_the_device_is_refused(
    transport: Transport, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = parameters(2, transport)
    own = begin(params, params.methods["nbp"], 0, faces(80, 1))
    monkeypatch.setattr(session, "device", lambda compute: torch.device("cpu" if wanted == "cuda" else "cuda"))
    with pytest.raises(InputError, match=rf"compute\.transport: {transport} needs compute\.device {wanted}"):
        go_on(own, params)


@pytest.mark.slow
def test_more_workers_than_the_cluster_can_hold_are_refused(connected: None) -> None:
    params = parameters(3)
    wide = params.model_copy(update={"compute": Compute(device="cpu", threads=9, workers=3)})
    with pytest.raises(InputError, match=r"compute\.workers: 3 workers of 9 CPUs; the cluster has place for 0"):
        go_on(begin(wide, wide.methods["nbp"], 0, faces(80, 1)), wide)


@pytest.mark.parametrize("dropout", [nn.Dropout(0.5), nn.Dropout2d(0.1)])
def test_a_network_with_dropout_would_have_other_numbers_and_is_refused(dropout: nn.Module) -> None:
    with pytest.raises(InputError, match=r"compute\.workers: expected 1 for a network with dropout, which is at 1: "):
        workers.check_no_dropout(nn.Sequential(nn.Linear(2, 2), dropout))
    workers.check_no_dropout(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)))


@pytest.mark.parametrize("units", ["network", ["block1"]])
def test_a_method_whose_gradients_cross_units_learns_on_one_worker(units: Cuts) -> None:
    method = Method(units, "stop" if units == "network" else "pass")
    assert session.workers_of(parameters(4), method) == 1
    assert session.workers_of(parameters(4), Method(["block1"])) == 2


def span(worker: int, step: int, begin: float, end: float, sent: float = 0.0, peak: float = 0.0) -> dict[str, float]:
    return {"worker": worker, "step": step, "begin": begin, "end": end, "sent": sent, "peak": peak}


def test_the_timetable_has_what_each_worker_did_from_a_step_on() -> None:
    own = begin(PARAMS, PARAMS.methods["nbp"], 0, faces(80, 1))
    log = [span(0, 0, 90, 99, 2**30, 2**20), span(1, 0, 99, 109)]
    log += [span(0, 1, 100, 101, 2**20, 2**21), span(1, 1, 101, 104), span(0, 2, 101, 104, 2**21, 2**22)]
    log += [span(1, 2, 104, 105, 0, 2**20)]
    first, second = workers.timetable(own.state, log, skip=1)
    assert first["units"] + second["units"] == [unit.name for unit in own.state.network.units]
    assert (first["busy_ms"], first["sent_mib"], first["peak_mib"]) == (2000, 1.5, 4)
    assert (second["busy_ms"], second["sent_mib"], second["peak_mib"]) == (2000, 0, 1)
    assert (first["spans"], second["spans"]) == ([[1, 0, 1], [2, 1, 4]], [[1, 1, 4], [2, 4, 5]])


def test_the_timetable_is_of_the_workers_that_were_left() -> None:
    own = begin(PARAMS, PARAMS.methods["nbp"], 0, faces(80, 1))
    log = [span(worker, 0, 0, 5) for worker in (0, 1)] + [span(0, 1, 10, 12), span(0, 2, 20, 22)]
    (only,) = workers.timetable(own.state, log)
    assert only["units"] == [unit.name for unit in own.state.network.units]
    assert (only["busy_ms"], only["spans"]) == (2000, [[1, 0, 2], [2, 10, 12]])


def test_the_timetable_pictures_the_first_steps_alone() -> None:
    own = begin(PARAMS, PARAMS.methods["nbp"], 0, faces(80, 1))
    log = [span(worker, step, step, step + 1) for step in range(100) for worker in (0, 1, 2)]
    assert [len(worker["spans"]) for worker in workers.timetable(own.state, log)] == [workers.PICTURED] * 3
