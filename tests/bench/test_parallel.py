"""Claims about bench/parallel.py: what it measures, not how fast anything is."""

from pathlib import Path

import pytest

from bench import parallel
from pipeline import params as parameters
from pipeline.params import Params

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"model.width": 16, "model.input_size": 16, "model.layers": 1, "model.pyramids": 1, "train.batch": 8}


@pytest.fixture
def params() -> Params:
    return parameters.load(ROOT / "params.yaml", SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("row", ["bp", "bp 2 threads", "bp_ddp", "nbp twice"])
def test_every_way_to_use_the_cores_gives_faces_per_second(params: Params, row: str) -> None:
    assert parallel.in_a_process(parallel.measured, params, row, 4)["faces_per_second"] > 0


@pytest.mark.slow
def test_workers_say_how_long_they_are_busy_and_what_they_hand_on(params: Params) -> None:
    found = parallel.in_a_process(parallel.measured, params, "nbp 2 workers", 4)
    assert found["faces_per_second"] > 0
    assert min(found["busy_ms"]) > 0
    assert found["sent_mib"][0] > found["sent_mib"][1] == 0


def test_busy_times_leave_the_warm_up_out() -> None:
    log = [
        {
            "worker": worker,
            "step": step,
            "begin": 10.0 * step,
            "end": 10.0 * step + (99 if step < 3 else 2),
            "sent": 2**20,
        }
        for step in range(5)
        for worker in (0, 1)
    ]
    assert parallel.busy(log, 2) == {"busy_ms": [2000, 2000], "sent_mib": [1, 1]}
